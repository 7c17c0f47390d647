# SPDX-License-Identifier: Apache-2.0
"""One bounded GET, and a way to ask several places until one answers well.

Whoever answers may be hostile: sizes, times and the number of attempts are bounded,
redirects and compressed bodies are refused, and a peer that sends one byte at a time
runs into the deadline, in the middle of the headers too.
"""

from __future__ import annotations

import random
import ssl
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpcore
import httpx

from tightseal.collateral.transport import BoundedBackend, BoundedTransport
from tightseal.errors import Code, CollateralError, SettingsError

__all__ = ["Answer", "Asker", "FetchLimits", "check_base_url", "shown"]

T = TypeVar("T")

_OK: Final = 200
_ABSENT: Final = frozenset({400, 404, 461, 462})
"""Statuses that say this is not there: plain HTTP's, and the PCCS's own 461 and 462."""
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_MAX_HEADER_CHARS: Final = 32_768


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one question; all host settings, in seconds, bytes and counts.

    Attributes:
        connect_seconds: for one TCP or TLS handshake.
        read_seconds: for one read.
        attempt_seconds: for one GET from connect to last byte.
        total_seconds: for a question with all its attempts at all places; below the
            30 s that guests wait for a key.
        rounds: how often the places are gone through.
        backoff_seconds: before the second round; doubled each round, with jitter
            between half and all of it.
        backoff_max_seconds: longest pause.
        avoid_seconds: how long a place that failed is asked last.
        max_body_bytes: longest body.
    """

    connect_seconds: float = 3.0
    read_seconds: float = 5.0
    attempt_seconds: float = 8.0
    total_seconds: float = 20.0
    rounds: int = 3
    backoff_seconds: float = 0.25
    backoff_max_seconds: float = 4.0
    avoid_seconds: float = 30.0
    max_body_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200."""

    headers: httpx.Headers
    body: bytes

    def header(self, *names: str) -> str | None:
        """The first header present, bounded; ``None`` where there is none.

        Raises:
            CollateralError: ``collateral_too_large``.
        """
        value = next((self.headers[n] for n in names if n in self.headers), None)
        if value is not None and len(value) > _MAX_HEADER_CHARS:
            raise CollateralError(
                Code.COLLATERAL_TOO_LARGE, f"header {names[0]}: {len(value)} characters"
            )
        return value


class _GetError(Exception):
    """A GET that gave no usable answer; never leaves this module."""

    def __init__(
        self,
        text: str,
        *,
        final: bool = False,
        absent: bool = False,
        pause: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.final = final
        self.absent = absent
        self.pause = pause


class _Asked:
    """What came from which place so far."""

    def __init__(self) -> None:
        self.came: dict[str, str] = {}
        self.final: set[str] = set()
        self.absent: set[str] = set()

    def note(self, url: str, error: _GetError) -> None:
        self.came[url] = str(error)
        if error.final:
            self.final.add(url)
        if error.absent:
            self.absent.add(url)

    def error(self, urls: Sequence[str], what: str) -> CollateralError:
        code = Code.COLLATERAL_UNAVAILABLE
        if self.absent == set(urls):
            code = Code.COLLATERAL_NOT_FOUND
        texts = (f"{shown(url)}: {self.came.get(url, 'not asked')}" for url in urls)
        return CollateralError(code, f"{what}: {'; '.join(texts)}")


_TRANSPORT_ERRORS: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    OSError,
    UnicodeError,  # a host name that IDNA cannot take
)


def shown(url: str) -> str:
    """A URL as errors show it: scheme, host and path, never query or credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_base_url(url: str) -> str:
    """A service's address without a trailing slash.

    Raises:
        SettingsError: ``settings_invalid``, where it is not plain http or https, or has
            credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        valid = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and not parts.query
            and not parts.fragment
            and url.isascii()
            and url.isprintable()
        )
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError(
            Code.SETTINGS_INVALID,
            f"expected http(s)://host[:port][/path], got {url[:200]!r}",
        )
    return url.rstrip("/")


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    try:
        if ca_file is not None:
            context.load_verify_locations(cafile=str(ca_file))
    except (OSError, ValueError) as error:
        raise SettingsError(
            Code.SETTINGS_INVALID, f"CA file {ca_file}: {error}"
        ) from error
    return context


class Asker:
    """Asks places in order, in rounds with backoff, until one answers well.

    Args:
        limits: bounds.
        transport: another transport, for tests; then only httpx's own timeouts and
            the time between chunks are bounded.
        ca_file: PEM of the CA of a PCCS with a certificate of its own.
        sleep, jitter, monotonic: pauses, random numbers in [0, 1), a monotonic clock.

    Raises:
        SettingsError: ``settings_invalid``, where the CA file cannot be used.

    Safe for use by several threads.
    """

    def __init__(
        self,
        limits: FetchLimits | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        ca_file: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or FetchLimits()
        self._sleep = sleep
        self._jitter = jitter
        self._monotonic = monotonic
        self._backend = BoundedBackend(monotonic)
        if transport is None:
            transport = BoundedTransport(self._backend, _context(ca_file))
        self._client = httpx.Client(
            transport=transport,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "tightseal"},
            timeout=httpx.Timeout(
                self.limits.read_seconds,
                connect=self.limits.connect_seconds,
                pool=self.limits.attempt_seconds,
            ),
        )
        self._avoid: dict[str, float] = {}
        # A command drops its asker without a word; the sockets must not wait for it.
        self._closing = weakref.finalize(self, self._client.close)

    def close(self) -> None:
        """Close every connection."""
        self._closing()

    def ask(
        self,
        urls: Sequence[str],
        *,
        params: Mapping[str, str],
        read: Callable[[Answer], T],
        what: str,
        until: float | None = None,
    ) -> T:
        """The first answer that ``read`` accepts.

        Args:
            urls: the places, best first.
            params: the query.
            read: makes the value; its ``CollateralError`` counts as a bad answer.
            what: for the error text.
            until: latest end by the monotonic clock, where sooner than the limits say.

        Raises:
            CollateralError: ``collateral_unavailable``, with every place and what came;
                ``collateral_not_found`` where every place says it has no such thing.
        """
        latest = self._monotonic() + self.limits.total_seconds
        until = latest if until is None else min(latest, until)
        asked = _Asked()
        for number in range(self.limits.rounds):
            pause = 0.0
            for url in self._ordered(urls):
                if url in asked.final or self._monotonic() >= until:
                    continue
                try:
                    return self._try(url, params, read, until)
                except _GetError as error:
                    asked.note(url, error)
                    pause = max(pause, error.pause)
                    if not error.final:
                        avoided = self._monotonic() + self.limits.avoid_seconds
                        self._avoid[url] = avoided
            pause = max(pause, self._backoff(number))
            last = number + 1 == self.limits.rounds or asked.final == set(urls)
            if last or self._monotonic() + pause >= until:
                break
            self._sleep(pause)
        raise asked.error(urls, what)

    def _ordered(self, urls: Sequence[str]) -> list[str]:
        now = self._monotonic()
        return sorted(urls, key=lambda url: self._avoid.get(url, now) > now)

    def _backoff(self, number: int) -> float:
        longest = min(
            self.limits.backoff_seconds * (1 << number), self.limits.backoff_max_seconds
        )
        return longest * (0.5 + self._jitter() / 2)

    def _try(
        self,
        url: str,
        params: Mapping[str, str],
        read: Callable[[Answer], T],
        until: float,
    ) -> T:
        at = min(self._monotonic() + self.limits.attempt_seconds, until)
        self._backend.deadline.at = at
        try:
            answer = self._get(url, params, at)
        except _TRANSPORT_ERRORS as error:
            text = f"{type(error).__name__}: {error}" if str(error) else repr(error)
            raise _GetError(text[:200]) from error
        finally:
            self._backend.deadline.at = None
        try:
            return read(answer)
        except CollateralError as error:
            raise _GetError(f"{error.code.value}: {error.detail}"[:300]) from error

    def _get(self, url: str, params: Mapping[str, str], at: float) -> Answer:
        with self._client.stream("GET", url, params=dict(params)) as response:
            self._check_status(response)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > self.limits.max_body_bytes:
                    message = f"body of more than {self.limits.max_body_bytes} bytes"
                    raise _GetError(message, final=True)
                if self._monotonic() >= at:
                    message = f"not complete within time, {len(body)} bytes came"
                    raise _GetError(message)
            return Answer(response.headers, bytes(body))

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_redirect:
            message = f"HTTP {status}: redirects are not followed"
            raise _GetError(message, final=True)
        if status != _OK:
            passing = status == _TOO_MANY or status >= _SERVER_ERROR
            raise _GetError(
                f"HTTP {status}",
                final=not passing,
                absent=status in _ABSENT,
                pause=_retry_after(response),
            )
        if response.headers.get("content-encoding", "identity") != "identity":
            message = "compressed body, which was not asked for"
            raise _GetError(message, final=True)


def _retry_after(response: httpx.Response) -> float:
    """Seconds of ``Retry-After``; 0 where absent or a date."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0

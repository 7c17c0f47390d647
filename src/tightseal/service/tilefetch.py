# SPDX-License-Identifier: Apache-2.0
"""Tiles over HTTP: C2SP tlog-tiles, from any server that has a log.

Nothing of an answer is believed here; whoever reads checks it against the log's key. A
server cannot make a reader take more than a tile's bytes at once, wait for ever, follow
it elsewhere, or unpack anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import httpx

from tightseal.audit.merkle import HASH_BYTES
from tightseal.audit.note import MAX_NOTE_BYTES
from tightseal.audit.tiles import (
    CHECKPOINT_PATH,
    ENTRIES,
    MAX_BUNDLE_BYTES,
    Tile,
    tiles_of,
)
from tightseal.errors import Code, ServiceError
from tightseal.guest.attested_tls import unattested
from tightseal.guest.http import provider_url, retry_after
from tightseal.model.tls import TlsTrust

__all__ = ["MAX_READ_SECONDS", "FetchBounds", "HttpTileSource"]

MAX_READ_SECONDS: Final = 86_400
"""Longest time that the reading of one log may be given, in seconds."""

_OK: Final = 200
_GONE: Final = frozenset({404, 410})
_LATER: Final = frozenset({429, 502, 503, 504})
_TIMEOUT: Final = httpx.Timeout(connect=10.0, read=30.0, write=10.0, pool=10.0)


@dataclass(frozen=True, slots=True)
class FetchBounds:
    """Bounds of the reading of one log.

    Attributes:
        seconds: for all of it.
        answer_seconds: for one answer, to its last byte.
        answers: most answers.
        attempts: tries for one answer, where it is late or put off.
        first_delay: seconds before the second try; doubles from there.
        max_wait: longest wait between two tries that a server may ask for, in seconds.
    """

    seconds: float = 3600.0
    answer_seconds: float = 60.0
    answers: int = 1 << 24
    attempts: int = 4
    first_delay: float = 0.2
    max_wait: float = 10.0


class HttpTileSource:
    """A ``tiles.TileSource`` below one base address. A context manager, for one thread.

    Args:
        base: address of the log: the paths of C2SP tlog-tiles are below it.
        tls: how a certificate is judged; the log's key protects what is read anyway.
        bounds: of all that is read.
        monotonic, sleep: seconds.

    Raises:
        SettingsError: ``settings_invalid``, where the address is none.
    """

    def __init__(
        self,
        base: str,
        *,
        tls: TlsTrust = TlsTrust.PUBLIC_CA,
        bounds: FetchBounds | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base = str(provider_url(base)).rstrip("/")
        self._bounds = bounds or FetchBounds()
        self._monotonic = monotonic
        self._sleep = sleep
        self._end = monotonic() + self._bounds.seconds
        self._answers = 0
        self._last: tuple[str, bytes] = ("", b"")
        self._http = httpx.Client(
            timeout=_TIMEOUT,
            # A compressed answer could unpack to any size.
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            # Loading all CAs takes longer than the rest.
            verify=unattested(tls) if self._base.startswith("https:") else False,
        )

    def __str__(self) -> str:
        return self._base

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def read(self, path: str) -> bytes | None:
        """As of ``TileSource``.

        Raises:
            ServiceError: ``log_unreachable``, where no server answers in time, or with
                something else than a tile; ``log_tampered``, where it is too long.
        """
        # A whole reading takes each bundle twice in a row: for itself, and compared.
        if path == self._last[0] and path != CHECKPOINT_PATH:
            return self._last[1]
        data = self._patiently(path)
        if data is not None:
            self._last = path, data
        return data

    def paths(self, size: int) -> Iterator[str]:
        """As of ``TileSource``: what the tree must have."""
        return (tile.path for tile in tiles_of(size))

    def _patiently(self, path: str) -> bytes | None:
        bounds = self._bounds
        for attempt in range(bounds.attempts):
            delay = bounds.first_delay * 2**attempt
            try:
                status, data, asked = self._once(path)
            except httpx.HTTPError as e:
                failed = f"{type(e).__name__}: {e}"
            else:
                if status == _OK:
                    return data
                if status in _GONE:
                    return None
                failed = f"status {status}"
                if status not in _LATER:
                    break
                delay = max(delay, asked)
                if delay > bounds.max_wait:
                    failed += f", to be asked again in {delay:g} s"
                    break
            if attempt + 1 < bounds.attempts:
                self._sleep(min(delay, max(0.0, self._end - self._monotonic())))
        raise self._unreachable(path, failed)

    def _once(self, path: str) -> tuple[int, bytes, float]:
        """Status, body, and the seconds after which to ask again."""
        self._answers += 1
        if self._answers > self._bounds.answers:
            raise self._unreachable(path, f"over {self._bounds.answers} answers")
        start = self._monotonic()
        end = min(self._end, start + self._bounds.answer_seconds)
        most = _most_bytes(path)
        body = bytearray()
        self._in_time(path, start, end)
        with self._http.stream("GET", f"{self._base}/{path}") as answer:
            if answer.status_code != _OK:
                return answer.status_code, b"", float(retry_after(answer) or 0)
            coding = answer.headers.get("content-encoding", "identity")
            if coding.lower() != "identity":
                raise self._unreachable(path, f"content encoding {coding!r}")
            for part in answer.iter_raw():
                body += part
                if len(body) > most:
                    detail = f"{self._base}/{path}: longer than {most} bytes"
                    raise ServiceError(Code.LOG_TAMPERED, detail)
                self._in_time(path, start, end)
        return _OK, bytes(body), 0.0

    def _in_time(self, path: str, start: float, end: float) -> None:
        now = self._monotonic()
        if now >= end:
            whole = now >= self._end
            what = f"log read in {self._bounds.seconds:g} s" if whole else "answer"
            detail = f"no whole {what}; this one began {now - start:.0f} s ago"
            raise self._unreachable(path, detail)

    def _unreachable(self, path: str, why: str) -> ServiceError:
        return ServiceError(Code.LOG_UNREACHABLE, f"{self._base}/{path}: {why}")


def _most_bytes(path: str) -> int:
    """The longest answer that can be right."""
    if path == CHECKPOINT_PATH:
        return MAX_NOTE_BYTES
    tile = Tile.parse(path)
    return MAX_BUNDLE_BYTES if tile.level == ENTRIES else tile.width * HASH_BYTES

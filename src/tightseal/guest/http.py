# SPDX-License-Identifier: Apache-2.0
"""What the sync and the async client share: bounds, retries, and reading answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tightseal.errors import (
    CODES,
    Code,
    PlatformError,
    ProviderError,
    RequestError,
    ServiceError,
    SettingsError,
    TightsealError,
)
from tightseal.model.ports import EvidenceSource
from tightseal.model.wire import (
    CHALLENGE_PATH,
    KEYS_PATH,
    MAX_CHALLENGE_RESPONSE_BYTES,
    MAX_KEYS_RESPONSE_BYTES,
    MAX_PROBLEM_BYTES,
    MAX_PUBLIC_KEY_RESPONSE_BYTES,
    PROBLEM_CONTENT_TYPE,
    PUBLIC_KEY_PATH,
    Problem,
    decode_json,
)

__all__ = [
    "HEADERS",
    "LIMITS",
    "Answer",
    "Bounds",
    "RefusedError",
    "about",
    "judge",
    "judge_by",
    "max_bytes",
    "platform_of",
    "provider_url",
    "request_id",
    "retry_after",
    "tls_key_hash",
    "unreachable",
    "wait_before",
    "worth_repeating",
]

HEADERS: Final = {
    "content-type": "application/json",
    "accept": "application/json, application/problem+json",
    # A compressed answer could unpack to any size.
    "accept-encoding": "identity",
}
LIMITS: Final = httpx.Limits(max_connections=4, max_keepalive_connections=2)

_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_OK: Final = 200
_SERVER_ERROR: Final = 500
_MAX_BYTES: Final = {
    CHALLENGE_PATH: MAX_CHALLENGE_RESPONSE_BYTES,
    KEYS_PATH: MAX_KEYS_RESPONSE_BYTES,
    PUBLIC_KEY_PATH: MAX_PUBLIC_KEY_RESPONSE_BYTES,
}
_BUSY: Final = frozenset(
    {
        Code.OVERLOADED,
        Code.RATE_LIMITED,
        Code.LOG_NOT_ANCHORED,
        Code.LOG_NOT_WITNESSED,
    }
)
"""Refusals that pass by themselves."""

_MAX_RETRY_DIGITS: Final = 6

_FORM_CODE: Final = {
    CHALLENGE_PATH: Code.CHALLENGE_INVALID,
    KEYS_PATH: Code.RESPONSE_INVALID,
    PUBLIC_KEY_PATH: Code.RESPONSE_INVALID,
}


class RefusedError(ProviderError):
    """The provider answered with a problem document.

    Attributes:
        refusal: the provider's code, or ``None`` where it is not one of ours.
        status: the HTTP status.
    """

    refusal: Code | None = None
    status: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one request and its repetitions; seconds.

    Attributes:
        connect: to connect, TLS included.
        read: between two pieces of the answer.
        write: between two pieces of the request.
        total: one request, from the first byte to the last.
        attempts: tries in all; a repeated request is the same bytes.
        first_delay: before the second try; doubles from there.
        max_wait: longest wait between two tries that a provider may ask for. It is not
            believed more: whoever stands in between could hold a workload up for ever.
    """

    connect: float = 5.0
    read: float = 30.0
    write: float = 10.0
    total: float = 45.0
    attempts: int = 3
    first_delay: float = 0.2
    max_wait: float = 10.0

    def timeout(self) -> httpx.Timeout:
        """As httpx takes it."""
        return httpx.Timeout(
            connect=self.connect, read=self.read, write=self.write, pool=self.connect
        )

    def delays(self) -> tuple[float, ...]:
        """Waits before the second and every further try."""
        return tuple(self.first_delay * 2**n for n in range(self.attempts - 1))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whole.

    Attributes:
        status: HTTP status.
        content_type: without parameters, lower case.
        body: at most the bound of its path.
        tls_key_hash: SHA-256 of the SPKI of the TLS key of the connection, if any.
        retry_after: seconds, by the header of this name; ``None`` where there is none.
        request_id: names the request in the provider's log; ``None`` where the
            provider, or somebody on the way, gave none of the documented form.
    """

    status: int
    content_type: str
    body: bytes
    tls_key_hash: bytes | None
    retry_after: int | None = None
    request_id: str | None = None


def provider_url(text: str) -> httpx.URL:
    """Check the address of a provider: ``http`` or ``https``, host, no query.

    Plain HTTP is safe here: the exchange is signed, and keys travel sealed.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    detail = f"provider address {text!r}: expected http://host:port or https://…"
    try:
        parts = urlsplit(text)
        url = httpx.URL(text.rstrip("/"))
    except (ValueError, httpx.InvalidURL, UnicodeError) as e:
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    known = parts.scheme in ("http", "https") and parts.hostname
    if not known or parts.query or parts.fragment or parts.username:
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return url


def platform_of(source: EvidenceSource | None) -> EvidenceSource:
    """The source of a client that is about to make evidence.

    Raises:
        PlatformError: ``platform_unsupported``, where the client was given none.
    """
    if source is None:
        detail = "this client has no platform, so it can ask for public halves only"
        raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
    return source


def max_bytes(path: str) -> int:
    """Longest answer of a path that is read."""
    return _MAX_BYTES[path]


def judge(path: str, answer: Answer) -> Answer:
    """Pass an answer of the right form on; turn everything else into an error.

    Raises:
        RefusedError: ``provider_refused``, for a problem document.
        ProviderError: ``provider_unreachable`` for a server error of somebody else,
            such as a proxy; ``challenge_invalid`` or ``response_invalid`` otherwise.
    """
    return judge_by(path, answer, malformed=_FORM_CODE[path])


def judge_by(path: str, answer: Answer, *, malformed: Code) -> Answer:
    """The same for any path.

    Args:
        path: that was asked.
        answer: whole.
        malformed: the code of an answer that has not the form.

    Raises:
        ProviderError: as :func:`judge`.
    """
    if answer.status == _OK and answer.content_type == "application/json":
        return answer
    with about(answer):
        raise _not_granted(path, answer, malformed)


@contextmanager
def about(answer: Answer) -> Iterator[None]:
    """Let errors inside say which request of the provider's log they are about."""
    try:
        yield
    except TightsealError as e:
        e.request_id = answer.request_id or e.request_id
        raise


def _not_granted(path: str, answer: Answer, malformed: Code) -> ProviderError:
    if answer.content_type == PROBLEM_CONTENT_TYPE:
        return _refused(path, answer, malformed)
    detail = f"{path}: status {answer.status}, content type {answer.content_type!r}"
    if answer.status >= _SERVER_ERROR:
        return ProviderError(Code.PROVIDER_UNREACHABLE, detail)
    return ProviderError(malformed, detail)


def _refused(path: str, answer: Answer, malformed: Code) -> ProviderError:
    try:
        problem = decode_json(answer.body, Problem, max_bytes=MAX_PROBLEM_BYTES)
    except RequestError as e:
        return ProviderError(malformed, f"{path}: problem: {e.detail}")
    instance = f" ({problem.instance})" if problem.instance else ""
    known = Code(problem.code) if problem.code in set(Code) else None
    # Our own sentence for a code we know: the provider's may say anything.
    title = CODES[known].public if known is not None else problem.title
    detail = f"{path}: {problem.code}: {title}{instance}"
    error = RefusedError(Code.PROVIDER_REFUSED, detail)
    error.refusal = known
    error.status = answer.status
    error.retry_after = answer.retry_after
    return error


def worth_repeating(error: ServiceError) -> bool:
    """Whether the same bytes may get another answer in a moment."""
    if isinstance(error, RefusedError):
        return error.refusal in _BUSY
    return error.code is Code.PROVIDER_UNREACHABLE


def wait_before(error: ServiceError, *, delay: float, bounds: Bounds) -> float:
    """Seconds to wait before the same bytes are sent again.

    Args:
        error: of the last try, worth repeating.
        delay: what the bounds say for this try.
        bounds: the most that is waited.

    Raises:
        ServiceError: ``error``, where the provider asks for a longer wait than the
            bounds allow: to come back earlier would be refused again.
    """
    asked = error.retry_after
    if asked is None:
        return delay
    if asked > bounds.max_wait:
        raise error
    return max(delay, asked)


def request_id(response: httpx.Response) -> str | None:
    """The provider's name for this request, where it has the documented form.

    It ends up in logs and terminals, and whoever is on the way can change it.
    """
    given: str = response.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else None


def retry_after(response: httpx.Response) -> int | None:
    """The header ``Retry-After`` in seconds; a date, or anything else, is ignored."""
    text: str = response.headers.get("retry-after", "")
    plain = text.isascii() and text.isdigit() and len(text) <= _MAX_RETRY_DIGITS
    return int(text) if plain else None


def unreachable(path: str, error: Exception) -> ProviderError:
    """The provider could not be reached, or did not answer whole and in time."""
    detail = f"{path}: {type(error).__name__}: {error}"
    return ProviderError(Code.PROVIDER_UNREACHABLE, detail)


def too_large(path: str) -> ProviderError:
    """The answer is longer than the bound of its path."""
    detail = f"{path}: the answer is longer than {max_bytes(path)} bytes"
    return ProviderError(_FORM_CODE[path], detail)


def content_type(response: httpx.Response) -> str:
    """The media type, without parameters."""
    header: str = response.headers.get("content-type", "")
    return header.partition(";")[0].strip().lower()


def tls_key_hash(response: httpx.Response) -> bytes | None:
    """SHA-256 of the SPKI of the peer's TLS key; ``None`` without TLS."""
    stream: Any = response.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    # By position: the socket of the blocking client takes no keyword.
    certificate = tls.getpeercert(True) if tls is not None else None
    if certificate is None:
        return None
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError:
        return None
    return hashlib.sha256(spki).digest()

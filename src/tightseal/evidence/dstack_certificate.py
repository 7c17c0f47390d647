# SPDX-License-Identifier: Apache-2.0
"""What dstack writes into certificates (``ra-tls``): a quote, and an event log.

Each extension holds a DER OCTET STRING. The versioned attestation (``.8``) is preferred
to quote (``.1``) and event log (``.2``), as dstack itself does: version 0 is SCALE,
version 1 MessagePack. The log in a certificate is stripped to what extends RTMR3, and
some digests of the boot.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.dstack_scale import V0, decode_v0
from tightseal.model import der
from tightseal.model.der import DerError

__all__ = ["DSTACK_OIDS", "MAX_LOG_BYTES", "dstack_evidence"]

_ARC: Final = "1.3.6.1.4.1.62397.1."
QUOTE_OID: Final = f"{_ARC}1"
LOG_OID: Final = f"{_ARC}2"
ATTESTATION_OID: Final = f"{_ARC}8"

DSTACK_OIDS: Final = frozenset({QUOTE_OID, ATTESTATION_OID})
"""Extensions that hold evidence; the others say what a CA says."""

MAX_LOG_BYTES: Final = 16 * 1024
"""Longest event log behind gzip (dstack's own bound)."""

MAX_QUOTE_BYTES: Final = 1 << 16
MAX_EVENTS: Final = 1024
_GZIP_PREFIX: Final = b"ELGZv1"
_GZIP_WINDOW: Final = 31
"""``zlib``: the gzip form alone, largest window."""

_T = TypeVar("_T")

_V1: Final = 1

_Octet: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
_Bytes: TypeAlias = bytes | Annotated[list[_Octet], Meta(max_length=MAX_QUOTE_BYTES)]
"""serde writes ``Vec<u8>`` as an array of integers, or as bytes where told to."""


class _Event(msgspec.Struct, frozen=True):
    imr: Annotated[int, Meta(ge=0, le=3)]
    event_type: Annotated[int, Meta(ge=0, lt=1 << 32)]
    event: Annotated[str, Meta(max_length=256)]
    event_payload: _Bytes
    digest: _Bytes = b""
    version: Annotated[int, Meta(ge=1, le=2)] = 1


class _Tdx(msgspec.Struct, frozen=True):
    quote: _Bytes
    event_log: Annotated[list[_Event], Meta(max_length=MAX_EVENTS)]


class _Snp(msgspec.Struct, frozen=True):
    report: _Bytes


class _Platform(msgspec.Struct, frozen=True):
    kind: Annotated[str, Meta(max_length=32)]
    data: msgspec.Raw


class _Attestation(msgspec.Struct, frozen=True):
    version: int
    platform: _Platform
    stack: msgspec.Raw


def dstack_evidence(extensions: Mapping[str, bytes]) -> tuple[bytes, bytes | None]:
    """The quote or report of a certificate of dstack, and the event log as JSON.

    Args:
        extensions: of a certificate; bounded by its size.

    Raises:
        EvidenceError: ``certificate_malformed``; ``evidence_kind_unsupported``, for a
            platform or version that is not read; ``event_log_too_large`` or
            ``event_log_malformed``.
    """
    if ATTESTATION_OID in extensions:
        return _attestation(_content(extensions, ATTESTATION_OID))
    quote = _content(extensions, QUOTE_OID)
    if LOG_OID not in extensions:
        return quote, None
    return quote, _unpacked(_content(extensions, LOG_OID))


def _content(extensions: Mapping[str, bytes], name: str) -> bytes:
    try:
        return der.single(extensions[name], der.OCTET_STRING)
    except DerError as e:
        raise _malformed(f"{name}: {e}") from e


def _unpacked(log: bytes) -> bytes:
    if not log.startswith(_GZIP_PREFIX):
        return log
    stream = zlib.decompressobj(_GZIP_WINDOW)
    try:
        text = stream.decompress(log[len(_GZIP_PREFIX) :], MAX_LOG_BYTES + 1)
    except zlib.error as e:
        detail = "certificate: event log is no gzip"
        raise EvidenceError(Code.EVENT_LOG_MALFORMED, detail) from e
    if len(text) > MAX_LOG_BYTES:
        detail = f"certificate: event log of over {MAX_LOG_BYTES} bytes unpacked"
        raise EvidenceError(Code.EVENT_LOG_TOO_LARGE, detail)
    if not stream.eof or stream.unused_data:
        detail = "certificate: event log is cut short, or bytes follow it"
        raise EvidenceError(Code.EVENT_LOG_MALFORMED, detail)
    return text


def _attestation(data: bytes) -> tuple[bytes, bytes | None]:
    if data[:1] == bytes([V0]):
        evidence, rows = decode_v0(data)
        return evidence, None if rows is None else json.dumps(rows).encode()
    whole = _decode(data, _Attestation)
    if whole.version != _V1:
        raise _unsupported(f"attestation of version {whole.version}")
    # The rest of the stack is dstack's own word; the quote says it again, or not.
    _skip(whole.stack)
    kind = whole.platform.kind
    if kind in ("tdx", "gcp-tdx"):
        tdx = _decode(bytes(whole.platform.data), _Tdx)
        return _raw(tdx.quote), _log(tdx.event_log)
    if kind == "sev-snp":
        return _raw(_decode(bytes(whole.platform.data), _Snp).report), None
    raise _unsupported(f"attestation of {kind!r}")


def _decode(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise _malformed(f"attestation: {e}") from e


def _skip(raw: msgspec.Raw) -> None:
    _decode(bytes(raw), dict[str, msgspec.Raw])


def _raw(value: bytes | list[int]) -> bytes:
    return bytes(value)


def _log(events: list[_Event]) -> bytes:
    """The events in the JSON form that dstack's own logs have."""
    rows = [
        {
            "imr": event.imr,
            "event_type": event.event_type,
            "digest": _raw(event.digest).hex(),
            "event": event.event,
            "event_payload": _raw(event.event_payload).hex(),
            "version": event.version,
        }
        for event in events
    ]
    return json.dumps(rows).encode()


def _malformed(why: str) -> EvidenceError:
    return EvidenceError(Code.CERTIFICATE_MALFORMED, f"dstack certificate: {why}")


def _unsupported(why: str) -> EvidenceError:
    return EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, f"dstack certificate: {why}")

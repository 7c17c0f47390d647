# SPDX-License-Identifier: Apache-2.0
"""dstack's attestation of version 0: SCALE, the codec of Substrate, read strictly.

Layout (dstack ``dstack-attest``), after two variant bytes, version and platform: for a
TD the quote and its events, for an SNP guest the report, its certificates and a text;
then runtime events, 64 bytes of report data, and a text of settings. Vectors and texts
begin with a compact length. Of all that, only quote or report and the TD's events are
handed on; the rest is read to see that nothing follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tightseal.errors import Code, EvidenceError

__all__ = ["V0", "decode_v0"]

V0: Final = 0
"""First byte of an attestation of version 0."""

MAX_ITEMS: Final = 1024
"""Most events or certificates."""

_TDX: Final = 0
_SNP: Final = 3
_REPORT_DATA_BYTES: Final = 64
_COMPACT_BYTES: Final = {0: 1, 1: 2, 2: 4}
"""Bytes of a compact integer by its two lowest bits; more would be over 2^30."""


@dataclass(slots=True)
class _Scale:
    """Reads values one after another."""

    data: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _malformed("cut short")
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def compact(self) -> int:
        start = self.at
        mode = self.take(1)[0] & 3
        size = _COMPACT_BYTES.get(mode)
        if size is None:
            raise _malformed("a length of over four bytes")
        self.at = start
        value = int.from_bytes(self.take(size), "little") >> 2
        if mode and value < 1 << (8 * size // 2 - 2):
            raise _malformed("a length that is not the shortest")
        return value

    def count(self) -> int:
        found = self.compact()
        if found > MAX_ITEMS:
            raise _malformed(f"{found} items, at most {MAX_ITEMS}")
        return found

    def octets(self) -> bytes:
        return self.take(self.compact())

    def text(self) -> str:
        try:
            return self.octets().decode("utf-8", "strict")
        except UnicodeDecodeError as e:
            raise _malformed("text is not UTF-8") from e


def decode_v0(data: bytes) -> tuple[bytes, list[dict[str, Any]] | None]:
    """The quote with the rows of its event log, or the report with ``None``.

    Rows have the names of dstack's JSON, bytes in hex.

    Raises:
        EvidenceError: ``certificate_malformed``; ``evidence_kind_unsupported``, for
            another platform.
    """
    scale = _Scale(data)
    if scale.take(1)[0] != V0:
        raise _malformed("another version")
    platform = scale.take(1)[0]
    evidence = scale.octets() if platform in (_TDX, _SNP) else b""
    rows: list[dict[str, Any]] | None = None
    if platform == _TDX:
        rows = [_event(scale) for _ in range(scale.count())]
    elif platform == _SNP:
        for _ in range(scale.count()):
            scale.octets()
        scale.text()
    else:
        detail = f"dstack certificate: attestation of the platform {platform}"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    for _ in range(scale.count()):
        scale.text()
        scale.octets()
    scale.take(_REPORT_DATA_BYTES)
    scale.text()
    if scale.at != len(data):
        raise _malformed(f"{len(data) - scale.at} bytes after its end")
    return evidence, rows


def _event(scale: _Scale) -> dict[str, Any]:
    return {
        "imr": scale.u32(),
        "event_type": scale.u32(),
        "digest": scale.octets().hex(),
        "event": scale.text(),
        "event_payload": scale.octets().hex(),
    }


def _malformed(why: str) -> EvidenceError:
    detail = f"dstack certificate: attestation of version 0: {why}"
    return EvidenceError(Code.CERTIFICATE_MALFORMED, detail)

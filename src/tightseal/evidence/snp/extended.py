# SPDX-License-Identifier: Apache-2.0
"""The certificate table that an extended report carries: GUID, offset, length.

Guest-Hypervisor Communication Block Standardization (56421), SNP_GUEST_REQUEST with
certificates. The host fills the table, so nothing in it is trusted: a certificate
counts where it chains to a pinned root, and a CRL from here never counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tightseal.errors import Code, EvidenceError

__all__ = ["MAX_TABLE_BYTES", "CertificateTable", "parse_table"]

MAX_TABLE_BYTES: Final = 65536
"""Largest table read; hosts fill at most four or five pages."""

MAX_ENTRIES: Final = 16
"""Most entries read; AMD defines six kinds."""

VCEK_GUID: Final = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK_GUID: Final = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK_GUID: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK_GUID: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")

CRL_GUID: Final = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")

_KNOWN: Final = (VCEK_GUID, VLEK_GUID, ASK_GUID, ARK_GUID, CRL_GUID)
_SWAPPED: Final = {UUID(bytes=guid.bytes_le): guid for guid in _KNOWN}
"""Some host tools write GUIDs as EFI does, with the first three fields swapped."""

_GUID_BYTES: Final = 16
_ENTRY_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """The certificates of a table, DER as they stand; ``None`` where one is missing.

    Attributes:
        vcek, vlek: certificates of signing keys.
        intermediate: ASK or ASVK, which share one GUID.
        root: the ARK.
    """

    vcek: bytes | None = None
    vlek: bytes | None = None
    intermediate: bytes | None = None
    root: bytes | None = None


def parse_table(data: bytes) -> CertificateTable:
    """Read a certificate table strictly.

    Every GUID at most once, every certificate inside the table and behind its header,
    no two overlapping, and nothing but zeros between and behind them: a table has no
    place to hide bytes in. GUIDs without meaning here, CRLs among them, are ignored.

    Raises:
        EvidenceError: ``snp_certificate_table_malformed``.
    """
    if len(data) > MAX_TABLE_BYTES:
        raise _malformed(f"{len(data)} bytes, at most {MAX_TABLE_BYTES}")
    entries, header_end = _entries(data)
    found: dict[UUID, bytes] = {}
    covered = header_end
    for offset, length, guid in sorted((o, n, g) for g, o, n in entries):
        if offset < covered:
            raise _malformed(f"{guid} overlaps the header or another certificate")
        if offset + length > len(data):
            raise _malformed(f"{guid} leads outside")
        if any(data[covered:offset]):
            raise _malformed(f"bytes before {guid} that belong to nothing")
        if guid in found:
            raise _malformed(f"{guid} twice")
        found[guid] = data[offset : offset + length]
        covered = offset + length
    if any(data[covered:]):
        raise _malformed("bytes behind the last certificate")
    return CertificateTable(
        vcek=found.get(VCEK_GUID),
        vlek=found.get(VLEK_GUID),
        intermediate=found.get(ASK_GUID),
        root=found.get(ARK_GUID),
    )


def _entries(data: bytes) -> tuple[list[tuple[UUID, int, int]], int]:
    entries: list[tuple[UUID, int, int]] = []
    at = 0
    while True:
        entry = data[at : at + _ENTRY_BYTES]
        if len(entry) < _ENTRY_BYTES:
            raise _malformed("the table does not end")
        at += _ENTRY_BYTES
        if not any(entry):
            return entries, at
        if len(entries) == MAX_ENTRIES:
            raise _malformed(f"more than {MAX_ENTRIES} entries")
        guid = UUID(bytes=entry[:_GUID_BYTES])
        guid = _SWAPPED.get(guid, guid)
        offset = int.from_bytes(entry[16:20], "little")
        length = int.from_bytes(entry[20:24], "little")
        if length == 0 or guid.int == 0:
            raise _malformed(f"entry {len(entries)} is empty")
        entries.append((guid, offset, length))


def _malformed(detail: str) -> EvidenceError:
    code = Code.SNP_CERTIFICATE_TABLE_MALFORMED
    return EvidenceError(code, f"certificate table: {detail}")

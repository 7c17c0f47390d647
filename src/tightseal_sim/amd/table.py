# SPDX-License-Identifier: Apache-2.0
"""What hosts wrap around a report: the certificate table, and Azure's blob."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tightseal.model.collateral import SnpCertificates

__all__ = ["certificate_table", "encode_table", "hcl_blob"]

VCEK: Final = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK: Final = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")

_ENTRY_BYTES: Final = 24
_PAGE_BYTES: Final = 4096
_HCL_BYTES: Final = 2600
_HCL_HEADER_BYTES: Final = 32
_RUNTIME_HEADER_BYTES: Final = 20


def certificate_table(certificates: SnpCertificates, *, vlek: bool) -> bytes:
    """The table of an extended report, padded to whole pages."""
    entries = [
        (VLEK if vlek else VCEK, certificates.signer),
        (ASK, certificates.intermediate),
    ]
    if certificates.root is not None:
        entries.append((ARK, certificates.root))
    return encode_table(entries)


def encode_table(entries: Sequence[tuple[UUID, bytes]]) -> bytes:
    """A table of these entries, one behind the other, padded to whole pages."""
    at = (len(entries) + 1) * _ENTRY_BYTES
    header = b""
    for guid, data in entries:
        header += guid.bytes + struct.pack("<II", at, len(data))
        at += len(data)
    table = header + bytes(_ENTRY_BYTES) + b"".join(data for _, data in entries)
    return table.ljust(-(-len(table) // _PAGE_BYTES) * _PAGE_BYTES, b"\0")


def hcl_blob(report: bytes, runtime_claims: bytes) -> bytes:
    """Azure's blob around a report, padded as the vTPM pads it."""
    runtime_size = _RUNTIME_HEADER_BYTES + len(runtime_claims)
    size = _HCL_HEADER_BYTES + len(report) + runtime_size
    header = struct.pack("<4sIII16x", b"HCLA", 2, size, 2)
    runtime = struct.pack("<IIIII", runtime_size, 1, 2, 1, len(runtime_claims))
    return (header + report + runtime + runtime_claims).ljust(_HCL_BYTES, b"\0")

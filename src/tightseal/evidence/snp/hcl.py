# SPDX-License-Identifier: Apache-2.0
"""Azure's attestation blob: a report made by the paravisor, and what it commits to.

Layout (little-endian): a header of 32 bytes (``HCLA``, version, size of all that
counts, request type, 16 reserved), the report in 1184 bytes, then the runtime data: a
header of 20 bytes (size, version, report type, hash type, length) and the runtime
claims, JSON. The report data begins with the SHA-256 of the runtime claims: the
paravisor chose it, not the workload.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.snp.report import REPORT_BYTES

__all__ = ["HCL_MAGIC", "MAX_HCL_BYTES", "HclBlob", "parse_hcl"]

HCL_MAGIC: Final = b"HCLA"
MAX_HCL_BYTES: Final = 16384
"""Largest blob read; Azure's have 2600 bytes."""

_HEADER: Final = struct.Struct("<4sIII16s")
_RUNTIME_HEADER: Final = struct.Struct("<IIIII")
_HEADER_VERSIONS: Final = frozenset({1, 2})
_RUNTIME_VERSION: Final = 1
_SNP_REPORT: Final = 2
_SHA256: Final = 1
_RUNTIME_AT: Final = _HEADER.size + REPORT_BYTES


@dataclass(frozen=True, slots=True)
class HclBlob:
    """A blob as it stands.

    Attributes:
        report: the 1184 bytes of the report.
        runtime_claims: the JSON that the report data commits to.
        content: the blob cut to its declared length.
    """

    report: bytes
    runtime_claims: bytes
    content: bytes

    def binds(self, report_data: bytes) -> bool:
        """Whether report data is the SHA-256 of the runtime claims and 32 zeros."""
        return report_data == hashlib.sha256(self.runtime_claims).digest() + bytes(32)


def parse_hcl(data: bytes) -> HclBlob:
    """Read a blob strictly: known versions, SHA-256, sizes that agree, zeros behind.

    Does not check: the report, its binding to the runtime claims (``HclBlob.binds``),
    or what the claims say.

    Raises:
        EvidenceError: ``hcl_malformed``.
    """
    if not _RUNTIME_AT + _RUNTIME_HEADER.size <= len(data) <= MAX_HCL_BYTES:
        raise _malformed(f"{len(data)} bytes")
    magic, version, size, request, reserved = _HEADER.unpack_from(data)
    if magic != HCL_MAGIC or version not in _HEADER_VERSIONS or any(reserved):
        raise _malformed(f"magic {magic!r}, version {version}, reserved bytes")
    runtime = _RUNTIME_HEADER.unpack_from(data, _RUNTIME_AT)
    runtime_size, runtime_version, report_type, hash_type, length = runtime
    if runtime_version != _RUNTIME_VERSION:
        raise _malformed(f"runtime data version {runtime_version}, expected 1")
    if (request, report_type) != (_SNP_REPORT, _SNP_REPORT):
        raise _malformed(f"report type {request} and {report_type}, expected 2 (SNP)")
    if hash_type != _SHA256:
        raise _malformed(f"hash type {hash_type}, expected 1 (SHA-256)")
    if (
        runtime_size != _RUNTIME_HEADER.size + length
        or size != _RUNTIME_AT + runtime_size
    ):
        raise _malformed(f"sizes {size}, {runtime_size} and {length} disagree")
    if size > len(data) or any(data[size:]):
        raise _malformed(f"{len(data)} bytes, {size} declared, the rest not zero")
    return HclBlob(
        report=data[_HEADER.size : _RUNTIME_AT],
        runtime_claims=data[_RUNTIME_AT + _RUNTIME_HEADER.size : size],
        content=data[:size],
    )


def _malformed(detail: str) -> EvidenceError:
    return EvidenceError(Code.HCL_MALFORMED, f"HCL blob: {detail}")

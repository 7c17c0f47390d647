# SPDX-License-Identifier: Apache-2.0
"""The forms in which SNP evidence comes: report, report with table, Azure's blob."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.snp.extended import (
    MAX_TABLE_BYTES,
    CertificateTable,
    parse_table,
)
from tightseal.evidence.snp.hcl import HCL_MAGIC, HclBlob, parse_hcl
from tightseal.evidence.snp.report import REPORT_BYTES

__all__ = ["MAX_EVIDENCE_BYTES", "SnpEvidence", "split_evidence"]

MAX_EVIDENCE_BYTES: Final = REPORT_BYTES + MAX_TABLE_BYTES
"""Largest SNP evidence read."""


@dataclass(frozen=True, slots=True)
class SnpEvidence:
    """Evidence split into its parts; nothing is verified.

    Attributes:
        report: the 1184 bytes of the report.
        table: the certificates that came with it, where any did.
        hcl: Azure's blob, where the report came in one.
    """

    report: bytes
    table: CertificateTable | None = None
    hcl: HclBlob | None = None

    def digest(self) -> bytes:
        """SHA-256 over what counts: the report, or Azure's blob as far as declared.

        A certificate table is left out: nothing signs it, so it would give one report
        many digests.
        """
        content = self.report if self.hcl is None else self.hcl.content
        return hashlib.sha256(content).digest()


def split_evidence(evidence: bytes) -> SnpEvidence:
    """Tell the forms apart and read the wrapping strictly; the report is left unread.

    Raises:
        EvidenceError: ``evidence_too_large``, ``snp_report_malformed`` (shorter than a
            report), ``snp_certificate_table_malformed`` or ``hcl_malformed``.
    """
    if len(evidence) > MAX_EVIDENCE_BYTES:
        detail = f"SNP evidence: {len(evidence)} bytes, at most {MAX_EVIDENCE_BYTES}"
        raise EvidenceError(Code.EVIDENCE_TOO_LARGE, detail)
    if evidence.startswith(HCL_MAGIC):
        blob = parse_hcl(evidence)
        return SnpEvidence(blob.report, hcl=blob)
    report, table = evidence[:REPORT_BYTES], evidence[REPORT_BYTES:]
    if len(report) < REPORT_BYTES:
        detail = f"SNP report: {len(report)} bytes, expected {REPORT_BYTES}"
        raise EvidenceError(Code.SNP_REPORT_MALFORMED, detail)
    return SnpEvidence(report, parse_table(table) if table else None)

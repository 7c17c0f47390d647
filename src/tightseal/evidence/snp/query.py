# SPDX-License-Identifier: Apache-2.0
"""What to ask AMD's key distribution for, read from a report that nobody verified."""

from __future__ import annotations

from typing import NamedTuple

from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.products import (
    Product,
    chip_id_bytes,
    product_of_cpuid,
    split_tcb,
)
from tightseal.evidence.snp.report import SigningKey, UnverifiedReport, parse_report
from tightseal.model.claims import SnpTcb
from tightseal.model.collateral import SnpCertificates

__all__ = ["CertificateQuery", "certificate_query", "embedded_certificates"]


class CertificateQuery(NamedTuple):
    """Names a query and nothing more; all of it unverified.

    Attributes:
        product: ``Milan``, ``Genoa`` or ``Turin``; ``None`` where a version 2 report
            does not tell Milan from Genoa, or the processor is not known.
        chip_id: 64 bytes, 8 on Turin; zero where the host masks it.
        tcb: the reported TCB.
        vlek: whether a VLEK signed.
    """

    product: str | None
    chip_id: bytes
    tcb: SnpTcb
    vlek: bool


def certificate_query(report: UnverifiedReport) -> CertificateQuery:
    """The certificates that a report needs.

    A version 2 report does not name its processor. One whose chip id ends after 8 bytes
    comes from Turin; the TCB layout of Milan and Genoa is the same.
    """
    product = _product(report)
    layout = product or Product.MILAN
    return CertificateQuery(
        product=None if product is None else product.value,
        chip_id=report.chip_id[: chip_id_bytes(layout)],
        tcb=split_tcb(report.reported_tcb, layout),
        vlek=report.signing_key is SigningKey.VLEK,
    )


def embedded_certificates(evidence: bytes) -> SnpCertificates | None:
    """The certificates that evidence itself carries, where they are complete.

    They may be used, since they must chain to a pinned root; a CRL in the evidence is
    never handed on.

    Returns:
        the signer that the report names and its intermediate, or ``None`` where either
        is missing.

    Raises:
        EvidenceError: the codes of ``split_evidence`` and ``parse_report``.
    """
    split = split_evidence(evidence)
    report = parse_report(split.report)
    table = split.table
    if table is None:
        return None
    signer = table.vlek if report.signing_key is SigningKey.VLEK else table.vcek
    if signer is None or table.intermediate is None:
        return None
    return SnpCertificates(signer, table.intermediate, table.root)


def _product(report: UnverifiedReport) -> Product | None:
    if report.cpuid is not None:
        family, model, _ = report.cpuid
        return product_of_cpuid(family, model)
    short, rest = report.chip_id[:8], report.chip_id[8:]
    return Product.TURIN if any(short) and not any(rest) else None

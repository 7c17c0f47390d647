# SPDX-License-Identifier: Apache-2.0
"""What evidence says of itself before anything of it is verified: hints, and no more.

Whoever made the evidence chose all of it. Good for refusing what cannot be right in any
case, and for putting requests in order; never for believing anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.errors import EvidenceError
from tightseal.evidence.detect import EvidenceKind, detect
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.report import parse_report

__all__ = ["Claimed", "claimed", "platform_claim"]

_CLAIM_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Claimed:
    """What evidence claims.

    Attributes:
        platform: 16 bytes; equal for two pieces of evidence of one platform, as long as
            that presents the same certificates: a digest of the PCK chain, or of the
            chip id.
        report_data: 64 bytes; ``None`` where it does not bind what it should, as under
            Azure's paravisor.
    """

    platform: bytes
    report_data: bytes | None


def claimed(evidence: bytes) -> Claimed:
    """Read what evidence claims; no signature is verified, no certificate parsed.

    Args:
        evidence: binary.

    Raises:
        EvidenceError: the evidence is of no known kind, or has not its form.
    """
    if detect(evidence) is EvidenceKind.QUOTE:
        quote = parse_quote(evidence)
        chain = quote.certification_data
        return Claimed(_digest(b"pck", chain), quote.field("report_data"))
    split = split_evidence(evidence)
    report = parse_report(split.report)
    bound = None if split.hcl is not None else report.report_data
    return Claimed(_digest(b"chip", report.chip_id), bound)


def platform_claim(evidence: bytes) -> bytes:
    """The claimed platform; empty where the evidence has not even a form."""
    try:
        return claimed(evidence).platform
    except EvidenceError:
        return b""


def _digest(kind: bytes, data: bytes) -> bytes:
    return hashlib.sha256(kind + data).digest()[:_CLAIM_BYTES]

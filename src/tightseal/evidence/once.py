# SPDX-License-Identifier: Apache-2.0
"""One verification with everything given: the function that programs call."""

from __future__ import annotations

from typing import Final

from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Claims
from tightseal.model.collateral import CollateralSource
from tightseal.model.roots import TrustedRoots
from tightseal.model.verifiers import VerifierException, VerifierMode

__all__ = ["verify"]

_CACHE_ENTRIES: Final = 64


def verify(
    evidence: bytes,
    *,
    collateral: CollateralSource,
    now: int,
    roots: TrustedRoots = VENDOR_ROOTS,
    mode: VerifierMode = VerifierMode.BOTH,
    exceptions: frozenset[VerifierException] = frozenset(),
) -> Claims:
    """Verify evidence of any kind, once.

    Services keep an :class:`~tightseal.evidence.verify.EvidenceVerifier` instead, which
    reuses signature results and can guard against collateral that goes back.

    Args:
        evidence: a quote, an SNP report, or an Azure HCL blob; binary.
        collateral: where collateral comes from, such as ``FileSource``; never whoever
            presents the evidence.
        now: Unix seconds that everything is judged at.
        roots: the roots that evidence may chain to.
        mode: which verifiers judge Intel evidence.
        exceptions: rules on which one verifier may be overruled, by name.

    Returns:
        the claims. Their TCB status may be any but Revoked: whether to accept it is the
        caller's decision, as are measurements, report data, and debug of SNP.

    Raises:
        EvidenceError: the evidence is not authentic; ``checks`` holds the named checks.
        CollateralError: it cannot be judged.
    """
    verifier = EvidenceVerifier(
        roots=roots,
        source=collateral,
        cache=ResultCache(_CACHE_ENTRIES),
        mode=mode,
        exceptions=exceptions,
    )
    return verifier(evidence, now=now)

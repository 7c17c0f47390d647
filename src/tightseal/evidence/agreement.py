# SPDX-License-Identifier: Apache-2.0
"""Two verifiers must agree, and the table of where they differ on purpose.

Both accept with the same status, advisories, PPID and FMSPC, or nobody is believed. The
native verifier's refusal stands by itself. Where it accepts and dcap-qvl refuses, only
an exception that a release setting names may overrule dcap-qvl, and only if dcap-qvl
failed with exactly the error of that rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from tightseal.errors import Code, EvidenceError, TightsealError
from tightseal.evidence.differences import (
    DIFFERENCES,
    Difference,
    Stricter,
    difference_by_error,
    difference_of,
    differences_markdown,
)
from tightseal.evidence.qvl import QvlAnswer, QvlOpinion, QvlRefusal
from tightseal.model.claims import Check, Claims, Outcome, Tee
from tightseal.model.verifiers import VerifierException

__all__ = [
    "DIFFERENCES",
    "Conflict",
    "Difference",
    "Disagreement",
    "Stricter",
    "agree",
    "difference_by_error",
    "difference_of",
    "differences_markdown",
    "exceptions_needed",
]

CHECK_NAME: Final = "verifiers_agree"
SPEC: Final = "Tightseal, two verifiers"

SEPT_VE_DISABLE: Final = 1 << 28
"""Bit of TDATTRIBUTES (Intel TDX module specification, ATTRIBUTES)."""


class Conflict(StrEnum):
    """How two answers to the same question differ."""

    NATIVE_REFUSES = "native_refuses"
    QVL_REFUSES = "dcap_qvl_refuses"
    CLAIMS_DIFFER = "claims_differ"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two answers that differ: for a metric and a log line.

    Attributes:
        conflict: in which way.
        native, qvl: both answers in words.
        evidence_hash: SHA-256 over the quote cut to its declared length.
        rule: the rule of :data:`DIFFERENCES` that explains it; ``None`` where one of
            the verifiers has a defect or the table a gap.
    """

    conflict: Conflict
    native: str
    qvl: str
    evidence_hash: bytes
    rule: str | None


def exceptions_needed(claims: Claims) -> frozenset[VerifierException]:
    """The exceptions without which the native verifier had refused these claims."""
    if claims.tee is not Tee.TDX:
        return frozenset()
    attributes = int.from_bytes(claims.measurements["td_attributes"], "little")
    if attributes & SEPT_VE_DISABLE:
        return frozenset()
    return frozenset({VerifierException.SEPT_VE_ENABLED})


def agree(
    native: Claims | TightsealError,
    qvl: QvlAnswer,
    *,
    evidence_hash: bytes,
    exceptions: frozenset[VerifierException],
    on_disagreement: Callable[[Disagreement], None],
) -> Claims:
    """Bring both answers to one.

    Args:
        native: the native verifier's claims, or the error that it raised.
        qvl: dcap-qvl's answer about the same quote, collateral, root and time.
        evidence_hash: SHA-256 over the quote cut to its declared length.
        exceptions: the rules on which dcap-qvl may be overruled.
        on_disagreement: told of every pair of answers that differ and that no
            exception settles, before the error is raised.

    Returns:
        the native claims; ``single_verifier`` is set where an exception was used.

    Raises:
        EvidenceError: ``verifiers_disagree``, both answers in the detail; or the native
            verifier's own error.
        CollateralError: the native verifier's own error.
    """
    if isinstance(native, TightsealError):
        if isinstance(qvl, QvlOpinion):
            rule = difference_of(native)
            on_disagreement(
                _disagreement(
                    Conflict.NATIVE_REFUSES,
                    f"refuses: {native}",
                    qvl,
                    evidence_hash,
                    rule,
                )
            )
        raise native
    if isinstance(qvl, QvlRefusal):
        rule = difference_by_error(qvl.message)
        agreed, outcome = _settled(native, rule, exceptions), Outcome.NOTED
        conflict = Conflict.QVL_REFUSES
    else:
        rule = None
        agreed, outcome = _same(native, qvl), Outcome.PASSED
        conflict = Conflict.CLAIMS_DIFFER
    if not agreed:
        found = _disagreement(conflict, _words(native), qvl, evidence_hash, rule)
        on_disagreement(found)
        raise _error(found, native)
    return replace(
        native,
        single_verifier=isinstance(qvl, QvlRefusal),
        checks=(*native.checks, Check(CHECK_NAME, outcome, SPEC)),
    )


def _settled(
    native: Claims,
    rule: Difference | None,
    exceptions: frozenset[VerifierException],
) -> bool:
    """Whether a named exception covers dcap-qvl's refusal and nothing else is open."""
    if rule is None or rule.exception is None or rule.exception not in exceptions:
        return False
    return exceptions_needed(native) <= {rule.exception}


def _same(native: Claims, qvl: QvlOpinion) -> bool:
    tcb = native.tcb
    return (
        # Whatever needed an exception, dcap-qvl must have refused.
        not exceptions_needed(native)
        and tcb is not None
        and tcb.status is qvl.status
        and tcb.advisory_ids == qvl.advisory_ids
        and native.platform.ppid == (qvl.ppid if any(qvl.ppid) else None)
        and native.platform.fmspc == qvl.fmspc
    )


def _disagreement(
    conflict: Conflict,
    native: str,
    qvl: QvlAnswer,
    evidence_hash: bytes,
    rule: Difference | None,
) -> Disagreement:
    name = None if rule is None else rule.rule
    return Disagreement(conflict, native, str(qvl), evidence_hash, name)


def _words(claims: Claims) -> str:
    tcb = claims.tcb
    status = "no status" if tcb is None else tcb.status.value
    advisories = "" if tcb is None else ", ".join(sorted(tcb.advisory_ids))
    ppid, fmspc = claims.platform.ppid, claims.platform.fmspc
    return (
        f"accepts: {status}, advisories {advisories or 'none'}, "
        f"PPID {ppid.hex() if ppid else 'none'}, "
        f"FMSPC {fmspc.hex() if fmspc else 'none'}"
    )


def _error(found: Disagreement, native: Claims) -> EvidenceError:
    rule = found.rule or "none in the table of differences"
    detail = f"native {found.native}; dcap-qvl {found.qvl}; rule: {rule}"
    error = EvidenceError(Code.VERIFIERS_DISAGREE, detail)
    error.checks = (*native.checks, Check(CHECK_NAME, Outcome.FAILED, SPEC))
    return error

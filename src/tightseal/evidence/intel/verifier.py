# SPDX-License-Identifier: Apache-2.0
"""Intel DCAP evidence to claims: a numbered list of named checks.

The order is that of Intel's QVL: form, trust, collateral, chain, quoting enclave,
quote, TCB, attributes. Collateral is judged before what it judges.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from tightseal.errors import TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel import collateral_checks as c
from tightseal.evidence.intel import quote_checks as q
from tightseal.evidence.intel.ground import recall, remember
from tightseal.evidence.intel.layout import BODY_BYTES, MEASUREMENT_FIELDS, BodyType
from tightseal.evidence.intel.run import CheckRule, Run, Step
from tightseal.evidence.intel.signatures import sha256
from tightseal.model.claims import Check, Claims, Outcome, PlatformIdentity, Tcb, Tee
from tightseal.model.collateral import CollateralGuard, IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal.model.verifiers import VerifierException

__all__ = ["CHECKS", "NOT_CHECKED", "CheckRule", "verify_quote"]

_QUOTE: Final = "Intel TDX DCAP Quoting Library API, appendix A"
_QVL: Final = "Intel DCAP QVL, "
_PCK: Final = "Intel SGX PCK Certificate and CRL Specification, section 1"
_PCS: Final = "Intel PCS API v4"
_TDX: Final = "Intel TDX Module ABI, TD_ATTRIBUTES"
_SGX: Final = "Intel SDM volume 3D, ATTRIBUTES"
_HERE: Final = "Tightseal design, What must always hold"

CHECKS: Final[tuple[CheckRule, ...]] = tuple(
    CheckRule(number, name, spec, step)
    for number, (name, spec, step) in enumerate(
        (
            ("quote_structure", _QUOTE, q.quote_structure),
            ("quote_padding", _QUOTE, q.quote_padding),
            ("qe_vendor", _QUOTE, q.qe_vendor),
            ("certification_type", _QUOTE, q.certification_type),
            ("embedded_chain", f"{_HERE} (2)", q.embedded_chain),
            ("root_trusted", f"{_HERE} (2)", q.root_trusted),
            ("root_crl_signature", "RFC 5280 section 6.3.3", c.root_crl_signature),
            ("root_crl_time", "RFC 5280 section 6.3.3", c.root_crl_time),
            ("root_crl_rollback", f"{_HERE} (12)", c.root_crl_rollback),
            ("tcb_signing_chain", f"{_QVL}TCB signing chain", c.tcb_signing_chain),
            ("tcb_signing_validity", "RFC 5280 section 6.1.3", c.tcb_signing_validity),
            (
                "tcb_signing_revocation",
                "RFC 5280 section 6.1.3",
                c.tcb_signing_revocation,
            ),
            ("tcb_info_signature", f"{_PCS}, TCB info", c.tcb_info_signature),
            ("tcb_info_time", f"{_PCS}, TCB info", c.tcb_info_time),
            ("tcb_info_type", f"{_QVL}4.1.2.5.10", c.tcb_info_type),
            ("qe_identity_signature", f"{_PCS}, QE identity", c.qe_identity_signature),
            ("qe_identity_time", f"{_PCS}, QE identity", c.qe_identity_time),
            ("qe_identity_type", f"{_QVL}4.1.2.5.15", c.qe_identity_type),
            ("pck_chain", f"{_PCK}.3", q.pck_chain),
            ("pck_validity", "RFC 5280 section 6.1.3", q.pck_validity),
            ("pck_ca_revocation", "RFC 5280 section 6.1.3", q.pck_ca_revocation),
            ("pck_crl_signature", f"{_PCK}.4", c.pck_crl_signature),
            ("pck_crl_time", f"{_PCK}.4", c.pck_crl_time),
            ("collateral_rollback", f"{_HERE} (12)", c.collateral_rollback),
            ("pck_revocation", f"{_QVL}4.1.2.5.8", q.pck_revocation),
            ("fmspc", f"{_QVL}4.1.2.5.11", q.fmspc),
            ("pceid", f"{_QVL}4.1.2.5.11", q.pceid),
            ("tdx_module", f"{_QVL}4.1.2.5.12", q.tdx_module),
            ("qe_report_signature", f"{_QVL}4.1.2.5.13", q.qe_report_signature),
            ("qe_report_data", f"{_QVL}4.1.2.5.14", q.qe_report_data),
            ("qe_identity", f"{_QVL}4.1.2.5.16", q.qe_identity),
            ("qe_debug", f"{_QVL}4.1.2.5.16", q.qe_debug),
            ("qe_tcb", f"{_QVL}4.1.2.5.16", q.qe_tcb),
            ("quote_signature", f"{_QVL}4.1.2.5.17", q.quote_signature),
            ("tcb_level", f"{_QVL}4.1.2.5.18, 19", q.tcb_level),
            ("tdx_module_tcb", f"{_QVL}4.1.2.5.19", q.tdx_module_tcb),
            ("td_relaunch", f"{_QVL}4.1.2.5.20", q.td_relaunch),
            ("tcb_not_revoked", f"{_PCS}, TCB status", q.tcb_not_revoked),
            ("debug", f"{_TDX}; {_SGX}", q.debug),
            ("sgx_initialised", _SGX, q.sgx_initialised),
            ("sgx_64bit", _SGX, q.sgx_64bit),
            ("td_profiling", _TDX, q.td_profiling),
            ("td_reserved", _TDX, q.td_reserved),
            ("td_migratable", _TDX, q.td_migratable),
            ("td_sept_ve", _TDX, q.td_sept_ve),
            ("td_service_td", f"{_TDX}; {_QUOTE}", q.td_service_td),
        ),
        start=1,
    )
)
"""Every check, in the order in which they are made; the first failure ends the run."""

_GROUND_BEGINS: Final = "embedded_chain"
_GROUND_ENDS: Final = "pceid"
_NEVER_REUSED: Final = frozenset({"root_crl_rollback", "collateral_rollback"})


def _steps(first: int, last: int) -> tuple[tuple[int, Step], ...]:
    return tuple((at, CHECKS[at].step) for at in range(first, last))


_NAMES: Final = tuple(rule.name for rule in CHECKS)
_GROUND_FIRST: Final = _NAMES.index(_GROUND_BEGINS)
_GROUND_AFTER: Final = _NAMES.index(_GROUND_ENDS) + 1
_FORM: Final = _steps(0, _GROUND_FIRST)
_GROUND: Final = _steps(_GROUND_FIRST, _GROUND_AFTER)
_GUARD: Final = tuple((at, step) for at, step in _GROUND if _NAMES[at] in _NEVER_REUSED)
_QUOTE_ITSELF: Final = _steps(_GROUND_AFTER, len(CHECKS))
_ALL_PASSED: Final = tuple(rule.record(Outcome.PASSED) for rule in CHECKS)

_COMMON_NOT_CHECKED: Final = (
    "report_data: whether it answers a challenge of ours",
    "measurements: whether this workload may have anything",
    "tcb: whether status, advisories, date and evaluation number are acceptable",
    "platform flags: dynamic platform, cached keys, SMT, SGX type",
    "quote header: QE and PCE SVN, user data; they name no platform",
    "evidence_hash: names these bytes only; ECDSA signatures have a second form",
)

NOT_CHECKED: Final = MappingProxyType(
    {
        Tee.SGX: (
            *_COMMON_NOT_CHECKED,
            "XFRM, MISCSELECT, PROVISION_KEY and other attribute bits of the enclave",
        ),
        Tee.TDX: (
            *_COMMON_NOT_CHECKED,
            "XFAM, TD attribute bits 16, 18 to 22, 27, 30, 31, 62 and 63",
            "MRSEAM: only signer, attributes and SVN of the TDX module are judged",
            "fields of TD 1.5ex beyond TD 1.5",
        ),
    }
)
"""What a caller still has to judge, by TEE."""


def verify_quote(
    quote: bytes,
    collateral: IntelCollateral,
    *,
    now: int,
    roots: tuple[TrustedRoot, ...],
    guard: CollateralGuard | None = None,
    cache: ResultCache | None = None,
    exceptions: frozenset[VerifierException] = frozenset(),
) -> Claims:
    """Verify an SGX or TDX quote as of ``now``; every check of ``CHECKS``, in order.

    Answers authenticity: every TCB status but Revoked is authentic, with the status in
    the claims. What is left to the caller stands in ``Claims.not_checked``.

    Args:
        quote: versions 3 (SGX), 4 and 5 (TDX); zero padding is tolerated and noted.
        collateral: from our own source, never from whoever is being verified.
        now: Unix seconds.
        roots: roots of Intel's kind that are switched on, simulated ones among them.
        guard: remembers the newest collateral. It is asked twice: for the root CRL once
            that is genuine and current, and for the rest once all of it is genuine,
            current and signed by signers not revoked. Both happen before collateral
            judges the platform, so that a refusal is remembered too; neither depends
            on anything in the quote but the chain that verified.
        cache: signature results, reused by content, role and root. Times, revocation
            and the guard are judged at ``now`` on every call all the same.
        exceptions: rules waived by name. ``SEPT_VE_ENABLED`` turns that refusal into a
            noted check; lengths of QE authentication data are no matter here.

    Returns:
        the claims; ``single_verifier`` is for the caller to set. A TD 1.0 report has no
        ``mr_service_td``: it reads as 48 zero bytes, as for a TD without a service TD.

    Raises:
        EvidenceError, CollateralError: with the code of the failed check, and with
            ``checks`` set to the checks made, the failed one last.
    """
    run = Run(
        quote,
        collateral,
        now=now,
        roots=roots,
        guard=guard,
        cache=cache,
        exceptions=exceptions,
    )
    made = list(_ALL_PASSED)
    _make(run, _FORM, made)
    if recall(run):
        _make(run, _GUARD, made)
    else:
        _make(run, _GROUND, made)
        remember(run)
    _make(run, _QUOTE_ITSELF, made)
    return _claims(run, tuple(made))


def _make(run: Run, steps: tuple[tuple[int, Step], ...], made: list[Check]) -> None:
    """Make some checks, and leave their records in ``made``."""
    at = 0
    try:
        for at, step in steps:
            outcome = step(run)
            if outcome is not None:
                made[at] = CHECKS[at].record(outcome)
    except TightsealError as e:
        e.checks = (*made[:at], CHECKS[at].record(Outcome.FAILED))
        raise


def _claims(run: Run, checks: tuple[Check, ...]) -> Claims:
    """The claims of a run in which no check failed."""
    quote, pck = run.quote, run.pck.extension
    # TD 1.0 ends before mr_service_td, which then reads as zeros: no service TD.
    body = quote.body.ljust(BODY_BYTES[BodyType.TD15], b"\0")
    measurements = {name: body[at] for name, at in MEASUREMENT_FIELDS[run.tee]}
    number = min(run.tcb_info.evaluation_number, run.qe_identity.evaluation_number)
    return Claims(
        tee=quote.tee,
        trust_domain=run.root.trust_domain,
        measurements=MappingProxyType(measurements),
        report_data=quote.field("report_data"),
        debug=False,
        platform=PlatformIdentity(
            ppid=_known(pck.ppid), piid=_known(pck.piid), fmspc=_known(pck.fmspc)
        ),
        tcb=Tcb(
            status=run.verdict.status,
            advisory_ids=run.verdict.advisory_ids,
            evaluation_number=number,
            date=run.level.date,
            dynamic_platform=pck.dynamic_platform,
            cached_keys=pck.cached_keys,
            smt_enabled=pck.smt_enabled,
        ),
        checks=checks,
        not_checked=NOT_CHECKED[quote.tee],
        evidence_hash=sha256(run.data[: quote.declared_length]),
    )


def _known(identity: bytes | None) -> bytes | None:
    """An identity that is all zero is none, and must match nothing."""
    return identity if identity and any(identity) else None

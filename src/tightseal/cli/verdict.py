# SPDX-License-Identifier: Apache-2.0
"""A verdict on evidence, as JSON for programs and as lines for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tightseal.cli import ui
from tightseal.errors import TightsealError
from tightseal.model.claims import MEASUREMENT_NAMES, Check, Claims, Tee

__all__ = ["Verdict", "VerdictWord", "document", "show"]


class VerdictWord(StrEnum):
    """The three answers."""

    AUTHENTIC = "authentic"
    REJECTED = "rejected"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer with what supports it.

    Attributes:
        claims: where the evidence is authentic, also if its TCB status is not accepted.
        error: why not, where the answer is not ``authentic``.
        said_tee: the TEE that the evidence names itself by; unverified, and shown only
            where nothing was verified.
        certificate: names and values, where a certificate carried the evidence.
    """

    claims: Claims | None = None
    error: TightsealError | None = None
    said_tee: Tee | None = None
    certificate: dict[str, str | int | bool | None] | None = None

    @property
    def word(self) -> VerdictWord:
        """The answer."""
        if self.error is None:
            return VerdictWord.AUTHENTIC
        if self.error.code in ui.UNREADABLE_CODES:
            return VerdictWord.UNREADABLE
        return VerdictWord.REJECTED

    @property
    def tee(self) -> str | None:
        """The verified kind of TEE, or what refused evidence says it is."""
        tee = self.said_tee if self.claims is None else self.claims.tee
        return None if tee is None else tee.value

    @property
    def exit_status(self) -> int:
        """0 authentic, 1 rejected, 2 unreadable."""
        return ui.EXIT_YES if self.error is None else ui.exit_status(self.error)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks made, those of a refusal with the failed one last."""
        if self.claims is not None:
            return self.claims.checks
        made = () if self.error is None else self.error.checks
        return tuple(check for check in made if isinstance(check, Check))


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON: every field there, ``None`` where it has no meaning."""
    claims, error = verdict.claims, verdict.error
    tcb = None if claims is None else claims.tcb
    platform = None if claims is None else claims.platform
    return {
        "verdict": verdict.word.value,
        "code": None if error is None else error.code.value,
        "detail": None if error is None else error.detail,
        "tee": verdict.tee,
        "trust_domain": None if claims is None else str(claims.trust_domain),
        "single_verifier": None if claims is None else claims.single_verifier,
        "tcb": {
            "status": None if tcb is None else tcb.status.value,
            "advisory_ids": None if tcb is None else sorted(tcb.advisory_ids),
            "evaluation_number": None if tcb is None else tcb.evaluation_number,
            "date": None if tcb is None else tcb.date,
        },
        "measurements": _measurements(claims),
        "report_data": None if claims is None else claims.report_data.hex(),
        "platform": {
            "ppid": None if platform is None else _hex(platform.ppid),
            "piid": None if platform is None else _hex(platform.piid),
            "fmspc": None if platform is None else _hex(platform.fmspc),
            "chip_id": None if platform is None else _hex(platform.chip_id),
        },
        "debug": None if claims is None else claims.debug,
        "certificate": verdict.certificate,
        "checks": [
            {"name": c.name, "outcome": c.outcome.value, "spec": c.spec}
            for c in verdict.checks
        ],
        "not_checked": [] if claims is None else list(claims.not_checked),
    }


def _measurements(claims: Claims | None) -> dict[str, str | None]:
    """Every name of the TEE; ``None`` where this kind of report has no such field."""
    if claims is None:
        return {}
    names = MEASUREMENT_NAMES[claims.tee]
    return {name: _hex(claims.measurements.get(name)) for name in names}


def show(verdict: Verdict) -> None:
    """The verdict for people: the answer, the claims, the checks."""
    error, claims = verdict.error, verdict.claims
    if error is not None and verdict.word is VerdictWord.UNREADABLE:
        ui.show_error(error)
        return
    if error is not None:
        ui.verdict("rejected", f"{error.code.value}: {error.detail}", tone="no")
    elif claims is not None:
        ui.verdict("authentic", _summary(claims), tone="yes")
    if verdict.certificate:
        ui.heading("certificate")
        rows = verdict.certificate.items()
        ui.facts((name, str(value)) for name, value in rows if value is not None)
    if claims is not None:
        _show_claims(claims)
    if verdict.checks:
        ui.heading("checks")
        ui.facts((c.outcome.value, f"{c.name}  ({c.spec})") for c in verdict.checks)
    if claims is not None and claims.not_checked:
        ui.heading("not checked")
        ui.facts(("", text) for text in claims.not_checked)
    if error is not None and error.info.remedy:
        ui.note(error.info.remedy)


def _summary(claims: Claims) -> str:
    status = "" if claims.tcb is None else f", {claims.tcb.status.value}"
    debug = ", DEBUG" if claims.debug else ""
    alone = ", one verifier" if claims.single_verifier else ", both verifiers"
    return f"{claims.tee.value.upper()}{status}{debug}, {claims.trust_domain}{alone}"


def _show_claims(claims: Claims) -> None:
    ui.heading("claims")
    ui.facts(
        [
            ("tee", claims.tee.value),
            ("trust_domain", str(claims.trust_domain)),
            ("debug", _word(claims.debug)),
            *_tcb_rows(claims),
            *_platform_rows(claims),
            ("report_data", claims.report_data.hex()),
        ]
    )
    if not claims.report_data_bound:
        ui.facts([("", "(chosen by the paravisor, not by the workload)")])
    ui.heading("measurements")
    ui.facts((n, v or "none") for n, v in _measurements(claims).items())


def _tcb_rows(claims: Claims) -> list[tuple[str, str]]:
    tcb, snp = claims.tcb, claims.snp_tcb
    rows: list[tuple[str, str]] = []
    if tcb is not None:
        rows = [
            ("tcb_status", tcb.status.value),
            ("advisory_ids", ", ".join(sorted(tcb.advisory_ids)) or "none"),
            ("tcb_evaluation", f"{tcb.evaluation_number}, {tcb.date}"),
            ("dynamic_platform", _word(tcb.dynamic_platform)),
            ("cached_keys", _word(tcb.cached_keys)),
            ("smt_enabled", _word(tcb.smt_enabled)),
        ]
    if snp is not None:
        parts = [
            ("bootloader", snp.bootloader),
            ("tee", snp.tee),
            ("snp", snp.snp),
            ("microcode", snp.microcode),
            ("fmc", snp.fmc),
        ]
        known = (f"{name} {value}" for name, value in parts if value is not None)
        rows.append(("tcb", ", ".join(known)))
    return rows


def _platform_rows(claims: Claims) -> list[tuple[str, str]]:
    platform = claims.platform
    named = (
        ("ppid", platform.ppid),
        ("piid", platform.piid),
        ("fmspc", platform.fmspc),
        ("chip_id", platform.chip_id),
    )
    return [(name, value.hex()) for name, value in named if value is not None]


def _word(flag: bool | None) -> str:  # noqa: FBT001 (a value to print)
    return {True: "yes", False: "no", None: "not said"}[flag]

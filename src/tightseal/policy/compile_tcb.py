# SPDX-License-Identifier: Apache-2.0
"""The TCB rules of a document, checked beyond their types."""

from __future__ import annotations

from tightseal.model.claims import TcbStatus, Tee
from tightseal.policy.compile_dates import seconds
from tightseal.policy.compiled import TcbRule
from tightseal.policy.document import Choice, TcbRules
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = ["compile_tcb"]


def compile_tcb(rules: TcbRules, tee: Tee, path: Path) -> TcbRule:
    """Make TCB rules.

    Raises:
        FieldFault: what has no meaning for the TEE, and ``Revoked``.
    """
    _check_tcb(rules, tee, path)
    grace = rules.grace
    until = seconds(grace.until if grace else None, (*path, "grace", "until"))
    return TcbRule(
        rules=rules,
        statuses=frozenset(rules.statuses),
        statuses_text=" or ".join(sorted(set(rules.statuses))),
        grace=frozenset(grace.statuses if grace else ()),
        grace_until=until or 0,
        grace_text=" or ".join(sorted(set(grace.statuses))) if grace else "",
        refused=frozenset(rules.refuse_advisories),
        tolerated=None
        if rules.tolerate_advisories is None
        else frozenset(rules.tolerate_advisories),
        options=tuple(
            name
            for name in ("dynamic_platform", "cached_keys", "smt")
            if getattr(rules, name) is Choice.REFUSE
        ),
        snp=tuple(
            (name, least)
            for name in ("bootloader", "tee", "snp", "microcode", "fmc")
            if (least := getattr(rules.snp, name))
        ),
    )


def _check_tcb(rules: TcbRules, tee: Tee, path: Path) -> None:
    grace = rules.grace.statuses if rules.grace else ()
    for within, statuses in (("statuses",), rules.statuses), (("grace",), grace):
        if TcbStatus.REVOKED in statuses:
            raise FieldFault((*path, *within), "Revoked is never accepted")
    usual = TcbRules()
    other = tuple(n for n in TcbRules.__struct_fields__ if n != "snp")
    for name in other if tee is Tee.SNP else ("snp",):
        if getattr(rules, name) != getattr(usual, name):
            message = f"has no meaning for {tee.value} evidence"
            raise FieldFault((*path, name), message)

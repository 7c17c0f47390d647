# SPDX-License-Identifier: Apache-2.0
"""The parts that let answers wait for others, made of settings; and their health."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.model.logclass import AuditLogSettings, LogClass
from tightseal.model.state import StateStore
from tightseal.release.logmark import LogMark
from tightseal.service.cover import Desk, LogCovers
from tightseal.service.cover_anchor import AnchorDesk
from tightseal.service.cover_witness import WitnessDesk
from tightseal.service.health import Note
from tightseal.service.metrics import Metrics
from tightseal.service.settings import WitnessSettings

__all__ = ["CoverParts", "cover_parts"]

_REMEDY: Final = (
    "Name the addresses of the policy's witnesses in host.witnesses.urls, and see that "
    "they watch this log and answer; the log says what each of them said."
)


@dataclass(frozen=True, slots=True)
class CoverParts:
    """What lets answers wait, and what is known of those who are waited for.

    Attributes:
        covers: where answers wait.
        rules: the settings in force.
        witnesses, anchor: the desks; ``None`` where nobody can be asked.
        metrics: of this worker.
    """

    covers: LogCovers
    rules: Callable[[], AuditLogSettings]
    witnesses: WitnessDesk | None
    anchor: AnchorDesk | None
    metrics: Metrics

    def look(self) -> None:
        """Have witnesses asked that were not for long, and say what is known."""
        self.covers.look()
        rules = self.rules()
        self.metrics.log_cover(
            waiting=self.covers.waiting,
            cosigned=0 if self.witnesses is None else self.witnesses.covered,
            anchored=0 if self.anchor is None else self.anchor.covered,
            needed=rules.threshold,
            answering=len(self._answering(rules)),
        )

    def require(self) -> None:
        """Check that what every release waits for can come; readiness asks.

        Raises:
            ServiceError: ``log_not_witnessed``, where every release needs witnesses and
                too few of them answer.
        """
        rules = self.rules()
        if rules.least is LogClass.COSIGNED:
            self._require(rules)

    def notes(self) -> list[Note]:
        """That releases of some purposes wait in vain, where not all of them do."""
        rules = self.rules()
        if not rules.threshold or rules.least is LogClass.COSIGNED:
            return []
        try:
            self._require(rules)
        except ServiceError as e:
            text = "Too few witnesses answer for what has to be cosigned."
            return [Note("witnesses_missing", e.code.value, text, _REMEDY)]
        return []

    def _require(self, rules: AuditLogSettings) -> None:
        found = self._answering(rules)
        if len(found) < rules.threshold:
            why = "host.witnesses.urls is empty"
            if self.witnesses is not None:
                why = self.witnesses.why or "they were not asked yet"
            detail = f"{len(found)} of {rules.threshold} witnesses answer: {why}"
            raise ServiceError(Code.LOG_NOT_WITNESSED, detail)

    def _answering(self, rules: AuditLogSettings) -> frozenset[str]:
        if self.witnesses is None:
            return frozenset()
        good = (state.keys for state in self.witnesses.states() if state.answers)
        found: frozenset[str] = frozenset().union(*good)
        return found & frozenset(rules.witnesses)


def cover_parts(
    settings: WitnessSettings,
    journal: SqliteJournal,
    *,
    store: StateStore | None,
    mark: LogMark | None,
    rules: Callable[[], AuditLogSettings],
    metrics: Metrics,
) -> CoverParts:
    """Make the parts of one worker; no thread runs before something waits.

    Raises:
        SettingsError: ``settings_invalid``, for an address.
    """
    desks: dict[LogClass, Desk] = {}
    witnesses = anchor = None
    if settings.urls:
        witnesses = WitnessDesk(
            settings.urls,
            journal,
            rules,
            seconds=settings.request_seconds,
            on_answer=metrics.witness_answer,
        )
        desks[LogClass.COSIGNED] = witnesses
    if store is not None and mark is not None:
        anchor = AnchorDesk(journal, store, mark)
        desks[LogClass.ANCHORED] = anchor
    covers = LogCovers(desks, settings, on_covered=metrics.log_covered)
    return CoverParts(covers, rules, witnesses, anchor, metrics)

# SPDX-License-Identifier: Apache-2.0
"""The images of a document, checked beyond their types."""

from __future__ import annotations

from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.policy.compile_dates import seconds
from tightseal.policy.compiled import Image, LoggedEvent, Workload
from tightseal.policy.document import ImageRules, LoggedRules
from tightseal.policy.eventlog.events import DIGEST_BYTES
from tightseal.policy.eventlog.facts import IDENTITY_EVENTS
from tightseal.policy.fields import event_field
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault
from tightseal.policy.selection import Selector, compile_event, compile_selector

__all__ = ["ImageMaker"]


class ImageMaker:
    """Makes images; equal selectors are kept once."""

    def __init__(self) -> None:
        self._selectors: dict[tuple[str, Selector], tuple[str, Selector]] = {}

    def __call__(self, rules: ImageRules, workload: Workload, path: Path) -> Image:
        """Make an image.

        Raises:
            FieldFault: dates out of order, or a selector that the TEE does not have.
        """
        begins = seconds(rules.from_, (*path, "from"))
        ends = seconds(rules.until, (*path, "until"))
        if begins is not None and ends is not None and ends <= begins:
            raise FieldFault((*path, "until"), "not after from")
        return Image(
            workload=workload,
            label=rules.label,
            begins=begins,
            ends=ends,
            selectors=(
                *self._measurements(rules, workload.tee, (*path, "measurements")),
                *self._events(rules, workload.tee, (*path, "events")),
            ),
            logged=_logged(rules.logged, workload.tee, (*path, "logged")),
        )

    def _measurements(
        self, rules: ImageRules, tee: Tee, path: Path
    ) -> list[tuple[str, Selector]]:
        known = MEASUREMENT_NAMES[tee]
        made: dict[str, tuple[str, Selector]] = {}
        for name, rule in rules.measurements.items():
            if name not in known:
                message = f"no measurement of {tee.value}; known are "
                raise FieldFault((*path, name), message + ", ".join(known))
            pair = (name, compile_selector(name, rule, (*path, name)))
            made[name] = self._selectors.setdefault(pair, pair)
        return [made[name] for name in known if name in made]

    def _events(
        self, rules: ImageRules, tee: Tee, path: Path
    ) -> list[tuple[str, Selector]]:
        if rules.events and tee is not Tee.TDX:
            raise FieldFault(path, f"{tee.value} evidence has no event log")
        made: dict[str, tuple[str, Selector]] = {}
        for name, rule in rules.events.items():
            if name not in IDENTITY_EVENTS:
                message = "no identity event; known are " + ", ".join(IDENTITY_EVENTS)
                raise FieldFault((*path, name), message)
            pair = (event_field(name), compile_event(rule, (*path, name)))
            made[name] = self._selectors.setdefault(pair, pair)
        return [made[name] for name in IDENTITY_EVENTS if name in made]


def _logged(
    rules: tuple[LoggedRules, ...], tee: Tee, path: Path
) -> tuple[LoggedEvent, ...]:
    if rules and tee is not Tee.TDX:
        raise FieldFault(path, f"{tee.value} evidence has no event log")
    made: set[LoggedEvent] = set()
    for i, rule in enumerate(rules):
        texts = (rule.digest,) if isinstance(rule.digest, str) else rule.digest
        digests = [bytes.fromhex(text) for text in texts]
        for digest in digests:
            if len(digest) != DIGEST_BYTES:
                message = f"expected {DIGEST_BYTES} bytes of hex, got {len(digest)}"
                raise FieldFault((*path, i, "digest"), message)
        made.add(LoggedEvent(rule.register, frozenset(digests), rule.about))
    return tuple(sorted(made, key=lambda e: (e.register, e.about, sorted(e.digests))))

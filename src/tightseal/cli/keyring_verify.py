# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring verify``: every slot, every generation, and both files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightseal.cli import ui
from tightseal.cli.keyring_open import JsonFlag, Where, place_of
from tightseal.cli.keyring_show import (
    ONLY_THROUGH_PROVIDERS,
    SlotState,
    header_json,
    show_slots,
    slots_json,
    tried,
)
from tightseal.errors import Code, TightsealError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Loaded,
    OpenedKeyring,
    Source,
    open_keyring,
    open_with_key,
)
from tightseal.release.anchored import held
from tightseal.release.keyring import Ways
from tightseal.service.slotkeys import only_through_providers

__all__ = ["verify"]


@dataclass(frozen=True, slots=True)
class _Report:
    """What was found.

    Attributes:
        path: the file.
        loaded: the version that opened.
        opened: that version.
        slots: of it, each tried.
        beside: what is wrong with the version kept beside it; empty where nothing is.
        leftover: counter of that version; ``None`` where there is none.
        waits: whether a keyring under a renewed key waits beside it.
    """

    path: Path
    loaded: Loaded
    opened: OpenedKeyring
    slots: tuple[SlotState, ...]
    beside: str
    leftover: int | None
    waits: bool

    @property
    def in_order(self) -> bool:
        """Whether nothing is wrong."""
        current = self.loaded.source is Source.CURRENT
        whole = current and not self.beside and not self.waits
        return whole and all(s.opens for s in self.slots)


def verify(*, where: Where | None = None, as_json: JsonFlag = False) -> int:
    """Open everything: 0 in order, 1 not.

    Every slot is opened, every generation, the file, and the version before that a
    crash may have left beside it.

    Args:
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    report = _look(place.path, place.ways)
    if as_json:
        ui.print_json(_document(report))
    else:
        _show(report)
    return ui.EXIT_YES if report.in_order else ui.EXIT_NO


def _look(path: Path, ways: Ways) -> _Report:
    found: list[OpenedKeyring] = []

    def opens(data: bytes) -> None:
        opened = open_keyring(
            data, terms=ways.terms, slot_keys=ways.slot_keys, anchor=ways.anchor
        )
        if ways.keyed is not None:
            opened = held(opened, ways.keyed(opened.keyring))
        found.append(opened)

    loaded = ways.file.load(recover=True, check=opens)
    [opened] = found
    beside, leftover = "", None
    if loaded.source is Source.CURRENT:
        beside, leftover = _previous(path, opened.keyring, ways)
    states = tried(opened.keyring, ways.slot_keys)
    waits = ways.file.staged() is not None
    return _Report(path, loaded, opened, states, beside, leftover, waits)


def _previous(path: Path, keyring: Keyring, ways: Ways) -> tuple[str, int | None]:
    """What is wrong with the version before, and its counter, where there is one."""
    try:
        older = KeyringFile(_previous_path(path)).load()
        # No anchor: it is meant to be older than what the anchor has seen.
        opened = open_with_key(
            older.data, key=keyring.key, terms=ways.terms, anchor=None
        )
    except TightsealError as e:
        return ("", None) if e.code is Code.KEYRING_MISSING else (str(e), None)
    ours, its = keyring.header, opened.keyring.header
    if its.keyring_id != ours.keyring_id:
        return f"keyring {its.keyring_id.hex()}, which is another one", its.counter
    if its.counter > ours.counter:
        return f"counter {its.counter}, but the file has {ours.counter}", its.counter
    return "", its.counter


def _previous_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _show(report: _Report) -> None:
    keyring, good = report.opened.keyring, report.in_order
    living = sum(g.living for g in keyring.generations)
    word = "in order" if good else "not in order"
    ui.verdict(word, str(report.path), tone="yes" if good else "no")
    gone = len(keyring.generations) - living
    ui.facts(
        [
            ("keyring id", keyring.header.keyring_id.hex()),
            ("counter", str(keyring.header.counter)),
            ("generations", f"{living} opened, {gone} destroyed"),
            ("previous file", _told(report)),
            ("not noticed", report.opened.not_noticed),
        ]
    )
    show_slots(report.slots)
    if only_through_providers(keyring.slots):
        ui.note(ONLY_THROUGH_PROVIDERS)
    if report.waits:
        ui.note(
            "a renewal of the keyring key was broken off: start the provider, or give"
            " keyring renew-key again, which ends it"
        )
    if report.loaded.source is Source.PREVIOUS:
        ui.note(f"the newer file: {report.loaded.passed_over}")
        ui.note(
            "to go on from the previous one: stop the provider, keep the newer file"
            f" elsewhere, and move {_previous_path(report.path)} to {report.path}; what"
            " only the newer one had is lost"
        )


def _told(report: _Report) -> str:
    if report.loaded.source is Source.PREVIOUS:
        return "it opens, and the newer one does not"
    if report.beside:
        return f"WRONG: {report.beside}"
    if report.leftover is None:
        return "none, as it should be"
    return f"counter {report.leftover}, left by a crash; the next change removes it"


def _document(report: _Report) -> dict[str, Any]:
    keyring = report.opened.keyring
    living = sum(g.living for g in keyring.generations)
    return {
        "in_order": report.in_order,
        "file": str(report.path),
        "source": report.loaded.source.value,
        "passed_over": report.loaded.passed_over,
        **header_json(keyring.header),
        "generations_opened": living,
        "generations_destroyed": len(keyring.generations) - living,
        "slots": slots_json(report.slots),
        "only_through_providers": only_through_providers(keyring.slots),
        "previous_counter": report.leftover,
        "previous_wrong": report.beside,
        "renewal_waits": report.waits,
        "anchor": report.opened.anchor.value,
        "not_noticed": report.opened.not_noticed,
    }

# SPDX-License-Identifier: Apache-2.0
"""Drills: every row of the table, and that a drill can fail at all."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tightseal.cli import build_app
from tightseal.cli.drill import drill
from tightseal.errors import Code, KeyReleaseError, SettingsError
from tightseal.keys.keyring import KeyringFile, Terms
from tightseal.keys.keyring.sealed import SealedKeyring
from tightseal.model.claims import Tee
from tightseal.model.secret import Secret
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.provider import SlotMaterial
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.sharing import StoreShare
from tightseal.service.slotprovider import PinnedProvider
from tightseal_sim import drill as drills
from tightseal_sim import (
    drill_anchor,
    drill_files,
    drill_handoff,
    drill_providers,
    drill_strangers,
)
from tightseal_sim.drill_cells import KEPT
from tightseal_sim.drill_crash import CRASH_EVENTS
from tightseal_sim.drill_disk import DrillSystem
from tightseal_sim.drill_expected import BOTH, CELLS, GRAMINE, SIDECAR, Cell
from tightseal_sim.drill_expected_providers import AT_PEER
from tightseal_sim.drill_hardware import HARDWARE_EVENTS
from tightseal_sim.drill_outcome import Outcome, Verdict, all_alike, found
from tightseal_sim.drill_site import Setup, Shape, Site, Way
from tightseal_sim.drill_stage import Stage

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "drills.md"


@pytest.mark.parametrize("event", drills.EVENTS)
def test_event(event: str) -> None:
    tried = [drills.run_cell(cell) for cell in CELLS if cell.event == event]
    assert tried
    assert [row.outcome for row in tried] == [row.expected for row in tried]


def test_the_table_of_the_documentation_is_what_the_drills_expect() -> None:
    """The test above says that they also find it."""
    expected = [
        drills.Row(
            event=cell.event,
            shape=cell.setup.shape_name,
            slots=cell.setup.slots_name,
            outcome=cell.expected,
            expected=cell.expected,
            reason=cell.reason,
            next_step=cell.next_step,
        )
        for cell in CELLS
    ]
    document = DOCUMENT.read_text()
    fresh = drills.rewritten(document, drills.markdown(expected))
    assert document == fresh, "python -m tightseal_sim.drill docs/drills.md"


def test_what_loses_keys_says_what_to_do() -> None:
    for cell in CELLS:
        bad = cell.expected.startswith(("lost", "older"))
        assert bool(cell.next_step) == bad, cell


def test_no_row_expects_that_somebody_else_has_the_keys() -> None:
    assert not [c for c in CELLS if c.expected.startswith(("leaked", "failed"))]


def test_no_row_twice() -> None:
    assert len({(cell.event, cell.setup) for cell in CELLS}) == len(CELLS)


# -- a drill that goes wrong is seen ------------------------------------------------


def outcome(event: str, setup: Setup) -> str:
    return str(drills.EVENTS[event](setup))


def test_a_save_that_syncs_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(self: DrillSystem, fd: int) -> None:
        assert fd
        self._before()
        self._after()

    monkeypatch.setattr(DrillSystem, "fsync", lazy)
    assert outcome("crash at every step: rotate", BOTH).startswith("lost")


def test_a_save_in_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(self: KeyringFile, data: bytes, *_: object, **__: object) -> None:
        self._write(self._path, data)

    monkeypatch.setattr(KeyringFile, "save", in_place)
    event = "crash at every step: slot add"
    assert outcome(event, BOTH).startswith("lost: keyring_m")


def test_two_who_overwrite_each_other_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def believe(self: KeyringFile, _replaces: object) -> bytes:
        return self._read(self._path) or b""

    monkeypatch.setattr(KeyringFile, "_replaced", believe)
    row = drills.run_cell(Cell("two providers rotate at once", BOTH, "kept", ""))
    assert not row.as_expected


def test_a_twin_that_gets_in_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terms, "check", lambda *_: None)
    # The derived keys are others under another root, so the roots are what leaks.
    event = "genuine twin under its own policy root"
    assert outcome(event, GRAMINE) == "refused: another key"
    monkeypatch.setattr(drill_strangers, "TWIN_ROOT", Site(Tee.SGX).policy_root)
    assert outcome(event, GRAMINE) == "leaked"
    assert outcome(event, SIDECAR) == "leaked"


def test_a_header_that_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SealedKeyring, "check_mac", lambda *_: None)
    assert "leaked" in outcome("header downgraded", GRAMINE)
    monkeypatch.setattr(SealedKeyring, "damaged", ())
    assert outcome("slot swapped for its own older one", BOTH) == "leaked"


def test_going_back_that_is_not_noticed_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KeyringKeeper, "look", lambda _: False)
    event = "older file put back under a running provider"
    assert outcome(event, GRAMINE) == "refused: nothing was noticed"


def test_an_opt_in_that_is_not_asked_again_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GramineSlot, "_refuse", lambda *_: None)
    event = "opt-in for the signer withdrawn"
    assert outcome(event, Setup(Shape.SERVICE, Tee.SGX, (Way.GRAMINE_SIGNER,))) == KEPT


def test_a_pin_that_is_not_compared_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightseal.guest.challenge.check_claims", lambda *_, **__: 0)
    monkeypatch.setattr("tightseal.guest.challenge.check_identity", lambda *_, **__: 0)
    assert outcome("other provider rebuilt, pin as before", AT_PEER) == KEPT


def test_a_provider_that_nobody_asks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SlotMaterial(Secret(b"k" * 32), 1, 1)
    monkeypatch.setattr(
        PinnedProvider, "ask", lambda *_, **__: replace(kept, secret=Secret(b"k" * 32))
    )
    assert outcome("other provider down", AT_PEER) == KEPT


def test_an_event_that_fails_elsewhere_is_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_setup: Setup) -> Outcome:
        raise KeyReleaseError(Code.KEYRING_EXISTS, "is there already")

    monkeypatch.setattr(drills, "EVENTS", {"broken": broken})
    row = drills.run_cell(Cell("broken", GRAMINE, "kept", ""))
    assert row.outcome == "failed: keyring_exists: is there already"
    assert not row.as_expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({1: b"a", 2: b"b"}, "kept"),
        ({1: b"a"}, "older, unnoticed: generation 2 is gone"),
        ({1: b"a", 2: b"x"}, "lost: another key"),
        ({1: b"a", 2: b"b", 3: b"c"}, "lost: another key"),
        ({}, "lost: another key"),
    ],
)
def test_keys_are_compared_byte_for_byte(
    keys: Mapping[int, bytes], expected: str
) -> None:
    before = {1: Secret(b"a"), 2: Secret(b"b")}
    now = {number: Secret(key) for number, key in keys.items()}
    assert str(found(now, before)) == expected


def test_outcomes_that_differ_are_all_told() -> None:
    one, other = Outcome(Verdict.KEPT), Outcome(Verdict.LOST, "why")
    assert all_alike([one, one]) == one
    assert str(all_alike([one, other])) == "lost: (kept) and (lost: why)"


def test_the_drills_really_lose_and_keep() -> None:
    """The slots of a stage are open before the event."""
    for way in Way:
        tee = Tee.SNP if way is Way.SNP else Tee.SGX
        if way.elsewhere or way is Way.TPM:
            continue
        stage = Stage(Setup(Shape.SERVICE, tee, (way,)))
        assert sorted(stage.before) == [1, 2]


def test_every_event_is_listed_once() -> None:
    kinds = (
        CRASH_EVENTS,
        HARDWARE_EVENTS,
        drill_providers.PROVIDER_EVENTS,
        drill_files.FILE_EVENTS,
        drill_anchor.ANCHOR_EVENTS,
        drill_handoff.HANDOFF_EVENTS,
        drill_strangers.STRANGER_EVENTS,
    )
    assert sum(len(kind) for kind in kinds) == len(drills.EVENTS)


# -- the command --------------------------------------------------------------------


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert drill(only="SNP TCB update") == 0
    out, err = capsys.readouterr()
    assert out.startswith("as expected  2 of 2 drills\n")
    assert "expected outcome" in out
    assert "kept, re-wrapped" in out
    assert err.splitlines()[0] == "1/2 SNP TCB update: sidecar, SNP [none]"


def test_the_command_prints_one_json_document(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert drill(only="SNP TCB update", as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["as_expected"] is True
    assert document["rows"][1] == {
        "event": "SNP TCB update",
        "shape": "service, SNP",
        "slots": "snp",
        "outcome": "kept, re-wrapped",
        "expected": "kept, re-wrapped",
        "as_expected": True,
        "reason": "The stored TCB stays derivable.",
        "next_step": "",
    }


def test_the_command_prints_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert drill(only="SNP TCB update", as_markdown=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("| Event | Shape | Slots | Outcome |")


def test_a_drill_that_is_not_as_expected_is_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell("SNP TCB update", GRAMINE, "lost: something", "")
    monkeypatch.setattr(drills, "CELLS", (cell,))
    assert drill() == 1
    out = capsys.readouterr().out
    assert out.startswith("not as expected  0 of 1 drills\n")
    assert out.splitlines()[-1].startswith("! SNP TCB update")


def test_no_event_of_that_name() -> None:
    with pytest.raises(SettingsError, match="no drill named like 'flood'"):
        drill(only="flood")


def test_without_the_simulated_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightseal.cli.drill.entry_points", lambda **_: ())
    with pytest.raises(SettingsError, match="0 simulated worlds installed"):
        drill()


def test_a_document_without_a_place_for_the_table() -> None:
    with pytest.raises(ValueError, match="no place"):
        drills.rewritten("# Drills\n", "table")


def test_the_command_exists_only_beside_the_simulated_world(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "drill" in build_app()
    found = find_spec

    def absent(name: str) -> object:
        return None if name == "tightseal_sim" else found(name)

    monkeypatch.setattr("tightseal.cli.find_spec", absent)
    assert "drill" not in build_app()
    assert "key" in build_app()


@pytest.mark.parametrize(
    ("where", "what", "event"),
    [
        ("recovery.desk", "judge_provider", "image that the policy does not name"),
        ("release.handoffs", "_require_usable", "second machine joins by a used"),
        ("keys.chain", "_check_branch", "provider of one tenant asks"),
        ("release.revoke", "remove_slot", "revoked provider is given"),
    ],
)
def test_a_handoff_that_leaves_a_check_out_is_found(
    monkeypatch: pytest.MonkeyPatch, where: str, what: str, event: str
) -> None:
    def absent(first: object = None, *_: object, **__: object) -> object:
        return first

    monkeypatch.setattr(f"tightseal.{where}.{what}", absent)
    [name] = [known for known in drill_handoff.HANDOFF_EVENTS if event in known]
    assert outcome(name, BOTH).startswith("leaked")


def test_providers_that_go_on_apart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(*_: object, **__: object) -> bool:
        return True

    monkeypatch.setattr(StoreShare, "publish", believe)
    event = "two providers over one store rotate at once"
    assert outcome(event, BOTH) == "lost: two histories"


def test_a_joiner_that_keeps_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightseal_sim.drill_handoff._Drill.joined", lambda *_: None)
    event = "machine lost, another provider had joined"
    assert outcome(event, BOTH) == "lost: keyring_missing"

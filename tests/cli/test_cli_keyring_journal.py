# SPDX-License-Identifier: Apache-2.0
"""Changes of a keyring by command: entered in the journal; damaged slots dropped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from keyring_cli import Operator

import cli_support
from tightseal.audit.journal import RecordedEntry, SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring import Slot, decode_keyring
from tightseal.keys.keyring.sealed import encode_keyring
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.compose import prepare


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """Where a provider has been started once."""
    made = Operator(tmp_path)
    made.done("init")
    prepare(made.settings())
    return made


def entries(operator: Operator) -> list[RecordedEntry]:
    """All but that of the first start."""
    journal = SqliteJournal.open(operator.settings().host.journal_path)
    try:
        first, *rest = journal.entries()
        assert first.entry.protocol_class == "start"
        return rest
    finally:
        journal.close()


def last(operator: Operator) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """Who, how it went, and what of which keyring."""
    entry = entries(operator)[-1].entry
    body: Any = entry.body
    assert (body["role"], body["signers"]) == (None, [])
    action = body["action"]
    return entry.protocol_class, entry.code, action, action["parameters"]


def slot_ids(operator: Operator) -> list[bytes]:
    return [slot.slot_id for slot in operator.keyring().slots]


def test_every_command_that_changes_is_entered_with_what_it_does(
    operator: Operator,
) -> None:
    keyring_id = operator.keyring().header.keyring_id
    first = operator.keyring().slots[0].slot_id
    secret = ("--passphrase-file", operator.secret)
    added = ("slot", "add", "--class", "sgx", "--with", "passphrase", *secret)
    asked: list[tuple[tuple[object, ...], str, dict[str, Any]]] = [
        (("rotate",), "rotate-keyring", {}),
        (("rotate", "--prepare"), "prepare-generation", {}),
        (("retire", "3"), "retire-generation", {"generation": 3}),
        (("destroy", "1", "--yes"), "destroy-generation", {"generation": 1}),
        (
            ("slot", "add", "--class", "sgx", "--label", "x"),
            "add-slot",
            {"factors": ["sgx"], "label": "x", "signer": False},
        ),
        (
            added,
            "add-slot",
            {"factors": ["sgx", "passphrase"], "label": "", "signer": False},
        ),
        (("slot", "rewrap", first.hex()), "renew-slots", {"slot": first}),
        (("slot", "remove", first.hex()), "remove-slot", {"slot": first}),
    ]
    for number, (command, kind, parameters) in enumerate(asked):
        counter = operator.keyring().header.counter
        operator.done(*command)
        by, code, action, told = last(operator)
        assert (by, code, action["kind"]) == ("command", "granted", kind)
        assert told == {"counter": counter, **parameters}
        assert (action["keyring_id"], action["policy_root"]) == (keyring_id, None)
        assert len(entries(operator)) == number + 1


def test_looking_enters_nothing(operator: Operator) -> None:
    for command in (("status",), ("verify",), ("slot", "test")):
        operator.run(*command)
    assert entries(operator) == []


def test_a_change_that_fails_after_all_has_a_second_entry(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object, **__: object) -> None:
        raise ServiceError(Code.STATE_CONFLICT, "another writer")

    monkeypatch.setattr(KeyringKeeper, "change", taken)
    operator.refused("rotate")
    codes = [(e.entry.granted, e.entry.code) for e in entries(operator)]
    assert codes == [(True, "granted"), (False, "state_conflict")]


def test_nothing_is_changed_where_the_journal_takes_no_entry(
    operator: Operator,
) -> None:
    operator.settings().host.journal_path.write_bytes(b"no journal")
    assert "journal_failed" in operator.refused("rotate")
    assert operator.keyring().current.number == 1


def test_the_entry_is_durable_before_the_change(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    def died(*_: object, **__: object) -> None:
        raise DiedError

    monkeypatch.setattr(KeyringKeeper, "change", died)
    with pytest.raises(DiedError):
        operator.run("rotate")
    assert last(operator)[2]["kind"] == "rotate-keyring"


def test_before_the_first_start_there_is_no_journal_and_it_says_so(
    tmp_path: Path,
) -> None:
    operator = Operator(tmp_path)
    operator.done("init")
    said = operator.run("rotate")
    assert said.status == 0
    assert "not in the journal" in said.stderr
    assert not operator.settings().host.journal_path.exists()
    # And the start that follows finds a folder that it takes for new.
    prepare(operator.settings())
    assert operator.run("rotate").stderr == ""


def test_the_audit_shows_who_it_was_not(operator: Operator) -> None:
    operator.done("rotate")
    said = cli_support.run("audit", "tail", "--config", operator.config)
    assert "class=command" in said.stdout


def test_what_init_made_is_entered_by_the_first_start(tmp_path: Path) -> None:
    """There was no journal yet, so the command itself could enter nothing."""
    operator = Operator(tmp_path)
    operator.done("init", "--label", "x")
    operator.done("rotate")
    for _ in range(2):
        prepare(operator.settings())
    journal = SqliteJournal.open(operator.settings().host.journal_path)
    try:
        [found] = journal.entries()
    finally:
        journal.close()
    body: Any = found.entry.body
    action, keyring = body["action"], operator.keyring()
    [slot] = keyring.slots
    assert (found.entry.protocol_class, action["kind"]) == ("start", "find-keyring")
    assert action["keyring_id"] == keyring.header.keyring_id
    assert action["parameters"] == {
        "counter": 2,
        "current": 2,
        "slots": [[slot.slot_id, ["gramine"], "x"]],
    }


# -- damaged slots -----------------------------------------------------------------


def damage(operator: Operator, *at: int) -> list[Slot]:
    """Change a bit of these slots in the file."""
    sealed = decode_keyring(operator.file.read_bytes())
    slots = list(sealed.slots)
    for number in at:
        slot = slots[number]
        wrapped = slot.wrapped[:-1] + bytes([slot.wrapped[-1] ^ 1])
        slots[number] = replace(slot, wrapped=wrapped)
    operator.file.write_bytes(encode_keyring(replace(sealed, slots=tuple(slots))))
    return [slots[number] for number in at]


@pytest.fixture
def three(operator: Operator) -> Operator:
    operator.done("slot", "add", "--class", "sgx", "--label", "second")
    operator.done("slot", "add", "--class", "gramine", "--label", "third")
    return operator


def test_damaged_slots_are_named_and_dropped_and_the_provider_starts(
    three: Operator,
) -> None:
    root = three.keyring().root(1).reveal()
    first, third = damage(three, 0, 2)
    assert "keyring_tampered" in three.refused("status")
    done = three.done("slot", "drop-damaged", "--yes")
    named = [slot["id"] for slot in done["dropped"]]
    assert named == [first.slot_id.hex(), third.slot_id.hex()]
    assert done["slots_left"] == 1
    by, code, action, told = last(three)
    assert (by, code, action["kind"]) == ("command", "granted", "drop-damaged-slots")
    assert told == {"counter": 3, "slots": [first.slot_id, third.slot_id]}
    prepare(three.settings())
    assert [slot.label for slot in three.keyring().slots] == ["second"]
    assert three.keyring().root(1).reveal() == root
    assert three.done("verify")["in_order"] is True


def test_it_asks_after_it_showed_them(three: Operator) -> None:
    [slot] = damage(three, 1)
    before = three.file.read_bytes()
    said = three.run("slot", "drop-damaged", stdin=b"no\n")
    assert said.status == 1
    assert slot.slot_id.hex()[:8] in said.stdout
    assert "is not proven" in said.stderr
    assert three.file.read_bytes() == before
    assert "then give --yes" in three.usage("slot", "drop-damaged", "--json")
    said = three.run("slot", "drop-damaged", stdin=b"yes\n")
    assert said.status == 0
    assert slot.slot_id.hex()[:8] in said.stdout


def test_where_no_slot_is_damaged_there_is_nothing_to_drop(three: Operator) -> None:
    before = three.file.read_bytes()
    assert "nothing to drop" in three.usage("slot", "drop-damaged", "--yes")
    assert three.file.read_bytes() == before


def test_where_every_slot_is_damaged_none_is_dropped(three: Operator) -> None:
    damage(three, 0, 1, 2)
    assert "slot_unavailable" in three.refused("slot", "drop-damaged", "--yes")


def test_anything_else_that_is_damaged_is_no_damaged_slot(three: Operator) -> None:
    damage(three, 0)
    sealed = decode_keyring(three.file.read_bytes())
    header = replace(sealed.header, counter=sealed.header.counter + 1)
    three.file.write_bytes(encode_keyring(replace(sealed, header=header)))
    assert "keyring_tampered" in three.refused("slot", "drop-damaged", "--yes")


def test_under_a_policy_root_it_is_a_command_still(tmp_path: Path) -> None:
    """A provider does not start on it, so no signed action could do it."""
    operator = Operator(tmp_path)
    release = f'root = "keyring"\npolicy_root = "{"ab" * 32}"'
    operator.configure(keyring="create = true", release=release)
    prepare(operator.settings())
    damage(operator, 0)
    with pytest.raises(Exception, match="keyring_tampered"):
        prepare(operator.settings())
    operator.done("slot", "drop-damaged", "--yes")
    prepare(operator.settings())

# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring anchor`` and what opens under it."""

from pathlib import Path
from typing import Any

import pytest
from keyring_cli import Operator

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, KeyReleaseError, PolicyError, ServiceError
from tightseal.keys.keyring import AnchorFile
from tightseal.platform.slots.tpm_wire import OpenTpm
from tightseal.service.compose import prepare
from tightseal.service.keyringanchor import keyed_anchor
from tightseal.service.roots import open_roots
from tightseal.service.state import log_key
from tightseal_sim.tpm import SimTpm

ANCHORED = "tpm = { anchor = true }"
REQUIRED = 'root = "keyring"\nkeyring_anchor = "tpm"'
NOW = 1_800_000_000


@pytest.fixture
def tpm(monkeypatch: pytest.MonkeyPatch) -> SimTpm:
    made = SimTpm(bytes(32))

    def opened(_: Path) -> OpenTpm:
        return made.open

    monkeypatch.setattr("tightseal.service.keyringanchor.open_device", opened)
    return made


@pytest.fixture
def operator(tmp_path: Path, tpm: SimTpm) -> Operator:
    assert not tpm.nv.indices
    made = Operator(tmp_path)
    made.configure(keyring=ANCHORED)
    made.done("init")
    return made


def value(tpm: SimTpm) -> int | None:
    [index] = tpm.nv.indices.values()
    return index.value


def test_init_makes_an_index_and_the_provider_uses_it(
    operator: Operator, tpm: SimTpm
) -> None:
    assert "never saw" in operator.refused("rotate")
    made = operator.done("anchor", "init")
    assert (made["done"], made["anchor"], made["in_use"]) == ("made", "tpm", True)
    assert made["remembered"] == made["counter"] == 1
    [handle] = tpm.nv.indices
    assert made["index"] == f"{handle:#010x}"
    before = value(tpm)
    operator.done("rotate")
    assert before is not None
    assert value(tpm) == before + 1
    told = operator.done("status")
    assert told["anchor"] == "tpm"
    assert "reset or replace the TPM" in told["not_noticed"]
    assert operator.done("verify")["anchor"] == "tpm"
    held = operator.done("anchor", "status")
    assert (held["done"], held["remembered"], held["counter"]) == ("holds", 2, 2)


def test_an_older_file_is_refused_by_every_command(operator: Operator) -> None:
    operator.done("anchor", "init")
    older = operator.file.read_bytes()
    operator.done("rotate")
    operator.file.write_bytes(older)
    commands: list[tuple[str, ...]] = [
        ("status",),
        ("verify",),
        ("rotate",),
        ("anchor", "status"),
        ("slot", "test"),
    ]
    for command in commands:
        assert "keyring_rolled_back" in operator.refused(*command)
    with pytest.raises(KeyReleaseError) as caught:
        open_roots(operator.settings(), operator.platform())
    assert caught.value.code is Code.KEYRING_ROLLED_BACK


def test_a_second_init_is_refused_and_adopt_asks(
    operator: Operator, tpm: SimTpm
) -> None:
    operator.done("anchor", "init")
    first = dict(tpm.nv.indices)
    assert "keyring_exists" in operator.refused("anchor", "init")
    said = operator.run("anchor", "init", "--adopt", stdin=b"no\n")
    assert said.status == 1
    assert tpm.nv.indices == first
    assert operator.run("anchor", "init", "--adopt", stdin=b"yes\n").status == 0
    assert tpm.nv.indices != first
    assert operator.done("status")["anchor"] == "tpm"


def test_adopt_takes_an_older_file_once_an_operator_says_so(
    operator: Operator, tpm: SimTpm
) -> None:
    operator.done("anchor", "init")
    older = operator.file.read_bytes()
    operator.done("rotate")
    operator.file.write_bytes(older)
    operator.done("anchor", "init", "--adopt", "--yes")
    assert operator.done("anchor", "status")["remembered"] == 1
    tpm.clear()
    assert "was cleared" in operator.refused("anchor", "status")


def test_init_is_in_the_journal(operator: Operator) -> None:
    operator.done("anchor", "init")
    prepare(operator.settings())
    operator.done("anchor", "init", "--adopt", "--yes")
    key = log_key(operator.keyring().derive)
    with_key = SqliteJournal.open(operator.settings().host.journal_path, log_key=key)
    try:
        entries = list(with_key.entries())
    finally:
        with_key.close()
    body: Any = entries[-1].entry.body
    assert body["action"]["kind"] == "anchor-keyring"
    assert body["action"]["parameters"] == {"adopt": True, "counter": 1}


def test_without_a_host_setting_nothing_is_asked(
    operator: Operator, tpm: SimTpm
) -> None:
    operator.configure()
    assert keyed_anchor(operator.settings()) is None
    assert operator.done("status")["anchor"] == "none"
    made = operator.done("anchor", "init")
    assert made["in_use"] is False
    assert len(tpm.nv.indices) == 1


def test_a_host_cannot_switch_off_what_measured_settings_require(
    operator: Operator,
) -> None:
    operator.configure(keyring="tpm = { anchor = false }", release=REQUIRED)
    for command in ("status", "verify", "rotate"):
        said = operator.refused(command)
        assert "anchor_required" in said
        assert "tightseal keyring anchor init" in said
    with pytest.raises(PolicyError) as caught:
        open_roots(operator.settings(), operator.platform())
    assert caught.value.code is Code.ANCHOR_REQUIRED
    operator.done("anchor", "init")
    older = operator.file.read_bytes()
    operator.done("rotate")
    assert operator.done("status")["anchor"] == "tpm"
    operator.file.write_bytes(older)
    assert "keyring_rolled_back" in operator.refused("status")


def test_a_renewed_key_keeps_the_anchor(operator: Operator) -> None:
    operator.done("anchor", "init")
    prepare(operator.settings())
    older = operator.file.read_bytes()
    operator.done("renew-key", "--yes")
    after = operator.done("anchor", "status")
    assert after["remembered"] <= after["counter"]
    told = operator.done("status")
    assert told["anchor"] == "tpm"
    after = operator.done("anchor", "status")
    assert after["remembered"] == after["counter"] == 2
    operator.file.write_bytes(older)
    assert "keyring_rolled_back" in operator.refused("status")


def test_a_pin_of_another_tpm_is_refused(operator: Operator) -> None:
    made = operator.done("anchor", "init")
    pin = f'tpm = {{ anchor = true, ek_name = "{made["ek_name"]}" }}'
    operator.configure(keyring=pin)
    operator.done("status")
    other = f'tpm = {{ anchor = true, ek_name = "000b{"00" * 32}" }}'
    operator.configure(keyring=other)
    assert "pinned is another" in operator.refused("status")


@pytest.mark.parametrize("late", [False, True])
def test_a_renewal_that_is_broken_off_at_the_record_goes_on(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    operator.done("anchor", "init")
    prepare(operator.settings())
    honest = AnchorFile.write

    def broken(self: AnchorFile, data: bytes) -> None:
        if late:
            honest(self, data)
        raise ServiceError(Code.STATE_UNAVAILABLE, "the process ends here")

    with monkeypatch.context() as patched:
        patched.setattr(AnchorFile, "write", broken)
        assert operator.run("renew-key", "--yes").status == 2
    waits = operator.file.with_name("keyring.tsk.next")
    assert waits.exists()
    prepare(operator.settings())
    assert not waits.exists()
    held = operator.done("anchor", "status")
    assert held["remembered"] == held["counter"] == 2


def test_a_record_that_was_changed_stops_a_renewal_before_it_begins(
    operator: Operator,
) -> None:
    operator.done("anchor", "init")
    prepare(operator.settings())
    operator.configure()
    record = operator.file.with_name("keyring.tsk.anchor")
    record.write_bytes(record.read_bytes()[:-1] + b"\0")
    assert "anchor record" in operator.refused("renew-key", "--yes")


def test_an_owner_hierarchy_with_a_value_needs_it(
    operator: Operator, tmp_path: Path, tpm: SimTpm
) -> None:
    wrong = tmp_path / "owner"
    wrong.write_text("not the TPM's\n")
    said = operator.run("anchor", "init", "--owner-auth-file", wrong)
    assert said.status == 2
    assert "the owner's authorisation value is another" in said.stderr
    assert "not the TPM's" not in said.stderr
    assert not tpm.nv.indices

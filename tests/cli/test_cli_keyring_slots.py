# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring slot``: ways in are added, tried and made anew; one stays."""

import os
import threading
from pathlib import Path

import pytest
from keyring_cli import PASSPHRASE, Operator

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import unavailable
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.platform.slots.sgx import SgxSlot
from tightseal.platform.slots.tpm_wire import OpenTpm
from tightseal.service.roots import create_keyring, open_roots
from tightseal_sim.tpm import SimTpm

SGX = ("slot", "add", "--class", "sgx", "--label", "second")


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    operator = Operator(tmp_path)
    operator.done("init")
    return operator


@pytest.fixture
def tpm(monkeypatch: pytest.MonkeyPatch) -> SimTpm:
    tpm = SimTpm(bytes(32))
    asked: list[Path] = []

    def opened(path: Path) -> OpenTpm:
        asked.append(path)
        return tpm.open

    monkeypatch.setattr("tightseal.service.slotkeys.open_device", opened)
    return tpm


def test_each_slot_opens_alone(operator: Operator) -> None:
    added = operator.done(*SGX)
    assert (added["done"], added["slots_left"], added["counter"]) == ("added", 2, 2)
    slots = operator.slots()
    assert [slot["class"] for slot in slots.values()] == ["gramine", "sgx"]
    for label in ("first", "second"):
        one = operator.done("slot", "test", slots[label]["id"][:8])
        assert [slot["label"] for slot in one["slots"]] == [label]


def test_microcode_update_ends_one_slot_and_the_other_makes_it_anew(
    operator: Operator,
) -> None:
    operator.done(*SGX)
    root = operator.keyring().root(1)
    operator.world.intel.platform("machine-a").microcode_update()
    slots = operator.slots(status=1)
    assert slots["first"]["opens"] is False
    assert slots["first"]["reason"]
    assert slots["second"]["opens"] is True
    assert "CPUSVN" in slots["second"]["rewrap"]
    said = operator.run("slot", "test")
    assert "DOES NOT OPEN" in said.stdout
    assert f"slot rewrap {slots['second']['id'][:8]}" in said.stdout
    assert "slot rewrap ID makes it anew" in said.stderr
    for label in ("first", "second"):
        done = operator.done("slot", "rewrap", slots[label]["id"][:8])
        assert done["slot"]["id"] == slots[label]["id"]
        assert "older copies" in done["remark"]
    after = operator.slots()
    assert {slot["rewrap"] for slot in after.values()} == {""}
    assert [slot["id"] for slot in after.values()] == [
        slot["id"] for slot in slots.values()
    ]
    assert operator.keyring().root(1) == root


def test_microcode_update_with_one_slot_is_told_with_its_reason(
    operator: Operator,
) -> None:
    operator.world.intel.platform("machine-a").microcode_update()
    refusal = operator.refused("slot", "rewrap", "00000000")
    assert "slot_unavailable" in refusal
    assert "none of 1 slots opens here" in refusal
    assert "next: start where one of its slots opens" in refusal


def test_last_slot_that_works_is_not_removed(operator: Operator) -> None:
    operator.done(*SGX)
    operator.world.intel.platform("machine-a").microcode_update()
    slots = operator.slots(status=1)
    refusal = operator.refused("slot", "remove", slots["second"]["id"])
    assert "slot_last" in refusal
    assert "add one and test it" in refusal
    gone = operator.done("slot", "remove", slots["first"]["id"])
    assert gone["slots_left"] == 1
    assert "older copies of the file still open by it" in gone["remark"]
    assert "slot_last" in operator.refused("slot", "remove", slots["second"]["id"])
    assert list(operator.slots()) == ["second"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("first", "expected 8 hex digits"),
        ("abc", "expected 8 hex digits"),
        ("ab" * 17, "expected 8 hex digits"),
    ],
)
def test_what_is_no_id_of_a_slot_is_a_wrong_command_line(
    operator: Operator, text: str, words: str
) -> None:
    for command in ("remove", "test", "rewrap"):
        assert words in operator.usage("slot", command, text)


def test_unknown_slot_is_told_with_those_that_are_there(operator: Operator) -> None:
    refusal = operator.usage("slot", "remove", "00" * 16)
    assert str(operator.keyring().slots[0]) in refusal


def test_class_that_is_not_here_is_told_with_those_that_are(
    operator: Operator,
) -> None:
    refusal = operator.usage("slot", "add", "--class", "snp")
    assert "slot snp: this provider has none; here are: gramine, sgx" in refusal
    for name, setting in (("tpm2", "tpm.pcrs"), ("passphrase", "")):
        told = operator.usage("slot", "add", "--class", "gramine", "--with", name)
        assert (f"host.keyring.{setting}" if setting else "no terminal") in told
    assert "Choose from" in operator.usage("slot", "add", "--class", "council")


# -- what a provider does by itself ----------------------------------------------


def test_provider_makes_a_slot_of_each_class_that_works(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.file.unlink()
    create_keyring(operator.settings(), operator.platform(), now=1)
    assert [s["class"] for s in operator.done("status")["slots"]] == ["gramine", "sgx"]
    operator.file.unlink()

    def broken(*_: object, **__: object) -> None:
        raise unavailable(SlotClass.GRAMINE, "no such file")

    monkeypatch.setattr(GramineSlot, "create", broken)
    create_keyring(operator.settings(), operator.platform(), now=1)
    assert [s["class"] for s in operator.done("status")["slots"]] == ["sgx"]
    operator.file.unlink()
    monkeypatch.setattr(SgxSlot, "create", broken)
    with pytest.raises(KeyReleaseError, match="no such file") as refused:
        create_keyring(operator.settings(), operator.platform(), now=1)
    assert refused.value.code is Code.SLOT_UNAVAILABLE
    assert not operator.file.exists()


def test_provider_renews_at_its_start_what_opens_with_old_microcode(
    operator: Operator,
) -> None:
    operator.configure(keyring=f'passphrase_file = "{operator.secret}"')
    operator.done(*SGX)
    both = ("--class", "gramine", "--with", "passphrase", "--label", "both")
    operator.done("slot", "add", *both)
    operator.world.intel.platform("machine-a").microcode_update()
    before = {s.label: s for s in operator.keyring().slots}
    open_roots(operator.settings(), operator.platform())
    assert {s.label: s for s in operator.keyring().slots} == before
    open_roots(operator.settings(), operator.platform(), now=1)
    after = {s.label: s for s in operator.keyring().slots}
    # The others do not open: they may be another machine's.
    assert {label for label in after if after[label] != before[label]} == {"second"}
    assert operator.slots(status=1)["second"]["rewrap"] == ""
    counter = operator.keyring().header.counter
    open_roots(operator.settings(), operator.platform(), now=1)
    assert operator.keyring().header.counter == counter


def test_provider_leaves_second_factors_as_an_operator_bound_them(
    operator: Operator, tpm: SimTpm
) -> None:
    assert tpm.pcrs
    operator.configure(keyring="tpm = { pcrs = [0, 7] }")
    both = ("--class", "sgx", "--with", "tpm2", "--label", "both")
    operator.done("slot", "add", *both)
    operator.configure(keyring="tpm = { pcrs = [0] }")
    before = operator.file.read_bytes()
    open_roots(operator.settings(), operator.platform(), now=1)
    assert operator.file.read_bytes() == before


def test_provider_that_cannot_renew_a_slot_starts_all_the_same(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.done(*SGX)
    operator.world.intel.platform("machine-a").microcode_update()

    def broken(*_: object, **__: object) -> None:
        raise unavailable(SlotClass.SGX, "not now")

    monkeypatch.setattr(SgxSlot, "create", broken)
    own = open_roots(operator.settings(), operator.platform(), now=1)
    assert own.keeper is not None
    assert own.keeper.keyring.header.counter == 2


# -- second factors ---------------------------------------------------------------


def test_passphrase_beside_the_enclave_takes_both(operator: Operator) -> None:
    files = ("--passphrase-file", operator.secret)
    operator.done(*SGX)
    more = ("--class", "gramine", "--with", "passphrase", "--label", "both")
    said = operator.run("slot", "add", *more, *files)
    assert said.status == 0
    assert "host.keyring.passphrase_file" in said.stderr
    slots = operator.slots(status=1)
    assert slots["both"]["factors"] == ["gramine", "passphrase"]
    assert "host.keyring.passphrase_file" in slots["both"]["reason"]
    assert all(slot["opens"] for slot in operator.slots(*files).values())
    operator.secret.write_text("another passphrase of some length")
    assert operator.slots(*files, status=1)["both"]["opens"] is False
    operator.secret.write_text(PASSPHRASE)
    operator.configure(keyring=f'passphrase_file = "{operator.secret}"')
    assert all(slot["opens"] for slot in operator.slots().values())
    operator.world.intel.platform("machine-a").microcode_update()
    assert operator.slots(status=1)["both"]["opens"] is False


def test_slot_that_lacks_a_setting_names_it(operator: Operator) -> None:
    files = ("--passphrase-file", operator.secret)
    operator.file.unlink()
    operator.done("init", "--class", "passphrase", *files)
    refusal = operator.refused("status")
    assert "slot_unavailable" in refusal
    assert "name a file in host.keyring.passphrase_file" in refusal
    assert operator.done("status", *files)["verified"] is True


def test_all_factors_together(operator: Operator, tpm: SimTpm) -> None:
    assert tpm.pcrs
    files = ("--passphrase-file", operator.secret)
    operator.configure(keyring="tpm = { pcrs = [7] }")
    second = ("--with", "passphrase", "--with", "tpm2")
    more = ("--class", "sgx", *second, "--label", "all", *files)
    made = operator.done("slot", "add", *more)["slot"]
    assert made["factors"] == ["sgx", "tpm2", "passphrase"]
    assert operator.slots(*files)["all"]["opens"] is True
    assert operator.slots(status=1)["all"]["opens"] is False
    operator.configure()
    reason = operator.slots(*files, status=1)["all"]["reason"]
    assert "host.keyring.tpm.pcrs" in reason


def test_passphrase_too_short_makes_no_slot(operator: Operator) -> None:
    operator.secret.write_text("short")
    more = ("--class", "passphrase", "--passphrase-file", operator.secret)
    refusal = operator.refused("slot", "add", *more)
    assert "under 14 characters" in refusal
    assert "short" not in refusal


def test_passphrase_from_a_pipe_is_read_once(operator: Operator) -> None:
    pipe = operator.place / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(PASSPHRASE,))
    writer.start()
    more = ("--class", "gramine", "--with", "passphrase", "--label", "piped")
    operator.done("slot", "add", *more, "--passphrase-file", pipe)
    writer.join()
    tried = operator.slots("--passphrase-file", operator.secret)
    assert tried["piped"]["opens"] is True


def test_file_of_a_passphrase_that_is_not_there(operator: Operator) -> None:
    said = operator.usage("status", "--passphrase-file", operator.place / "none")
    assert "settings_invalid" in said


@pytest.mark.parametrize("label", ["x" * 129, "a\nb", "\u00fc"])
def test_label_that_does_not_print_is_a_wrong_command_line(
    operator: Operator, label: str
) -> None:
    assert "--label" in operator.usage(*SGX[:-1], label)
    assert len(operator.keyring().slots) == 1


def test_passphrase_alone_opens_in_a_simulated_world(operator: Operator) -> None:
    files = ("--passphrase-file", operator.secret)
    more = ("--class", "passphrase", "--label", "typed")
    operator.done("slot", "add", *more, *files)
    operator.configure(machine="machine-b")
    assert "slot_unavailable" in operator.refused("status")
    assert operator.done("status", *files)["slots"][1]["opens"] is True


def test_passphrase_of_a_terminal_is_asked_for_the_new_slot_alone(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[None] = []

    def typed(file: None) -> bytes:
        files.append(file)
        return PASSPHRASE.encode()

    monkeypatch.setattr("tightseal.cli.keyring_open.new_passphrase", typed)
    more = ("--class", "gramine", "--with", "passphrase", "--label", "typed")
    operator.done("slot", "add", *more)
    assert files == [None]
    tried = operator.slots("--passphrase-file", operator.secret)
    assert tried["typed"]["opens"] is True


def test_factors_that_do_not_go_together_are_refused(operator: Operator) -> None:
    files = ("--passphrase-file", operator.secret)
    more = ("--class", "passphrase", "--with", "passphrase", *files)
    assert "none twice" in operator.usage("slot", "add", *more)


def test_tpm_beside_the_enclave_takes_the_same_pcrs(
    operator: Operator, tpm: SimTpm
) -> None:
    operator.configure(keyring="tpm = { pcrs = [0, 7] }")
    more = ("--class", "gramine", "--with", "tpm2", "--label", "both")
    operator.done("slot", "add", *more)
    assert all(slot["opens"] for slot in operator.slots().values())
    operator.configure(keyring="tpm = { pcrs = [0, 7, 9] }")
    assert "at least [0, 7, 9]" in operator.slots(status=1)["both"]["reason"]
    operator.configure(keyring="tpm = { pcrs = [0] }")
    assert "now [0]" in operator.slots()["both"]["rewrap"]
    operator.configure(keyring="tpm = { pcrs = [0, 7] }")
    tpm.extend(7, bytes(32))
    assert "PCR 7 was" in operator.slots(status=1)["both"]["reason"]
    operator.done("slot", "rewrap", operator.slots(status=1)["both"]["id"])
    assert operator.slots()["both"]["opens"] is True


@pytest.mark.usefixtures("tpm")
def test_tpm_of_another_pin_is_refused(operator: Operator) -> None:
    name = "000b" + "ab" * 32
    operator.configure(keyring=f'tpm = {{ pcrs = [7], ek_name = "{name}" }}')
    more = ("--class", "gramine", "--with", "tpm2")
    assert "another TPM" in operator.refused("slot", "add", *more)


@pytest.mark.parametrize(
    "text", ["pcrs = [24]", "pcrs = [-1]", 'ek_name = "000b"', 'ek_name = "ab"']
)
def test_tpm_settings_that_cannot_be_are_refused(operator: Operator, text: str) -> None:
    operator.configure(keyring=f"tpm = {{ {text} }}")
    assert "host.keyring.tpm" in operator.usage("status")


def test_slot_that_does_not_open_again_is_not_kept(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter([PASSPHRASE, "another passphrase than that"])

    def forgetful(_self: PassphraseSlot) -> bytes:
        return next(typed).encode()

    monkeypatch.setattr(PassphraseSlot, "_typed", forgetful)
    more = ("--class", "passphrase", "--passphrase-file", operator.secret)
    refusal = operator.refused("slot", "add", *more)
    assert "made, and does not open again" in refusal
    assert [s.slot_class for s in operator.keyring().slots] == [SlotClass.GRAMINE]

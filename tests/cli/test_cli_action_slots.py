# SPDX-License-Identifier: Apache-2.0
"""``tightseal action`` about slots and generations of a keyring."""

from pathlib import Path

import pytest
from action_cli import key_files, new, read, run

from tightseal.model.action import ActionKind, KeyringParameters, SlotParameters
from tightseal.model.slots import SlotClass

KEYRING = "cd" * 32
SLOT = "0b" * 16
ADD = ("--slot-class", "sgx")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return key_files(tmp_path_factory.mktemp("keys"))


def options(kind: str, tmp_path: Path, keys: dict[str, Path]) -> dict[str, object]:
    return {
        "kind": kind,
        "tenant": None,
        "workload": None,
        "keyring": KEYRING,
        "counter": 4,
        "key": keys["alice"],
        "out": tmp_path / "slot.action",
    }


@pytest.mark.parametrize(
    ("kind", "words", "expected", "shown"),
    [
        (
            "add-slot",
            (*ADD, "--with", "passphrase", "--with", "tpm2", "--label", "the boot"),
            SlotParameters(
                4,
                factors=(SlotClass.SGX, SlotClass.TPM2, SlotClass.PASSPHRASE),
                label="the boot",
            ),
            "sgx+tpm2+passphrase",
        ),
        (
            "add-slot",
            (*ADD, "--signer"),
            SlotParameters(4, factors=(SlotClass.SGX,), signer=True),
            "sgx of the enclave's signer",
        ),
        (
            "remove-slot",
            ("--slot", SLOT),
            SlotParameters(4, bytes.fromhex(SLOT)),
            SLOT,
        ),
        ("renew-slots", (), SlotParameters(4), "every one that opens"),
        ("prepare-generation", (), KeyringParameters(4), "keyring counter"),
        (
            "retire-generation",
            ("--generation", "5"),
            KeyringParameters(4, 5),
            "generation",
        ),
    ],
)
def test_what_is_said_is_signed_and_shown(
    tmp_path: Path,
    keys: dict[str, Path],
    kind: str,
    words: tuple[str, ...],
    expected: object,
    shown: str,
) -> None:
    said = new(*words, **options(kind, tmp_path, keys))
    assert said.status == 0, said.stderr
    assert shown in said.stdout
    action = read(tmp_path / "slot.action").action
    assert (action.kind, action.parameters) == (ActionKind(kind), expected)
    told = run("show", tmp_path / "slot.action")
    assert told.status == 0
    assert shown in told.stdout


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("add-slot", (), "--slot-class is missing"),
        ("remove-slot", ("--slot", "0b51"), "expected 32 hex digits"),
        ("add-slot", (*ADD, "--generation", "2"), "has no --generation"),
        ("add-slot", (*ADD, "--label", "ä"), "printable ASCII"),
        ("retire-generation", (), "--generation is missing"),
        ("rotate-keyring", ("--slot", SLOT), "about no slot"),
    ],
    ids=[
        "add_without_a_class",
        "beginning_of_an_id",
        "slot_with_a_generation",
        "label_that_does_not_print",
        "retire_without_a_generation",
        "rotation_with_a_slot",
    ],
)
def test_wrong_command_line(
    tmp_path: Path,
    keys: dict[str, Path],
    kind: str,
    words: tuple[str, ...],
    message: str,
) -> None:
    said = new(*words, **options(kind, tmp_path, keys))
    assert said.status == 2
    assert message in said.stderr
    assert not (tmp_path / "slot.action").exists()


@pytest.mark.parametrize(
    ("kind", "words"), [("remove-slot", ()), ("remove-slot", ("--slot", SLOT, *ADD))]
)
def test_what_does_not_fit_the_kind_is_malformed(
    tmp_path: Path, keys: dict[str, Path], kind: str, words: tuple[str, ...]
) -> None:
    said = new(*words, **options(kind, tmp_path, keys))
    assert said.status != 0
    assert "action_malformed" in said.stderr
    assert not (tmp_path / "slot.action").exists()


def test_a_counter_has_to_be_said(tmp_path: Path, keys: dict[str, Path]) -> None:
    given = options("renew-slots", tmp_path, keys) | {"counter": None}
    assert "--counter is missing" in new(**given).stderr

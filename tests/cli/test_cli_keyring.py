# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring``: made once, shown, rotated, destroyed with a warning."""

import base64
import stat
from pathlib import Path

import pytest
from keyring_cli import PASSPHRASE, Operator

from tightseal.guest.pins import pin_from_toml
from tightseal.keys.keyring import GenerationState, KeyringFile, keep, rotate
from tightseal.model.action import ActionKind


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


@pytest.fixture
def made(operator: Operator) -> Operator:
    operator.done("init")
    operator.done("slot", "add", "--class", "sgx", "--label", "second")
    return operator


# -- init -------------------------------------------------------------------------


def test_init_makes_a_keyring_and_says_what_the_pin_needs(operator: Operator) -> None:
    made = operator.done("init", "--label", "the enclave's")
    keyring = operator.keyring()
    assert stat.S_IMODE(operator.file.stat().st_mode) == 0o600
    assert made["file"] == str(operator.file)
    assert made["keyring_id"] == keyring.header.keyring_id.hex()
    assert made["counter"] == 1
    assert [slot["label"] for slot in made["slots"]] == ["the enclave's"]
    assert made["next"].startswith("tightseal keyring slot add --class sgx")
    pin = pin_from_toml(
        f'[provider]\ntee = "sgx"\nmeasurement = "{"11" * 32}"\n{made["pin"]}\n'
        f'settings_digest = "{"22" * 64}"\ntrust_domains = ["intel"]\n'
    )
    assert pin.identity.keyring_id == keyring.header.keyring_id


def test_init_of_a_chosen_class(operator: Operator) -> None:
    made = operator.done("init", "--class", "sgx")
    assert [slot["class"] for slot in made["slots"]] == ["sgx"]
    assert "--class gramine" in made["next"]


def test_init_for_people_names_the_second_slot_first_of_all(operator: Operator) -> None:
    said = operator.run("init")
    assert said.status == 0
    assert said.stdout.startswith(f"made  {operator.file}")
    line = f'keyring_id = "{operator.keyring().header.keyring_id.hex()}"'
    assert line in said.stdout
    assert "tightseal keyring slot add --class sgx" in said.stdout
    assert "simulated world" in said.stderr
    assert "lost with this machine" in said.stderr


def test_init_never_goes_over_a_keyring(made: Operator) -> None:
    assert "keyring_exists" in made.refused("init")


def test_init_refuses_the_place_of_a_keyring_of_which_a_previous_one_is_left(
    made: Operator,
) -> None:
    made.file.rename(made.previous)
    assert "keyring_exists" in made.refused("init")


def test_init_refuses_a_policy_root_that_is_not_known_yet(operator: Operator) -> None:
    operator.configure(release='root = "keyring"\npolicy_root = "first-start"')
    said = operator.run("init")
    assert said.status == 2
    assert "a keyring needs a root that is known" in said.stderr
    assert not operator.file.exists()


@pytest.mark.parametrize("command", [("init",), ("status", "--unverified")])
def test_provider_without_a_keyring_is_told_so(
    operator: Operator, command: tuple[str, ...]
) -> None:
    operator.configure(release="")
    said = operator.run(*command)
    assert said.status == 2
    assert 'release.root is "platform"' in said.stderr
    assert not operator.file.exists()


# -- status -----------------------------------------------------------------------


def test_status_shows_what_is_proven_and_what_would_go_unnoticed(
    made: Operator,
) -> None:
    found = made.done("status")
    header = made.keyring().header
    assert found["verified"] is True
    assert found["keyring_id"] == header.keyring_id.hex()
    assert found["trust_domain"] == header.trust_domain
    assert (found["counter"], found["minimum_policy_version"]) == (2, 0)
    assert [g["state"] for g in found["generations"]] == ["current"]
    assert [slot["opens"] for slot in found["slots"]] == [True, True]
    assert found["opened_by"] == found["slots"][0]["id"]
    assert found["anchor"] == "none"
    assert "older copy" in found["not_noticed"]
    text = made.run("status").stdout
    for part in (header.keyring_id.hex(), "anchor             none", "'second'  opens"):
        assert part in text


def test_status_warns_of_a_single_slot(operator: Operator) -> None:
    operator.done("init")
    assert "one slot alone opens here" in operator.run("status").stderr


def test_unverified_status_needs_no_slot_and_says_what_it_is_worth(
    made: Operator,
) -> None:
    made.configure(machine="machine-b")
    refusal = made.refused("status")
    assert "slot_unavailable" in refusal
    assert "none of 2 slots opens here" in refusal
    assert "status --unverified" in refusal
    found = made.done("status", "--unverified")
    assert found["verified"] is False
    assert found["counter"] == 2
    assert {slot["opens"] for slot in found["slots"]} == {None}
    assert (found["anchor"], found["opened_by"]) == (None, None)
    text = made.run("status", "--unverified").stdout
    assert text.startswith("NOT VERIFIED")
    assert "not tried" in text


def test_documents_of_both_kinds_of_status_have_the_same_fields(
    made: Operator,
) -> None:
    assert made.done("status").keys() == made.done("status", "--unverified").keys()


def test_status_of_a_keyring_with_a_changed_byte_is_refused(made: Operator) -> None:
    data = bytearray(made.file.read_bytes())
    data[-1] ^= 1
    made.file.write_bytes(data)
    assert "keyring_tampered" in made.refused("status")
    assert made.done("status", "--unverified")["verified"] is False


def test_status_of_no_keyring(operator: Operator) -> None:
    said = operator.run("status")
    assert said.status != 0
    assert "keyring_missing" in said.stderr
    assert "--unverified" not in said.stderr


# -- generations ------------------------------------------------------------------


def test_rotation_makes_a_new_current_generation_and_keeps_the_old_root(
    made: Operator,
) -> None:
    old = made.keyring().root(1)
    done = made.done("rotate")
    assert (done["current"], done["previous"], done["counter"]) == (2, 1, 3)
    assert done["erased"] is None
    keyring = made.keyring()
    assert keyring.root(1) == old
    assert keyring.root(2) != old
    assert "generation 3 is current" in made.run("rotate").stdout


def test_prepared_generation_is_taken_by_the_next_rotation(made: Operator) -> None:
    ahead = made.done("rotate", "--prepare")
    assert ahead["current"] == 1
    assert [g["state"] for g in ahead["generations"]] == ["current", "pre-active"]
    assert "pre-active already" in made.refused("rotate", "--prepare")
    assert made.done("rotate")["current"] == 2
    assert len(made.keyring().generations) == 2


def test_prepared_generation_can_be_withdrawn_and_never_becomes_current(
    made: Operator,
) -> None:
    made.done("rotate", "--prepare")
    made.done("retire", "2")
    assert made.done("rotate")["current"] == 3
    assert "which does not become retired" in made.refused("retire", "2")


def test_current_generation_neither_retires_nor_is_destroyed(made: Operator) -> None:
    refusal = made.refused("retire", "1")
    assert "generation_not_allowed" in refusal
    assert "rotate, which retires it" in refusal
    assert "generation_not_allowed" in made.refused("destroy", "1", "--yes")
    assert "generation_unknown" in made.refused("destroy", "2", "--yes")


def test_destroying_says_what_older_copies_still_open_and_waits_for_a_yes(
    made: Operator,
) -> None:
    made.done("rotate")
    backup = made.file.read_bytes()
    for answer in (b"", b"y\n", b"no\n"):
        said = made.run("destroy", "1", stdin=answer)
        assert said.status == 1
        assert "nothing was destroyed" in said.stderr
        assert made.file.read_bytes() == backup
        assert "older copies of the file" in said.stdout
        for slot in made.keyring().slots:
            assert str(slot) in said.stdout
    done = made.run("destroy", "1", stdin=b"yes\n")
    assert done.status == 0
    assert "not erased" in done.stdout
    assert made.keyring().generation(1).state is GenerationState.DESTROYED
    # What it says is true: an older copy opens, and holds the generation.
    made.file.write_bytes(backup)
    assert made.keyring().root(1)


@pytest.mark.parametrize(
    ("command", "action"),
    [
        (("rotate",), "rotate-keyring"),
        (("rotate", "--prepare"), "prepare-generation"),
        (("retire", "1"), "retire-generation"),
        (("destroy", "1", "--yes"), "destroy-generation"),
        (("slot", "add", "--class", "sgx"), "add-slot"),
        (("slot", "remove", "00000000"), "remove-slot"),
        (("slot", "rewrap", "00000000"), "renew-slots"),
    ],
)
def test_under_a_policy_root_a_keyring_is_changed_by_signed_action_alone(
    operator: Operator, command: tuple[str, ...], action: str
) -> None:
    """Being on the machine authorises nothing."""
    root = "ab" * 32
    operator.configure(release=f'root = "keyring"\npolicy_root = "{root}"')
    following = operator.done("init")["next"]
    assert "action sign --kind add-slot --slot-class sgx" in following
    said = operator.refused(*command)
    assert f"--kind {action}," in said
    assert action in set(ActionKind)
    assert operator.run("verify").status == 0


def test_destroying_as_json_does_not_ask_and_claims_no_erasure(made: Operator) -> None:
    made.done("rotate")
    assert "then give --yes" in made.usage("destroy", "1", "--json")
    done = made.done("destroy", "1", "--yes")
    assert done["erased"] is False
    assert "older copies" in done["not_erased"]
    assert (done["current"], done["previous"]) == (2, None)
    assert "destroyed          1, the last one 1" in made.run("status").stdout


def test_destroying_is_refused_where_the_keyring_changed_while_it_asked(
    made: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.done("rotate")

    def meanwhile(*_: object, **__: object) -> bool:
        keyring, file = made.keyring(), KeyringFile(made.file)
        keep(file, rotate(keyring, now=0), replaces=file.load(), anchor=None)
        return True

    monkeypatch.setattr("tightseal.cli.keyring.agreed", meanwhile)
    said = made.run("destroy", "1", "--yes")
    assert said.status == 1
    assert "state_conflict" in said.stderr
    assert made.keyring().generation(1).living


# -- verify -----------------------------------------------------------------------


def test_verify_opens_every_slot_and_generation(made: Operator) -> None:
    made.done("rotate")
    made.done("rotate")
    made.done("destroy", "1", "--yes")
    found = made.done("verify")
    assert found["in_order"] is True
    assert (found["generations_opened"], found["generations_destroyed"]) == (2, 1)
    assert [slot["opens"] for slot in found["slots"]] == [True, True]
    assert (found["source"], found["previous_counter"]) == ("current", None)
    assert made.run("verify").stdout.startswith("in order")


def test_verify_sees_a_slot_that_does_not_open(made: Operator) -> None:
    made.world.intel.platform("machine-a").microcode_update()
    found = made.done("verify", status=1)
    assert found["in_order"] is False
    assert [slot["opens"] for slot in found["slots"]] == [False, True]
    assert "DOES NOT OPEN" in made.run("verify").stdout


def test_verify_looks_at_the_version_that_a_crash_left_beside(made: Operator) -> None:
    before = made.file.read_bytes()
    made.done("rotate")
    made.previous.write_bytes(before)
    found = made.done("verify")
    assert (found["previous_counter"], found["counter"]) == (2, 3)
    assert "counter 2, left by a crash" in made.run("verify").stdout
    made.previous.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    found = made.done("verify", status=1)
    assert "keyring_tampered" in found["previous_wrong"]
    made.previous.write_bytes(made.file.read_bytes())
    made.file.write_bytes(before)
    found = made.done("verify", status=1)
    assert "counter 3, but the file has 2" in found["previous_wrong"]


@pytest.mark.parametrize("damage", ["gone", "truncated"])
def test_verify_of_a_lost_file_says_how_to_go_on_from_the_previous_one(
    made: Operator, damage: str
) -> None:
    whole = made.file.read_bytes()
    made.previous.write_bytes(whole)
    if damage == "gone":
        made.file.unlink()
    else:
        made.file.write_bytes(whole[:100])
    found = made.done("verify", status=1)
    assert (found["source"], found["counter"]) == ("previous", 2)
    assert found["passed_over"]
    said = made.run("verify")
    assert f"move {made.previous} to {made.file}" in said.stderr
    assert "is lost" in said.stderr
    # The way that it names works.
    made.previous.rename(made.file)
    assert made.done("verify")["in_order"] is True


# -- all of them ------------------------------------------------------------------


def test_no_command_says_anything_secret(operator: Operator) -> None:
    files = ("--passphrase-file", operator.secret)
    operator.run("init")
    with_passphrase = ("--class", "gramine", "--with", "passphrase", "--label", "two")
    operator.run("slot", "add", *with_passphrase, *files)
    operator.run("slot", "add", *with_passphrase, *files, "--json")
    operator.run("rotate")
    operator.run("rotate", "--json")
    secrets = [operator.keyring().root(n).reveal() for n in (1, 2, 3)]
    for command in ("status", "verify", ("slot", "test")):
        words = (command,) if isinstance(command, str) else command
        for more in ((), files, ("--json",), (*files, "--json")):
            operator.run(*words, *more)
    operator.run("destroy", "1", "--yes")
    operator.configure(machine="machine-b")
    operator.run("status")
    operator.configure()
    secrets.append(operator.keyring().key.reveal())
    output = "".join(said.stdout + said.stderr for said in operator.said)
    assert "slot_unavailable" in output
    assert PASSPHRASE not in output
    for secret in secrets:
        for form in (
            secret.hex(),
            base64.b64encode(secret).decode().rstrip("="),
            base64.urlsafe_b64encode(secret).decode().rstrip("="),
            repr(secret)[2:-1],
        ):
            assert form not in output


def test_missing_settings_file_names_the_next_step(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.config.unlink()
    assert "tightseal config init" in operator.usage("status")

# SPDX-License-Identifier: Apache-2.0
"""A TPM's counter as anchor of a keyring, with swtpm and the simulated TPM."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from anchor_rig import (
    Provider,
    index_of,
    make_index,
    remove_index,
    rotated,
)
from tpm_swtpm import Swtpm, Tpm, Tpms

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.keys.keyring import keep
from tightseal.model.secret import Secret
from tightseal.model.state import AnchorClass
from tightseal.release import tpmanchor
from tightseal.release.tpmanchor import AnchorTpm

AHEAD = 12


@pytest.fixture
def provider(tpm: Tpm, tmp_path: Path) -> Provider:
    """With an anchor, and at counter 3."""
    made = Provider(tmp_path / "keyring.tsk", AnchorTpm(tpm.open))
    made.make()
    made.begin()
    keeper = made.start()
    keeper.change(rotated)
    keeper.change(rotated)
    return made


def refused(provider: Provider) -> str:
    with pytest.raises(KeyReleaseError) as caught:
        provider.start()
    assert caught.value.code is Code.KEYRING_ROLLED_BACK
    return caught.value.detail


def test_a_keyring_that_the_tpm_never_saw_is_refused(tpm: Tpm, tmp_path: Path) -> None:
    provider = Provider(tmp_path / "keyring.tsk", AnchorTpm(tpm.open))
    provider.make()
    detail = refused(provider)
    assert "never saw" in detail
    assert "tightseal keyring anchor init" in detail
    provider.begin()
    assert provider.start().anchor is AnchorClass.TPM


def test_what_is_held_says_what_goes_unnoticed(provider: Provider) -> None:
    opened = provider.start().opened
    assert opened.anchor is AnchorClass.TPM
    assert opened.not_noticed == AnchorClass.TPM.not_noticed


def test_each_change_counts_once(provider: Provider) -> None:
    assert provider.remembered() == provider.counter() == 3
    before = provider.anchor(provider.unanchored().keyring).state(
        provider.unanchored().keyring_id
    )
    provider.start().change(rotated)
    after = provider.anchor(provider.unanchored().keyring).state(
        provider.unanchored().keyring_id
    )
    assert before is not None
    assert after is not None
    assert after.value == before.value + 1
    assert provider.remembered() == 4


def test_an_older_file_is_refused_after_a_restart(provider: Provider, tpm: Tpm) -> None:
    older = provider.path.read_bytes()
    provider.start().change(rotated)
    newest = provider.path.read_bytes()
    tpm.reboot()
    provider.path.write_bytes(older)
    assert "counter 3, but anchor tpm has seen 4" in refused(provider)
    provider.path.write_bytes(newest)
    assert provider.start().keyring.header.counter == 4


def test_an_older_file_with_its_record_is_refused(provider: Provider) -> None:
    older = provider.path.read_bytes(), provider.record_path.read_bytes()
    provider.start().change(rotated)
    provider.path.write_bytes(older[0])
    provider.record_path.write_bytes(older[1])
    assert "has seen 4" in refused(provider)


def test_a_crash_before_the_tpm_was_told_is_made_up_for(provider: Provider) -> None:
    keeper = provider.unanchored()
    file = provider.file
    loaded = file.load()
    for _ in range(2):
        keyring = rotated(keeper.keyring)
        keep(file, keyring, replaces=loaded, anchor=None)
        keeper, loaded = provider.unanchored(), file.load()
    assert (provider.counter(), provider.remembered()) == (5, 3)
    provider.start()
    assert provider.remembered() == 5


def test_more_than_may_be_made_up_for_is_refused(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpmanchor, "MAX_CATCH_UP", 1)
    keeper = provider.unanchored()
    keeper.change(rotated)
    keeper.change(rotated)
    with pytest.raises(ServiceError, match="2 behind, at most 1") as caught:
        provider.start()
    assert caught.value.code is Code.STATE_UNAVAILABLE
    assert "anchor init --adopt" in caught.value.detail
    assert provider.remembered() == 3
    provider.begin(adopt=True)
    assert provider.start().keyring.header.counter == 5


def test_a_tpm_that_was_cleared_is_refused_until_adopted(
    provider: Provider, tpm: Tpm
) -> None:
    tpm.clear()
    assert "the TPM was cleared, or its owner removed it" in refused(provider)
    with pytest.raises(KeyReleaseError) as caught:
        provider.begin()
    assert caught.value.code is Code.KEYRING_EXISTS
    provider.begin(adopt=True)
    provider.start().change(rotated)
    assert provider.remembered() == 4


def test_another_tpm_is_refused(provider: Provider, tpms: Tpms) -> None:
    provider.tpm = AnchorTpm(tpms.new().open)
    assert "another TPM" in refused(provider)


def test_a_pinned_ek_holds_against_the_record(provider: Provider) -> None:
    record = provider.opened_record()
    honest = provider.tpm
    provider.tpm = replace(honest, ek_name=record.ek)
    provider.start()
    provider.tpm = replace(honest, ek_name=bytes(34))
    assert "pinned is another" in refused(provider)


def test_a_new_anchor_is_made_in_the_pinned_tpm_alone(
    provider: Provider, tpms: Tpms
) -> None:
    pinned = provider.opened_record().ek
    provider.tpm = AnchorTpm(tpms.new().open, ek_name=pinned)
    before = provider.record_path.read_bytes()
    with pytest.raises(KeyReleaseError, match="another TPM"):
        provider.begin(adopt=True)
    assert provider.record_path.read_bytes() == before


def test_an_index_that_was_removed_is_refused(provider: Provider) -> None:
    remove_index(provider.tpm.open_tpm, provider.opened_record().handle)
    assert "its owner removed it" in refused(provider)


def test_an_index_that_the_host_made_again_is_refused(provider: Provider) -> None:
    index = index_of(provider.opened_record())
    for forged in (
        replace(index, auth=Secret(b"the host's")),
        replace(index, auth=Secret(b"")),
        replace(index, policy=bytes(32)),
    ):
        remove_index(provider.tpm.open_tpm, index.handle)
        make_index(provider.tpm.open_tpm, forged)
        assert "somebody made it again" in refused(provider)


def test_an_index_made_again_with_its_own_value_lets_nothing_older_in(
    provider: Provider,
) -> None:
    """As somebody could who once had the keyring key, and is the TPM's owner."""
    record, older = provider.opened_record(), provider.path.read_bytes()
    provider.start().change(rotated)
    remove_index(provider.tpm.open_tpm, record.handle)
    assert make_index(provider.tpm.open_tpm, index_of(record)) > record.value
    assert "has seen 5" in refused(provider)
    provider.path.write_bytes(older)
    assert "has seen 5" in refused(provider)


def test_the_record_of_an_index_that_was_given_up_is_refused(
    provider: Provider,
) -> None:
    older = provider.path.read_bytes(), provider.record_path.read_bytes()
    keeper = provider.unanchored()
    for _ in range(AHEAD):
        keeper.change(rotated)
    provider.begin(adopt=True)
    provider.path.write_bytes(older[0])
    provider.record_path.write_bytes(older[1])
    assert "somebody made it again" in refused(provider)


def test_no_second_index_stands_beside_the_first(provider: Provider) -> None:
    provider.record_path.unlink()
    with pytest.raises(KeyReleaseError, match="the TPM has an index") as caught:
        provider.begin()
    assert caught.value.code is Code.KEYRING_EXISTS
    assert not provider.record_path.exists()


def test_a_record_that_is_missing_is_refused(provider: Provider) -> None:
    provider.record_path.unlink()
    assert "never saw" in refused(provider)


def test_a_record_that_goes_while_the_provider_runs_stops_changes(
    provider: Provider,
) -> None:
    keeper = provider.start()
    provider.record_path.unlink()
    with pytest.raises(KeyReleaseError, match="no record") as caught:
        keeper.change(rotated)
    assert caught.value.code is Code.KEYRING_ROLLED_BACK


def test_a_tpm_that_does_not_answer_is_unavailable(
    provider: Provider, tmp_path: Path
) -> None:
    def absent() -> NoReturn:
        raise FileNotFoundError(2, "No such file", str(tmp_path))

    provider.tpm = AnchorTpm(absent)
    with pytest.raises(ServiceError, match="no TPM answers: ENOENT") as caught:
        provider.start()
    assert caught.value.code is Code.STATE_UNAVAILABLE


def test_a_change_that_the_tpm_was_not_told_of_is_told_later(
    provider: Provider,
) -> None:
    keeper, honest = provider.start(), provider.tpm.open_tpm

    def absent() -> NoReturn:
        raise FileNotFoundError(2, "No such file")

    object.__setattr__(provider.tpm, "open_tpm", absent)
    with pytest.raises(ServiceError):
        keeper.change(rotated)
    object.__setattr__(provider.tpm, "open_tpm", honest)
    assert keeper.keyring.header.counter == 3
    assert keeper.look()
    assert keeper.keyring.header.counter == provider.remembered() == 4


def test_two_keyrings_have_two_counters(
    provider: Provider, tpm: Tpm, tmp_path: Path
) -> None:
    other = Provider(tmp_path / "other.tsk", AnchorTpm(tpm.open))
    other.make()
    other.begin()
    other.start().change(rotated)
    provider.start().change(rotated)
    assert (provider.remembered(), other.remembered()) == (4, 2)
    other.record_path.write_bytes(provider.record_path.read_bytes())
    assert "of another keyring" in refused(other)


@pytest.mark.parametrize("tpms", ["swtpm"], indirect=True)
def test_processes_that_count_up_at_once_count_once(provider: Provider) -> None:
    def remember() -> None:
        # Opened here: a secret does not cross a fork.
        keyring = provider.unanchored().keyring
        provider.anchor(keyring).remember(keyring.header.keyring_id, 3 + AHEAD)

    processes = [
        multiprocessing.get_context("fork").Process(target=remember) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert provider.remembered() == 3 + AHEAD


@pytest.mark.parametrize("tpms", ["swtpm"], indirect=True)
def test_an_owner_with_an_authorisation_value(tpm: Tpm, tmp_path: Path) -> None:
    assert isinstance(tpm, Swtpm)
    tpm.set_owner_auth(b"the owner's")
    provider = Provider(tmp_path / "keyring.tsk", AnchorTpm(tpm.open))
    provider.make()
    with pytest.raises(ServiceError, match="the owner's authorisation value"):
        provider.begin()
    provider.tpm = AnchorTpm(tpm.open, owner_auth=Secret(b"the owner's"))
    provider.begin()
    # Nothing but making the index needs it.
    provider.tpm = AnchorTpm(tpm.open)
    provider.start().change(rotated)
    assert provider.remembered() == 2
    provider.tpm = AnchorTpm(tpm.open, owner_auth=Secret(b"the owner's"))
    provider.begin(adopt=True)
    assert provider.start().anchor is AnchorClass.TPM

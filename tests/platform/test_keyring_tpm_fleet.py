# SPDX-License-Identifier: Apache-2.0
"""Providers that share a state store, each with a TPM of its own."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from anchor_rig import NOW, Provider, rotated

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.secret import Secret
from tightseal.model.state import AnchorClass
from tightseal.release.anchored import Anchors
from tightseal.release.keyring import KeyringKeeper, StoreAnchor
from tightseal.release.sharing import StoreShare
from tightseal.release.tpmanchor import AnchorTpm
from tightseal.service.metricinfo import LABELS
from tightseal.service.probes import _keyring_notes
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore
from tightseal_sim.tpm import SimTpm


@dataclass
class Fleet:
    """Two providers of one keyring, on two machines."""

    folder: Path
    engine: MemoryEngine = field(default_factory=MemoryEngine)

    def __post_init__(self) -> None:
        SealedStore.new(self.engine, self.sealer())
        self.one, self.two = (self.machine(name) for name in ("one", "two"))
        self.one.make()
        self.two.path.write_bytes(self.one.path.read_bytes())
        self.one.begin()
        self.two.begin()

    def machine(self, name: str) -> Provider:
        place = self.folder / name
        place.mkdir()
        tpm = SimTpm(name.encode().ljust(32, b"\0"))
        return Provider(place / "keyring.tsk", AnchorTpm(tpm.open))

    @staticmethod
    def sealer() -> Sealer:
        return Sealer(Secret(b"k" * 32), trust_domain="intel")

    def start(self, provider: Provider) -> KeyringKeeper:
        keeper = provider.start()
        store = SealedStore.attach(self.engine, self.sealer())
        keeper.anchor_with(
            StoreAnchor(store, lambda: NOW), StoreShare(store, lambda: NOW)
        )
        return keeper


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_tpm_remembers_what_others_changed_once_it_was_taken_over(
    fleet: Fleet,
) -> None:
    one, two = fleet.start(fleet.one), fleet.start(fleet.two)
    one.change(rotated)
    one.change(rotated)
    assert (fleet.one.remembered(), fleet.two.remembered()) == (3, 1)
    assert two.look()
    assert fleet.two.remembered() == 3
    two.change(rotated)
    assert one.look()
    assert (fleet.one.remembered(), fleet.two.remembered()) == (4, 4)


def test_an_older_file_of_one_is_refused_there_alone(fleet: Fleet) -> None:
    older = fleet.one.path.read_bytes()
    fleet.start(fleet.one).change(rotated)
    fleet.one.path.write_bytes(older)
    with pytest.raises(KeyReleaseError) as caught:
        fleet.start(fleet.one)
    assert caught.value.code is Code.KEYRING_ROLLED_BACK
    assert fleet.start(fleet.two).keyring.header.counter == 2


def test_an_older_file_and_an_older_store_are_refused(fleet: Fleet) -> None:
    """What the store alone does not notice."""
    older = fleet.one.path.read_bytes()
    fleet.start(fleet.one).change(rotated)
    fleet.one.path.write_bytes(older)
    fleet.engine = MemoryEngine()
    SealedStore.new(fleet.engine, fleet.sealer())
    with pytest.raises(KeyReleaseError, match="anchor tpm has seen 2"):
        fleet.start(fleet.one)


def test_both_anchors_are_told_and_asked(fleet: Fleet) -> None:
    keeper = fleet.start(fleet.one)
    keeper.change(rotated)
    store = SealedStore.attach(fleet.engine, fleet.sealer())
    stored = StoreAnchor(store, lambda: NOW)
    tpm = fleet.one.anchor(keeper.keyring)
    both, keyring_id = Anchors((tpm, stored)), keeper.keyring_id
    assert stored.remembered(keyring_id) == tpm.remembered(keyring_id) == 2
    assert both.anchor_class is AnchorClass.TPM
    stored.remember(keyring_id, 5)
    assert both.remembered(keyring_id) == 5
    assert both.remembered(bytes(32)) is None


def test_notes_say_where_nothing_remembers_the_keyring(fleet: Fleet) -> None:
    anchored, bare = fleet.one.start(), fleet.two.unanchored()
    assert anchored.anchor is AnchorClass.TPM
    assert names(anchored, stored=False) == {"keyring_one_slot"}
    assert names(bare, stored=True) == {"keyring_one_slot"}
    assert names(bare, stored=False) == {"keyring_one_slot", "keyring_unanchored"}


def names(keeper: KeyringKeeper, *, stored: bool) -> set[str]:
    found = {note.name for note in _keyring_notes(keeper, stored=stored)}
    assert found <= LABELS["note"].values
    return found

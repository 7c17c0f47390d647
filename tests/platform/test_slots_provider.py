# SPDX-License-Identifier: Apache-2.0
"""The slot of another provider: whose it is, under which generation, and what ends it.

The exchange with a provider that runs is tried in ``test_cli_slot_provider.py``.
"""

import hashlib
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slot_rig import IDS, changed, corrupted, made, refused

from tightseal.errors import Code, KeyReleaseError, ProviderError, TightsealError
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.combined import CombinedSlot
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.platform.slots.provider import (
    ClosedSlot,
    ProviderSlot,
    SlotMaterial,
    slot_label,
)


@dataclass(frozen=True)
class Peer:
    """A provider whose keys are functions of its root, as real ones' are."""

    root: bytes = b"root"
    keyring_id: bytes = b"k" * 32
    policy_root: bytes | None = b"p" * 32
    measurement: bytes = b"m" * 32
    current: int = 1
    fault: TightsealError | None = None

    def ask(self, label: str, *, generation: int | None) -> SlotMaterial:
        if self.fault is not None:
            raise self.fault
        number = self.current if generation is None else generation
        key = hashlib.sha256(self.root + label.encode() + number.to_bytes(8)).digest()
        return SlotMaterial(Secret(key), number, self.current)


PEER = Peer()


def test_the_same_provider_opens_it_again() -> None:
    parameters, key = made(ProviderSlot(PEER))
    assert ProviderSlot(PEER).open(parameters, **IDS) == key
    assert ProviderSlot(PEER).slot_class is SlotClass.PROVIDER


def test_two_slots_and_two_keyrings_never_share_a_key() -> None:
    labels = {
        slot_label(keyring_id=bytes([k]) * 32, slot_id=bytes([s]) * 16)
        for k in range(3)
        for s in range(3)
    }
    assert len(labels) == 9
    assert all(len(label) <= 128 and label.isascii() for label in labels)


def test_a_provider_without_a_policy_root() -> None:
    peer = replace(PEER, policy_root=None)
    parameters, key = made(ProviderSlot(peer))
    assert ProviderSlot(peer).open(parameters, **IDS) == key
    refused(ProviderSlot(PEER), parameters, "another provider's")


@pytest.mark.parametrize(
    "other",
    [replace(PEER, keyring_id=b"o" * 32), replace(PEER, policy_root=b"o" * 32)],
    ids=["keyring", "policy_root"],
)
def test_another_pin_is_another_provider(other: Peer) -> None:
    parameters, _ = made(ProviderSlot(PEER))
    refused(ProviderSlot(other), parameters, "another provider's: made with keyring")


def test_another_root_is_another_key() -> None:
    parameters, _ = made(ProviderSlot(PEER))
    refused(ProviderSlot(replace(PEER, root=b"x")), parameters, "its own root is")


def test_another_measurement_alone_changes_nothing_and_is_told_with_another_key() -> (
    None
):
    parameters, key = made(ProviderSlot(PEER))
    rebuilt = replace(PEER, measurement=b"n" * 48)
    assert ProviderSlot(rebuilt).open(parameters, **IDS) == key
    both = replace(rebuilt, root=b"x")
    refused(ProviderSlot(both), parameters, "its measurement was 6d6d6d6d6d6d6d6d…, is")


def test_after_a_rotation_it_opens_and_says_so() -> None:
    parameters, key = made(ProviderSlot(PEER))
    slot = ProviderSlot(replace(PEER, current=3))
    assert slot.rewrap(parameters) is None, "nobody was asked yet"
    assert slot.open(parameters, **IDS) == key
    assert slot.rewrap(parameters) == (
        "made with generation 1 of the other provider, now it is at 3"
    )
    anew, _ = made(slot)
    assert anew["generation"] == 3
    slot.open(anew, **IDS)
    assert slot.rewrap(anew) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.PROVIDER_UNREACHABLE, "start it, or mend host.keyring.provider.url"),
        (Code.PROVIDER_REFUSED, "it refuses us, and its log says why"),
        (Code.PROVIDER_IDENTITY_MISMATCH, "another provider answers there"),
        (Code.PROVIDER_UNVERIFIED, "look at the other provider's log"),
    ],
)
def test_what_goes_wrong_comes_with_the_next_step(code: Code, words: str) -> None:
    parameters, _ = made(ProviderSlot(PEER))
    slot = ProviderSlot(replace(PEER, fault=ProviderError(code, "why")))
    refused(slot, parameters, f"slot provider: {words}")
    refused(slot, parameters, f"{code.value}: why")
    with pytest.raises(KeyReleaseError, match="slot provider") as caught:
        slot.create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_a_key_of_zeros_is_none() -> None:
    class Empty(Peer):
        def ask(self, label: str, *, generation: int | None) -> SlotMaterial:
            del label, generation
            return SlotMaterial(Secret(bytes(32)), 1, 1)

    with pytest.raises(KeyReleaseError, match="gave no key"):
        ProviderSlot(Empty()).create(**IDS)


@given(st.data())
def test_changed_parameters_never_open(data: st.DataObject) -> None:
    parameters, _ = made(ProviderSlot(PEER))
    other = data.draw(corrupted(parameters))
    with pytest.raises(KeyReleaseError) as caught:
        ProviderSlot(PEER).open(other, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_a_policy_root_of_another_length_is_refused() -> None:
    parameters, _ = made(ProviderSlot(PEER))
    short = changed(parameters, policy_root=b"p" * 31)
    refused(ProviderSlot(PEER), short, "policy_root: not 0 or 32 bytes")


def test_a_slot_of_another_place_does_not_open() -> None:
    parameters, _ = made(ProviderSlot(PEER))
    for place in ({"keyring_id": b"x" * 32}, {"slot_id": b"x" * 16}):
        with pytest.raises(KeyReleaseError, match="the key is another one"):
            ProviderSlot(PEER).open(parameters, **{**IDS, **place})


def test_beside_a_passphrase_both_are_needed() -> None:
    def typed(text: bytes) -> PassphraseSlot:
        return PassphraseSlot(lambda: Secret(text))

    right = typed(b"correct horse battery staple")
    parameters, key = made(CombinedSlot([right, ProviderSlot(PEER)]))
    assert CombinedSlot([right, ProviderSlot(PEER)]).open(parameters, **IDS) == key
    wrong = CombinedSlot([typed(b"another horse battery"), ProviderSlot(PEER)])
    refused(wrong, parameters, "another passphrase")
    down = replace(PEER, fault=ProviderError(Code.PROVIDER_UNREACHABLE, "down"))
    refused(CombinedSlot([right, ProviderSlot(down)]), parameters, "start it")
    rotated = CombinedSlot([right, ProviderSlot(replace(PEER, current=2))])
    assert rotated.open(parameters, **IDS) == key
    assert "provider: made with generation 1" in str(rotated.rewrap(parameters))


def test_a_closed_class_says_why() -> None:
    closed = ClosedSlot(SlotClass.PROVIDER, "nobody is pinned")
    refused(closed, {}, "slot provider: nobody is pinned")
    with pytest.raises(KeyReleaseError, match="nobody is pinned"):
        closed.create(**IDS)

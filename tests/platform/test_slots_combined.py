# SPDX-License-Identifier: Apache-2.0
"""Several factors: all of them, in one order, and none alone."""

import hashlib
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from slot_rig import (
    IDS,
    KEYRING,
    SLOT,
    changed,
    enclave,
    machine,
    made,
    refused,
    without,
)

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.canonical import Value, encode
from tightseal.model.secret import Secret
from tightseal.model.slots import FIRST_FACTORS, SECOND_FACTORS, SlotClass
from tightseal.platform.slots.combined import CombinedSlot, ordered_factors
from tightseal.platform.slots.derive import unavailable
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.tpm import SimTpm


class Factor:
    """A factor whose key is a hash of its class and a word."""

    def __init__(self, slot_class: SlotClass, word: str = "right") -> None:
        self.slot_class = slot_class
        self.word = word
        self.reason: str | None = None

    def key(self, word: str) -> Secret:
        return Secret(hashlib.sha256(f"{self.slot_class}/{word}".encode()).digest())

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        assert (keyring_id, slot_id) == (KEYRING, SLOT)
        return {"word": self.word}, self.key(self.word)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        assert (keyring_id, slot_id) == (KEYRING, SLOT)
        if parameters != {"word": self.word}:
            raise unavailable(self.slot_class, "another word")
        return self.key(self.word)

    def rewrap(self, _parameters: Mapping[str, Value]) -> str | None:
        return self.reason


SNP, TPM2, TYPED = SlotClass.SNP, SlotClass.TPM2, SlotClass.PASSPHRASE


def combined(*classes: SlotClass, word: str = "right") -> CombinedSlot:
    return CombinedSlot([Factor(c, word) for c in classes])


def test_the_order_given_does_not_matter() -> None:
    parameters, key = made(combined(SNP, TPM2, TYPED))
    again = combined(TYPED, SNP, TPM2)
    assert again.open(parameters, **IDS) == key
    assert again.slot_class is SNP
    assert again.factors == (SNP, TPM2, TYPED)
    assert list(parameters) == ["snp", "tpm2", "passphrase"]


def test_the_key_by_the_text_of_the_documentation() -> None:
    _, key = made(combined(SNP, TPM2))
    label = "tightseal/v1/kdf/slot-factors"
    keys = [[c.value, Factor(c).key("right").reveal()] for c in (SNP, TPM2)]
    info = encode([label, [KEYRING, SLOT, ["snp", "tpm2"]]])
    kdf = HKDF(hashes.SHA256(), length=32, salt=None, info=info)
    assert key.reveal() == kdf.derive(encode([label, keys]))


def test_each_factor_enters_the_key() -> None:
    _, three = made(combined(SNP, TPM2, TYPED))
    _, two = made(combined(SNP, TPM2))
    mixed = CombinedSlot([Factor(SNP), Factor(TPM2, "wrong")])
    _, other = made(mixed)
    _, swapped = made(combined(SlotClass.SGX, TPM2))
    keys = [k.reveal() for k in (three, two, other, swapped)]
    keys += [Factor(c).key("right").reveal() for c in (SNP, TPM2)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("lost", [SNP, TPM2, TYPED])
def test_no_factor_can_be_left_out(lost: SlotClass) -> None:
    slot = combined(SNP, TPM2, TYPED)
    parameters, _ = made(slot)
    refused(slot, without(parameters, lost.value), "parameters of other factors")
    refused(slot, changed(parameters, **{lost.value: b"x"}), "not a map")
    refused(slot, changed(parameters, **{lost.value: {}}), f"{lost.value}: another")
    two = (
        combined(*{SNP, TPM2, TYPED} - {lost})
        if lost is not SNP
        else combined(SNP, TPM2)
    )
    refused(two, parameters, "parameters of other factors")


def test_a_factor_of_another_class_is_not_asked() -> None:
    parameters, _ = made(combined(SNP, TPM2))
    refused(combined(SlotClass.GRAMINE, TPM2), parameters, "other factors")


BAD = [
    ("none", []),
    ("first_alone", [SNP]),
    ("second_alone", [TPM2]),
    ("second_only", [TPM2, TYPED]),
    ("two_first", [SNP, SlotClass.SGX]),
    ("two_first_and_second", [SNP, SlotClass.SGX, TPM2]),
    ("twice", [SNP, TPM2, TPM2]),
]


@pytest.mark.parametrize("classes", [b[1] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_no_combination(classes: list[SlotClass]) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        combined(*classes)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


@pytest.mark.parametrize("first", sorted(FIRST_FACTORS))
@pytest.mark.parametrize("second", sorted(SECOND_FACTORS))
def test_every_first_factor_takes_every_second(
    first: SlotClass, second: SlotClass
) -> None:
    assert ordered_factors([second, first]) == (first, second)


def real(tpm: SimTpm, typed: str) -> CombinedSlot:
    gramine = GramineSlot(SimEnclaveKeys(enclave(machine())), allow_signer=False)
    sealed = Tpm2Slot(tpm.open, pcrs=range(24))
    passphrase = PassphraseSlot(lambda: Secret(typed.encode()))
    return CombinedSlot([gramine, sealed, passphrase])


def depth(value: Value) -> int:
    if isinstance(value, Mapping):
        return 1 + max(depth(v) for v in value.values())
    if isinstance(value, list):
        return 1 + max(depth(v) for v in value)
    return 0


def test_real_factors_together() -> None:
    tpm = SimTpm(bytes(32))
    typed = "correct horse battery staple"
    parameters, key = made(real(tpm, typed))
    assert real(tpm, typed).open(parameters, **IDS) == key
    assert real(tpm, typed).rewrap(parameters) is None
    # What the keyring's file takes.
    assert depth(parameters) <= 4
    assert len(encode(parameters)) <= 64 * 1024
    refused(real(tpm, typed + "!"), parameters, "slot passphrase: ")
    tpm.extend(23, bytes(32))
    refused(real(tpm, typed), parameters, "slot tpm2: PCR 23")


def test_any_factor_may_ask_to_be_made_anew() -> None:
    factors = [Factor(SNP), Factor(TPM2), Factor(TYPED)]
    slot = CombinedSlot(factors)
    parameters, _ = made(slot)
    assert slot.rewrap(parameters) is None
    factors[0].reason = "new TCB"
    factors[2].reason = "cheap"
    assert slot.rewrap(parameters) == "snp: new TCB; passphrase: cheap"

# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping
from dataclasses import replace

import pytest
from keyring_support import (
    DEVELOPMENT,
    NOW,
    POLICY_ROOT,
    SIMULATED,
    TERMS,
    FakeAnchor,
    FakePair,
    FakeSlot,
    Machine,
    everything,
    made,
    opened,
    roots,
)

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    Keyring,
    Terms,
    UnseenKeyring,
    add_slot,
    decode_keyring,
    destroy,
    keep_opened,
    open_keyring,
    open_with_key,
    probe_slots,
    rotate,
    set_terms,
    working,
)
from tightseal.keys.keyring.generation import seal_root
from tightseal.keys.keyring.sealed import encode_keyring, sealed_by
from tightseal.model.canonical import Value
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.model.state import AnchorClass


def refused(data: bytes, *keys: FakeSlot, code: Code, terms: Terms = TERMS) -> str:
    with pytest.raises(KeyReleaseError) as caught:
        opened(data, *keys, terms=terms)
    assert caught.value.code is code
    return caught.value.detail


def spliced(data: bytes, **parts: object) -> bytes:
    """The file with parts of another one and its own MAC."""
    return encode_keyring(replace(decode_keyring(data), **parts))


def resealed(keyring: Keyring) -> bytes:
    """What a holder of the keyring key could write, past every check of a change."""
    parts = sealed_by(
        keyring.key,
        header=keyring.header,
        generations=keyring.generations,
        slots=keyring.slots,
    )
    return encode_keyring(parts)


def test_a_new_keyring_opens_and_is_the_same() -> None:
    slot = FakeSlot()
    keyring = made(slot)
    result = opened(keyring.seal(), slot)
    assert everything(result.keyring) == everything(keyring)
    assert result.slot == keyring.slots[0]
    assert keyring.header.counter == 1
    assert keyring.current.number == 1
    assert len(keyring.root(1)) == 32


def test_two_keyrings_share_nothing() -> None:
    slot = FakeSlot()
    one, two = made(slot), made(slot)
    assert one.header.keyring_id != two.header.keyring_id
    assert one.root(1) != two.root(1)
    assert one.key != two.key


def test_any_one_slot_opens() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    data = made(gramine, council).seal()
    assert opened(data, council).slot.slot_class is SlotClass.COUNCIL  # type: ignore[union-attr]
    gramine.machine.works = False
    result = opened(data, gramine, council)
    assert [probe.refusal for probe in result.closed] == [
        "gramine: the machine is gone"
    ]


def test_several_keys_of_one_class_are_tried_in_turn() -> None:
    right = FakeSlot(SlotClass.PROVIDER)
    data = made(right).seal()
    assert opened(data, FakeSlot(SlotClass.PROVIDER), right).slot is not None


def test_a_slot_of_two_factors_needs_both() -> None:
    pair = FakePair(FakeSlot(), FakeSlot(SlotClass.PASSPHRASE))
    data = made(pair).seal()
    assert opened(data, pair).slot is not None
    other = FakePair(pair.first, FakeSlot(SlotClass.PASSPHRASE))
    with pytest.raises(KeyReleaseError, match="another passphrase") as caught:
        opened(data, other)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
    refused(data, pair.first, code=Code.SLOT_UNAVAILABLE)


def test_where_no_slot_opens_each_says_why() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    data = made(gramine, council, FakeSlot(SlotClass.SNP)).seal()
    gramine.machine.secret = b"n" * 32
    council.machine.works = False
    detail = refused(data, gramine, council, code=Code.SLOT_UNAVAILABLE)
    assert "none of 3 slots opens here; next: " in detail
    assert "sealing key changed: another MRENCLAVE or CPUSVN" in detail
    assert "council: the machine is gone" in detail
    assert "snp: this provider has none" in detail


def test_a_slot_of_another_keyring_is_refused_where_it_is_the_only_one() -> None:
    slot = FakeSlot()
    mine, other = made(slot), made(slot)
    detail = refused(
        spliced(mine.seal(), slots=other.slots), slot, code=Code.SLOT_UNAVAILABLE
    )
    assert "the slot was changed or moved here" in detail


def test_a_slot_of_another_keyring_is_refused_where_another_slot_opens() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    mine, other = made(gramine, council), made(gramine, council)
    swapped = spliced(mine.seal(), slots=(other.slots[0], mine.slots[1]))
    refused(swapped, gramine, council, code=Code.KEYRING_TAMPERED)


def test_slots_in_another_order_are_refused() -> None:
    slot = FakeSlot()
    data = made(slot, slot).seal()
    swapped = spliced(data, slots=decode_keyring(data).slots[::-1])
    refused(swapped, slot, code=Code.KEYRING_TAMPERED)


def test_wraps_exchanged_between_two_slots_are_refused() -> None:
    slot, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    one, two = made(slot, council).slots
    data = made(slot, council).seal()
    exchanged = (replace(one, wrapped=two.wrapped), replace(two, wrapped=one.wrapped))
    refused(spliced(data, slots=exchanged), slot, council, code=Code.SLOT_UNAVAILABLE)


def test_another_label_of_a_slot_is_refused() -> None:
    slot = FakeSlot()
    data = made(slot).seal()
    relabelled = replace(decode_keyring(data).slots[0], label="spare")
    refused(spliced(data, slots=(relabelled,)), slot, code=Code.KEYRING_TAMPERED)


def test_an_older_header_is_refused() -> None:
    slot = FakeSlot()
    old = made(slot)
    new = set_terms(
        old,
        policy_root=POLICY_ROOT,
        minimum_policy_version=9,
        slot_classes=[SlotClass.GRAMINE],
        now=NOW + 1,
    )
    downgraded = spliced(new.seal(), header=old.header)
    refused(downgraded, slot, code=Code.KEYRING_TAMPERED)


def test_older_generations_under_a_newer_header_are_refused() -> None:
    slot = FakeSlot()
    old = made(slot)
    new = destroy(rotate(old, now=NOW), 1, now=NOW)
    revived = spliced(new.seal(), generations=rotate(old, now=NOW).generations)
    refused(revived, slot, code=Code.KEYRING_TAMPERED)


def test_a_generation_in_the_place_of_another_is_refused() -> None:
    """Even where a holder of the keyring key wrote it."""
    slot = FakeSlot()
    keyring = rotate(made(slot), now=NOW)
    one, two = keyring.generations
    moved = replace(keyring, generations=(replace(one, sealed=two.sealed), two))
    detail = refused(resealed(moved), slot, code=Code.KEYRING_TAMPERED)
    assert "generation 1" in detail


def test_a_generation_of_another_keyring_is_refused() -> None:
    slot = FakeSlot()
    keyring = made(slot)
    foreign = seal_root(
        Secret(b"r" * 32), key=keyring.key, keyring_id=b"o" * 32, number=1
    )
    one = replace(keyring.current, sealed=foreign)
    refused(
        resealed(replace(keyring, generations=(one,))), slot, code=Code.KEYRING_TAMPERED
    )


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (replace(TERMS, trust_domain="amd"), "trust domain intel"),
        (replace(TERMS, trust_domain=SIMULATED), "trust domain intel"),
        (replace(TERMS, policy_root=b"o" * 32), "policy root 000102"),
        (replace(TERMS, policy_root=None), "but this provider pins none"),
        (replace(TERMS, policy_version=2), "policy version 3 at least, but 2"),
        (replace(TERMS, keyring_id=b"o" * 32), "expected 6f6f"),
    ],
    ids=["domain", "simulated", "root", "no root", "version", "keyring"],
)
def test_other_terms_are_refused(terms: Terms, said: str) -> None:
    slot = FakeSlot()
    assert said in refused(
        made(slot).seal(), slot, code=Code.KEYRING_MISMATCH, terms=terms
    )


def test_a_newer_policy_and_the_right_keyring_are_fine() -> None:
    slot = FakeSlot()
    keyring = made(slot)
    exact = replace(TERMS, policy_version=4, keyring_id=keyring.header.keyring_id)
    assert opened(keyring.seal(), slot, terms=exact).keyring == keyring


def test_a_slot_that_the_header_does_not_allow_is_refused() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = made(gramine, council)
    narrow = replace(keyring.header, slot_classes=frozenset({SlotClass.GRAMINE}))
    data = resealed(replace(keyring, header=narrow))
    detail = refused(data, gramine, code=Code.SLOT_NOT_ALLOWED)
    assert "council" in detail


def test_a_slot_that_the_terms_do_not_allow_is_not_even_tried() -> None:
    gramine = FakeSlot()
    data = made(gramine).seal()
    gramine.given.clear()
    council_only = replace(TERMS, slot_classes=frozenset({SlotClass.COUNCIL}))
    refused(data, gramine, code=Code.SLOT_NOT_ALLOWED, terms=council_only)
    assert not gramine.given


@pytest.mark.parametrize("second", [SlotClass.TPM2, SlotClass.PASSPHRASE])
def test_a_second_factor_alone_is_refused_at_creation(second: SlotClass) -> None:
    alone = FakeSlot(second)
    with pytest.raises(KeyReleaseError) as caught:
        made(alone)
    assert caught.value.code is Code.SLOT_NOT_ALLOWED
    with pytest.raises(KeyReleaseError) as caught:
        add_slot(made(FakeSlot()), alone, now=NOW)
    assert caught.value.code is Code.SLOT_NOT_ALLOWED
    assert not alone.given


@pytest.mark.parametrize("second", [SlotClass.TPM2, SlotClass.PASSPHRASE])
def test_a_second_factor_alone_is_refused_at_opening(second: SlotClass) -> None:
    alone, gramine = FakeSlot(second), FakeSlot()
    development = made(alone, gramine, trust_domain=SIMULATED)
    moved = resealed(
        replace(development, header=replace(development.header, trust_domain="intel"))
    )
    refused(moved, alone, gramine, code=Code.SLOT_NOT_ALLOWED)
    only = made(alone, trust_domain=SIMULATED)
    moved = resealed(replace(only, header=replace(only.header, trust_domain="intel")))
    refused(moved, alone, code=Code.SLOT_NOT_ALLOWED)


def test_a_second_factor_alone_opens_in_development() -> None:
    alone = FakeSlot(SlotClass.PASSPHRASE)
    data = made(alone, trust_domain=SIMULATED).seal()
    assert opened(data, alone, terms=DEVELOPMENT).slot is not None


def test_without_an_anchor_it_is_said_what_goes_unnoticed() -> None:
    slot = FakeSlot()
    result = opened(made(slot).seal(), slot)
    assert result.anchor is AnchorClass.NONE
    assert result.not_noticed == AnchorClass.NONE.not_noticed


def test_an_older_file_is_refused_by_an_anchor() -> None:
    slot, anchor = FakeSlot(), FakeAnchor()
    old = made(slot)
    new = rotate(old, now=NOW)
    keep_opened(
        open_keyring(
            new.seal(),
            terms=TERMS,
            slot_keys=[slot],
            anchor=anchor,
            unseen=UnseenKeyring.ADOPT,
        ),
        anchor=anchor,
    )
    with pytest.raises(KeyReleaseError, match="counter 1, but anchor tpm has seen 2"):
        opened(old.seal(), slot, anchor=anchor)
    result = opened(new.seal(), slot, anchor=anchor)
    assert result.anchor is AnchorClass.TPM
    assert result.not_noticed == AnchorClass.TPM.not_noticed


def test_a_file_ahead_of_its_anchor_opens_and_the_anchor_follows() -> None:
    slot, anchor = FakeSlot(), FakeAnchor()
    keyring = made(slot)
    anchor.remember(keyring.header.keyring_id, 1)
    keep_opened(
        opened(rotate(keyring, now=NOW).seal(), slot, anchor=anchor), anchor=anchor
    )
    assert anchor.remembered(keyring.header.keyring_id) == 2


def test_an_anchor_that_never_saw_the_keyring_refuses_it() -> None:
    slot = FakeSlot()
    with pytest.raises(KeyReleaseError, match="never saw") as caught:
        opened(made(slot).seal(), slot, anchor=FakeAnchor())
    assert caught.value.code is Code.KEYRING_ROLLED_BACK


def test_opening_does_not_move_the_anchor() -> None:
    slot, anchor = FakeSlot(), FakeAnchor()
    data = made(slot).seal()
    open_keyring(
        data,
        terms=TERMS,
        slot_keys=[slot],
        anchor=anchor,
        unseen=UnseenKeyring.ADOPT,
    )
    assert anchor.counters == {}


def test_the_keyring_key_at_hand_opens_it_and_another_does_not() -> None:
    keyring = made(FakeSlot())
    result = open_with_key(keyring.seal(), key=keyring.key, terms=TERMS, anchor=None)
    assert roots(result.keyring) == roots(keyring)
    assert result.slot is None
    with pytest.raises(KeyReleaseError) as caught:
        open_with_key(keyring.seal(), key=Secret(b"k" * 32), terms=TERMS, anchor=None)
    assert caught.value.code is Code.KEYRING_TAMPERED


def test_a_slot_that_goes_out_of_use_says_so() -> None:
    slot = FakeSlot(hint="made with an older CPUSVN")
    assert opened(made(slot).seal(), slot).rewrap == "made with an older CPUSVN"
    slot.hint = ""
    assert opened(made(slot).seal(), slot).rewrap == ""


def test_a_slot_that_opens_and_cannot_say_whether_it_should_be_made_anew() -> None:
    class Unsure(FakeSlot):
        def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
            why = f"{len(parameters)} parameters of an older form"
            raise KeyReleaseError(Code.SLOT_UNAVAILABLE, why)

    slot = Unsure()
    assert opened(made(slot).seal(), slot).rewrap == "1 parameters of an older form"


def test_slots_are_probed_one_by_one() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = made(gramine, council)
    council.machine.works = False
    good, bad = probe_slots(keyring, [gramine, council])
    assert (good.refusal, bad.refusal) == ("", "council: the machine is gone")
    assert working((good, bad)) == {keyring.slots[0].slot_id}


def test_a_slot_that_wraps_another_key_is_found_by_a_probe() -> None:
    slot = FakeSlot()
    keyring = made(slot)
    other = replace(keyring, key=Secret(b"o" * 32))
    with pytest.raises(KeyReleaseError, match="another keyring") as caught:
        probe_slots(other, [slot])
    assert caught.value.code is Code.KEYRING_TAMPERED


@pytest.mark.parametrize("bad", [b"", b"k" * 31, b"k" * 33, bytes(32)])
def test_what_is_no_key_wraps_nothing(bad: bytes) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        made(FakeSlot(fixed=bad))
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_slot_keys_are_wiped_after_use() -> None:
    slot = FakeSlot()
    opened(made(slot).seal(), slot)
    assert len(slot.given) == 2
    assert all(key == Secret(bytes(32)) for key in slot.given)


def test_a_keyring_key_is_wiped_where_opening_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Secret] = []
    slot = FakeSlot()
    data = made(slot).seal()

    class Watched(Secret):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            found.append(self)

    monkeypatch.setattr("tightseal.keys.keyring.seal.Secret", Watched)
    refused(
        data,
        slot,
        code=Code.KEYRING_MISMATCH,
        terms=replace(TERMS, trust_domain="amd"),
    )
    assert found
    assert not any(any(key.reveal()) for key in found)


def test_a_wiped_keyring_gives_and_seals_nothing() -> None:
    keyring = made(FakeSlot())
    keyring.wipe()
    for use in (lambda: keyring.root(1), keyring.seal):
        with pytest.raises(Exception, match="wiped"):
            use()


def test_no_key_shows_in_a_repr_or_an_error() -> None:
    slot = FakeSlot(machine=Machine(b"m" * 32))
    keyring = rotate(made(slot), now=NOW)
    result = opened(keyring.seal(), slot)
    shown = repr(result) + repr(keyring) + str(keyring.slots[0])
    shown += repr(decode_keyring(keyring.seal()))
    slot.machine.secret = b"n" * 32
    shown += refused(keyring.seal(), slot, code=Code.SLOT_UNAVAILABLE)
    for secret in (keyring.key.reveal(), *roots(keyring).values()):
        for form in (secret.hex(), repr(secret)[2:-1], str(list(secret))):
            assert form not in shown


def test_own_keys_of_the_provider_are_apart_by_label_and_keyring() -> None:
    slot = FakeSlot()
    one, two = made(slot), made(slot)
    label = Label.KDF_KEYRING_STATE
    keys = [one.derive(label, None), two.derive(label, None), one.derive(label, 1)]
    assert len({key.reveal() for key in keys}) == 3
    assert rotate(one, now=NOW).derive(label, None) == keys[0]

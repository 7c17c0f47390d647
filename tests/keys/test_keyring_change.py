# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from keyring_support import (
    ALL,
    NOW,
    POLICY_ROOT,
    SIMULATED,
    FakePair,
    FakeSlot,
    made,
    opened,
    roots,
)

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.keys.keyring import (
    MAX_GENERATIONS,
    MAX_KEYRING_BYTES,
    MAX_SLOTS,
    TRANSITIONS,
    GenerationState,
    Keyring,
    activate,
    add_slot,
    destroy,
    prepare,
    probe_slots,
    remove_slot,
    renew_key,
    retire,
    rewrap_slot,
    rotate,
    set_terms,
    working,
)
from tightseal.model.slots import SlotClass

PRE, CURRENT, RETIRED, DESTROYED = GenerationState


def states(keyring: Keyring) -> list[GenerationState]:
    return [generation.state for generation in keyring.generations]


def refused(code: Code, change: Callable[[], object]) -> str:
    with pytest.raises(KeyReleaseError) as caught:
        change()
    assert caught.value.code is code
    return caught.value.detail


def reset(keyring: Keyring, **terms: object) -> Keyring:
    """``set_terms`` with the terms it has, but for these."""
    header = keyring.header
    kept: dict[str, object] = {
        "policy_root": header.policy_root,
        "minimum_policy_version": header.minimum_policy_version,
        "slot_classes": header.slot_classes,
    }
    return set_terms(keyring, **(kept | terms), now=NOW)  # type: ignore[arg-type]


def test_rotation_makes_a_new_root_and_the_old_one_still_opens() -> None:
    old = made(FakeSlot())
    new = rotate(old, now=NOW + 5)
    assert states(new) == [RETIRED, CURRENT]
    assert new.root(1) == old.root(1)
    assert new.root(2) != new.root(1)
    assert new.generation(1).retired_at == new.generation(2).activated_at == NOW + 5
    assert new.previous == new.generation(1)
    assert old.previous is None


def test_a_prepared_generation_gives_no_key_until_it_is_current() -> None:
    ahead = prepare(made(FakeSlot()), now=NOW)
    assert states(ahead) == [CURRENT, PRE]
    refused(Code.GENERATION_NOT_ALLOWED, lambda: ahead.root(2))
    root = roots(ahead)[2]
    for change in (activate(ahead, 2, now=NOW), rotate(ahead, now=NOW)):
        assert states(change) == [RETIRED, CURRENT]
        assert change.root(2).reveal() == root


def test_one_generation_waits_at_a_time() -> None:
    ahead = prepare(made(FakeSlot()), now=NOW)
    refused(Code.GENERATION_NOT_ALLOWED, lambda: prepare(ahead, now=NOW))


def test_a_withdrawn_generation_is_never_current_and_its_number_stays_taken() -> None:
    withdrawn = retire(prepare(made(FakeSlot()), now=NOW), 2, now=NOW)
    assert states(withdrawn) == [CURRENT, RETIRED]
    refused(Code.GENERATION_NOT_ALLOWED, lambda: activate(withdrawn, 2, now=NOW))
    after = rotate(withdrawn, now=NOW)
    assert states(after) == [RETIRED, RETIRED, CURRENT]
    assert after.previous == after.generation(1)


def test_a_destroyed_generation_has_no_bytes_and_gives_no_key() -> None:
    slot = FakeSlot()
    gone = destroy(rotate(made(slot), now=NOW), 1, now=NOW + 9)
    assert gone.generation(1).sealed is None
    assert gone.generation(1).destroyed_at == NOW + 9
    assert gone.previous is None
    refused(Code.GENERATION_NOT_ALLOWED, lambda: gone.root(1))
    assert set(roots(opened(gone.seal(), slot).keyring)) == {2}


@pytest.mark.parametrize("number", [-1, 0, 2, 10**9])
def test_an_unknown_generation_is_refused(number: int) -> None:
    keyring = made(FakeSlot())
    for use in (keyring.root, keyring.generation):
        refused(Code.GENERATION_UNKNOWN, lambda use=use: use(number))  # type: ignore[misc]
    for change in (activate, retire, destroy):
        refused(
            Code.GENERATION_UNKNOWN,
            lambda change=change: change(keyring, number, now=NOW),  # type: ignore[misc]
        )


def in_state(state: GenerationState) -> tuple[Keyring, int]:
    first = made(FakeSlot())
    match state:
        case GenerationState.PRE_ACTIVE:
            return prepare(first, now=NOW), 2
        case GenerationState.CURRENT:
            return first, 1
        case GenerationState.RETIRED:
            return rotate(first, now=NOW), 1
        case GenerationState.DESTROYED:
            return destroy(rotate(first, now=NOW), 1, now=NOW), 1


CHANGES = {CURRENT: activate, RETIRED: retire, DESTROYED: destroy}


@pytest.mark.parametrize(
    ("before", "after"), list(product(GenerationState, CHANGES)), ids=str
)
def test_only_the_transitions_of_the_table_are_made(
    before: GenerationState, after: GenerationState
) -> None:
    keyring, number = in_state(before)
    change = CHANGES[after]
    # The current one retires by being followed, not by itself.
    if after in TRANSITIONS[before] and before is not CURRENT:
        assert change(keyring, number, now=NOW).generation(number).state is after
    else:
        refused(Code.GENERATION_NOT_ALLOWED, lambda: change(keyring, number, now=NOW))


def test_every_change_raises_the_counter_by_one_and_alters_no_value() -> None:
    slot, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = rotate(prepare(made(slot, council), now=NOW), now=NOW)
    first, second = (s.slot_id for s in keyring.slots)
    before = keyring.seal()
    changes = [
        prepare(keyring, now=NOW),
        rotate(keyring, now=NOW),
        destroy(keyring, 1, now=NOW),
        add_slot(keyring, slot, now=NOW),
        remove_slot(keyring, first, working={second}, now=NOW),
        rewrap_slot(keyring, first, slot, now=NOW),
        renew_key(keyring, {first: slot, second: council}, now=NOW),
        reset(keyring),
    ]
    ahead = changes[0]
    further = [activate(ahead, 3, now=NOW), retire(ahead, 3, now=NOW)]
    assert {k.header.counter for k in changes} == {keyring.header.counter + 1}
    assert {k.header.counter for k in further} == {ahead.header.counter + 1}
    assert keyring.seal() == before


def test_dates_never_fall_with_the_clock() -> None:
    keyring = rotate(rotate(made(FakeSlot()), now=NOW + 100), now=NOW - 500)
    assert keyring.header.changed_at == NOW + 100
    assert keyring.current.activated_at == NOW + 100


def test_a_keyring_has_an_end_of_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightseal.keys.keyring.change.MAX_GENERATIONS", 3)
    keyring = rotate(rotate(made(FakeSlot()), now=NOW), now=NOW)
    keyring = destroy(keyring, 1, now=NOW)
    refused(Code.GENERATION_NOT_ALLOWED, lambda: rotate(keyring, now=NOW))
    assert MAX_GENERATIONS == 10_000


def test_a_slot_more_opens_and_the_others_still_do() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = add_slot(made(gramine), council, label="the board", now=NOW)
    assert keyring.slots[-1].label == "the board"
    for key in (gramine, council):
        assert roots(opened(keyring.seal(), key).keyring) == roots(keyring)


def test_a_class_that_the_header_does_not_allow_is_not_added() -> None:
    keyring = made(FakeSlot(), classes=[SlotClass.GRAMINE])
    detail = refused(
        Code.SLOT_NOT_ALLOWED,
        lambda: add_slot(keyring, FakeSlot(SlotClass.SNP), now=NOW),
    )
    assert "snp" in detail


def test_both_classes_of_a_pair_must_be_allowed() -> None:
    keyring = made(FakeSlot(), classes=[SlotClass.GRAMINE])
    pair = FakePair(FakeSlot(), FakeSlot(SlotClass.TPM2))
    refused(Code.SLOT_NOT_ALLOWED, lambda: add_slot(keyring, pair, now=NOW))
    wide = reset(keyring, slot_classes=[SlotClass.GRAMINE, SlotClass.TPM2])
    assert add_slot(wide, pair, now=NOW).slots[-1].factors == pair.factors


def test_slots_have_an_end() -> None:
    keyring = made(*[FakeSlot()] * MAX_SLOTS)
    refused(Code.KEYRING_MALFORMED, lambda: add_slot(keyring, FakeSlot(), now=NOW))


def test_a_keyring_without_slots_is_not_made() -> None:
    refused(Code.KEYRING_MALFORMED, made)


def test_the_last_working_slot_is_not_removed() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = made(gramine, council)
    first, second = (s.slot_id for s in keyring.slots)
    council.machine.works = False
    good = working(probe_slots(keyring, [gramine, council]))
    refused(Code.SLOT_LAST, lambda: remove_slot(keyring, first, working=good, now=NOW))
    left = remove_slot(keyring, second, working=good, now=NOW)
    assert [s.slot_id for s in left.slots] == [first]
    assert roots(opened(left.seal(), gramine).keyring) == roots(keyring)


def test_a_slot_that_is_said_to_work_and_is_removed_does_not_count() -> None:
    keyring = made(FakeSlot())
    only = keyring.slots[0].slot_id
    refused(Code.SLOT_LAST, lambda: remove_slot(keyring, only, working={only}, now=NOW))


def test_a_second_factor_alone_does_not_count_as_the_last_slot() -> None:
    gramine, passphrase = FakeSlot(), FakeSlot(SlotClass.PASSPHRASE)
    development = made(gramine, passphrase, trust_domain=SIMULATED)
    ids = {s.slot_id for s in development.slots}
    first = development.slots[0].slot_id
    remove_slot(development, first, working=ids, now=NOW)
    # Past every check of a change, as a broken writer might have made it.
    real = replace(development, header=replace(development.header, trust_domain="amd"))
    refused(Code.SLOT_LAST, lambda: remove_slot(real, first, working=ids, now=NOW))


def test_an_unknown_slot_is_named() -> None:
    keyring = made(FakeSlot())
    for change in (
        lambda: remove_slot(keyring, b"s" * 16, working=set(), now=NOW),
        lambda: rewrap_slot(keyring, b"s" * 16, FakeSlot(), now=NOW),
        lambda: keyring.slot(b"s" * 16),
    ):
        assert "73737373" in refused(Code.SLOT_UNAVAILABLE, change)


def test_a_slot_made_anew_opens_and_keeps_its_name() -> None:
    slot, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = made(slot, council)
    old = keyring.slots[0]
    slot.machine.secret = b"after the recovery of the TCB..."
    new = rewrap_slot(keyring, old.slot_id, slot, now=NOW)
    assert new.slots[0].slot_id == old.slot_id
    assert new.slots[0].wrapped != old.wrapped
    assert new.slots[1] == keyring.slots[1]
    assert roots(opened(new.seal(), slot).keyring) == roots(keyring)


def test_a_slot_is_not_made_anew_as_another_class() -> None:
    keyring = made(FakeSlot())
    slot_id = keyring.slots[0].slot_id
    refused(
        Code.SLOT_NOT_ALLOWED,
        lambda: rewrap_slot(keyring, slot_id, FakeSlot(SlotClass.SNP), now=NOW),
    )


def test_a_removed_slot_opens_later_generations_until_the_key_is_renewed() -> None:
    """What ``remove_slot`` says it does not do, and ``renew_key`` does."""
    gramine, gone = FakeSlot(), FakeSlot(SlotClass.PROVIDER)
    before = made(gramine, gone)
    first, second = (s.slot_id for s in before.slots)
    known = opened(before.seal(), gone).keyring.key
    after = remove_slot(before, second, working={first}, now=NOW)
    after = rotate(after, now=NOW)
    assert after.key == known
    renewed = renew_key(after, {first: gramine}, now=NOW)
    assert renewed.key != known
    assert roots(renewed) == roots(after)
    stolen = replace(renewed, key=known)
    for number in (1, 2):
        refused(Code.KEYRING_TAMPERED, lambda n=number: stolen.root(n))  # type: ignore[misc]
    assert roots(opened(renewed.seal(), gramine).keyring) == roots(after)


def test_the_key_is_renewed_in_every_slot_or_not_at_all() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = made(gramine, council)
    detail = refused(
        Code.SLOT_UNAVAILABLE,
        lambda: renew_key(keyring, {keyring.slots[0].slot_id: gramine}, now=NOW),
    )
    assert "council" in detail


def test_a_renewed_key_leaves_destroyed_generations_destroyed() -> None:
    slot = FakeSlot()
    keyring = destroy(rotate(made(slot), now=NOW), 1, now=NOW)
    renewed = renew_key(keyring, {keyring.slots[0].slot_id: slot}, now=NOW)
    assert states(renewed) == [DESTROYED, CURRENT]


def test_the_minimum_version_falls_only_with_another_policy_root() -> None:
    keyring = made(FakeSlot(), minimum=5)
    refused(Code.KEYRING_MISMATCH, lambda: reset(keyring, minimum_policy_version=4))
    other = reset(keyring, policy_root=b"o" * 32, minimum_policy_version=0)
    assert other.header.minimum_policy_version == 0
    assert reset(keyring, minimum_policy_version=6).header.policy_root == POLICY_ROOT


def test_classes_of_slots_that_are_there_stay_allowed() -> None:
    keyring = made(FakeSlot(), FakeSlot(SlotClass.SNP))
    detail = refused(
        Code.SLOT_NOT_ALLOWED,
        lambda: reset(keyring, slot_classes=[SlotClass.GRAMINE]),
    )
    assert "snp" in detail
    assert reset(keyring, slot_classes=ALL).header.slot_classes == ALL


@pytest.mark.parametrize(
    "terms",
    [
        {"trust_domain": "nobody"},
        {"trust_domain": "simulated:short"},
        {"policy_root": b"short"},
        {"minimum": -1},
        {"minimum": 1 << 60},
        {"classes": []},
    ],
    ids=str,
)
def test_a_keyring_is_not_made_of_odd_terms(terms: dict[str, object]) -> None:
    refused(Code.KEYRING_MALFORMED, lambda: made(FakeSlot(), **terms))  # type: ignore[arg-type]


@pytest.mark.parametrize("label", ["x" * 129, "line\nbreak", "käse"])
def test_an_odd_label_is_refused(label: str) -> None:
    refused(
        Code.KEYRING_MALFORMED,
        lambda: add_slot(made(FakeSlot()), FakeSlot(), label=label, now=NOW),
    )


def test_a_key_that_cannot_be_renewed_in_a_slot_is_not_renewed() -> None:
    gramine, council = FakeSlot(), FakeSlot(SlotClass.COUNCIL)
    keyring = made(gramine, council)
    before = keyring.seal()
    council.machine.works = False
    first, second = (s.slot_id for s in keyring.slots)
    refused(
        Code.SLOT_UNAVAILABLE,
        lambda: renew_key(keyring, {first: gramine, second: council}, now=NOW),
    )
    assert keyring.seal() == before


def test_a_slot_has_an_end_of_factors() -> None:
    class Many(FakeSlot):
        factors = tuple(SlotClass)[:5]

    refused(Code.KEYRING_MALFORMED, lambda: made(Many()))


def test_a_slot_is_not_made_of_what_is_no_map() -> None:
    slot = made(FakeSlot()).slots[0]
    for encoded in (b"\xff", b"\x80"):
        refused(
            Code.KEYRING_MALFORMED,
            lambda e=encoded: replace(slot, encoded=e),  # type: ignore[misc]
        )


def test_a_keyring_that_is_too_long_is_not_sealed() -> None:
    big = FakeSlot(more={"a": bytes(60_000)})
    keyring = made(*[big] * MAX_SLOTS)
    assert len(keyring.seal()) < MAX_KEYRING_BYTES
    big.more = {"a": bytes(65_000)}
    for slot in keyring.slots:
        keyring = rewrap_slot(keyring, slot.slot_id, big, now=NOW)
    many = [keyring.current] * 300
    generations = tuple(
        replace(
            generation,
            number=at + 1,
            state=RETIRED if at + 1 < len(many) else CURRENT,
            retired_at=NOW if at + 1 < len(many) else None,
        )
        for at, generation in enumerate(many)
    )
    refused(Code.KEYRING_MALFORMED, replace(keyring, generations=generations).seal)


def test_what_was_wiped_is_not_sealed_again() -> None:
    keyring = made(FakeSlot())
    keyring.wipe()
    for change in (
        lambda: rotate(keyring, now=NOW),
        lambda: add_slot(keyring, FakeSlot(), now=NOW),
    ):
        with pytest.raises(ServiceError, match="wiped"):
            change()


def test_the_file_holds_no_key() -> None:
    slot = FakeSlot()
    keyring = rotate(made(slot), now=NOW)
    data = keyring.seal()
    for secret in (keyring.key.reveal(), *roots(keyring).values()):
        assert secret not in data
        assert secret.hex().encode() not in data

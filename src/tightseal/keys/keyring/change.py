# SPDX-License-Identifier: Apache-2.0
"""Changes to generations and terms: a keyring in, the next keyring out.

Each change raises the counter by one and writes nothing: sealing and saving is for the
caller. Dates never fall, whatever the host's clock does.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring.faults import mismatch
from tightseal.keys.keyring.generation import (
    MAX_GENERATIONS,
    TRANSITIONS,
    Generation,
    GenerationState,
    seal_root,
)
from tightseal.keys.keyring.header import KEYRING_ID_BYTES, Header
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.seal import KEY_BYTES
from tightseal.keys.keyring.terms import check_slots
from tightseal.keys.keyring.wrap import make_slot
from tightseal.model.canonical import labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey

__all__ = [
    "NOT_ERASED",
    "activate",
    "changed",
    "destroy",
    "new_keyring",
    "prepare",
    "retire",
    "rotate",
    "set_terms",
]


NOT_ERASED: Final = (
    "copies of the file from before still hold it: whoever has one, and opens a slot "
    "that it has, opens the generation"
)
"""What to say with every destroyed generation: erasure is not claimed."""


def new_keyring(
    slot_keys: Sequence[SlotKey],
    *,
    labels: Sequence[str] = (),
    trust_domain: str,
    policy_root: bytes | None,
    minimum_policy_version: int,
    slot_classes: Iterable[SlotClass],
    now: int,
) -> Keyring:
    """A new keyring: a random id, one current generation, and a slot for each key.

    Args:
        slot_keys: one or more; each becomes a slot, in this order.
        labels: of the slots, in the same order; empty ones where there are fewer.
        trust_domain: of the provider's platform, as text.
        policy_root: the root that the provider pins, or ``None``.
        minimum_policy_version: lowest bundle version under which it will open.
        slot_classes: classes that slots may have; those of ``slot_keys`` among them.
        now: Unix seconds.

    Raises:
        KeyReleaseError: ``slot_not_allowed``, where a class is not among them or a
            second factor stands alone outside a simulated trust domain;
            ``slot_unavailable``; ``keyring_malformed``, where there is no slot or an
            argument has not its form.
    """
    header = Header(
        keyring_id=_new_id(),
        trust_domain=trust_domain,
        policy_root=policy_root,
        minimum_policy_version=minimum_policy_version,
        slot_classes=frozenset(slot_classes),
        counter=1,
        changed_at=now,
    )
    key = Secret(secrets.token_bytes(KEY_BYTES))
    names = (*labels, *("" for _ in slot_keys))
    try:
        first = _new_generation(header.keyring_id, key, number=1, now=now)
        slots = tuple(
            make_slot(slot_key, header=header, key=key, label=name)
            for slot_key, name in zip(slot_keys, names, strict=False)
        )
        current = replace(first, state=GenerationState.CURRENT, activated_at=now)
        return Keyring(header=header, generations=(current,), slots=slots, key=key)
    except BaseException:
        key.wipe()
        raise


def prepare(keyring: Keyring, *, now: int) -> Keyring:
    """Make a pre-active generation, which a later ``rotate`` or ``activate`` takes.

    Raises:
        KeyReleaseError: ``generation_not_allowed``, where one waits already, or where
            the keyring had as many as it can, or is a branch.
    """
    _require_whole(keyring)
    waiting = _waiting(keyring)
    if waiting is not None:
        raise _refused(f"generation {waiting.number} is pre-active already")
    number = len(keyring.generations) + 1
    if number > MAX_GENERATIONS:
        raise _refused(f"a keyring has at most {MAX_GENERATIONS} generations")
    made = _new_generation(
        keyring.header.keyring_id, keyring.key, number=number, now=_time(keyring, now)
    )
    return changed(keyring, now=now, generations=(*keyring.generations, made))


def activate(keyring: Keyring, number: int, *, now: int) -> Keyring:
    """Make the pre-active generation current; the current one retires.

    Raises:
        KeyReleaseError: ``generation_unknown``; ``generation_not_allowed``, where it is
            not pre-active.
    """
    generation = keyring.generation(number)
    _check_transition(generation, GenerationState.CURRENT)
    return changed(keyring, now=now, generations=_activated(keyring, number, now))


def rotate(keyring: Keyring, *, now: int) -> Keyring:
    """A new current generation: the pre-active one where one waits, else a new one.

    The one before retires and still opens old data.

    Raises:
        KeyReleaseError: ``generation_not_allowed``, where the keyring had as many as
            it can, or is a branch, whose roots come from its parent's.
    """
    _require_whole(keyring)
    waiting = _waiting(keyring)
    if waiting is not None:
        return activate(keyring, waiting.number, now=now)
    wider = prepare(keyring, now=now)
    number = len(wider.generations)
    return changed(keyring, now=now, generations=_activated(wider, number, now))


def retire(keyring: Keyring, number: int, *, now: int) -> Keyring:
    """Withdraw a pre-active generation: it will never be current, and still opens.

    The current one retires by ``rotate``.

    Raises:
        KeyReleaseError: ``generation_unknown``, ``generation_not_allowed``.
    """
    generation = keyring.generation(number)
    if generation.state is GenerationState.CURRENT:
        raise _refused(f"generation {number} is current: rotate, which retires it")
    _check_transition(generation, GenerationState.RETIRED)
    at = _time(keyring, now)
    gone = replace(generation, state=GenerationState.RETIRED, retired_at=at)
    return changed(keyring, now=now, generations=_with(keyring, gone))


def destroy(keyring: Keyring, number: int, *, now: int) -> Keyring:
    """Drop the bytes of a retired or pre-active generation; its number stays taken.

    Older copies of the file still hold them: see ``NOT_ERASED``.

    Raises:
        KeyReleaseError: ``generation_unknown``, ``generation_not_allowed``.
    """
    generation = keyring.generation(number)
    _check_transition(generation, GenerationState.DESTROYED)
    gone = replace(
        generation,
        state=GenerationState.DESTROYED,
        destroyed_at=_time(keyring, now),
        sealed=None,
    )
    return changed(keyring, now=now, generations=_with(keyring, gone))


def set_terms(
    keyring: Keyring,
    *,
    policy_root: bytes | None,
    minimum_policy_version: int,
    slot_classes: Iterable[SlotClass],
    now: int,
) -> Keyring:
    """Set the terms under which the keyring opens from now on.

    Raises:
        KeyReleaseError: ``keyring_mismatch``, where the minimum version would fall
            under the same root; ``slot_not_allowed``, where a slot that is there would
            not be allowed any more: remove it first; ``keyring_malformed``.
    """
    before = keyring.header
    if policy_root == before.policy_root and (
        minimum_policy_version < before.minimum_policy_version
    ):
        detail = f"minimum policy version {before.minimum_policy_version}"
        raise mismatch(f"{detail} does not fall to {minimum_policy_version}")
    header = replace(
        before,
        policy_root=policy_root,
        minimum_policy_version=minimum_policy_version,
        slot_classes=frozenset(slot_classes),
    )
    check_slots(header, keyring.slots)
    return changed(replace(keyring, header=header), now=now)


def changed(
    keyring: Keyring,
    *,
    now: int,
    generations: tuple[Generation, ...] | None = None,
) -> Keyring:
    """The keyring with other generations and the next counter.

    Raises:
        KeyReleaseError: ``keyring_malformed``, where the result has not its form.
    """
    header = replace(
        keyring.header,
        counter=keyring.header.counter + 1,
        changed_at=_time(keyring, now),
    )
    kept = keyring.generations if generations is None else generations
    return replace(keyring, header=header, generations=kept)


def _activated(keyring: Keyring, number: int, now: int) -> tuple[Generation, ...]:
    at = _time(keyring, now)
    old = replace(keyring.current, state=GenerationState.RETIRED, retired_at=at)
    new = replace(
        keyring.generation(number), state=GenerationState.CURRENT, activated_at=at
    )
    replaced = {old.number: old, new.number: new}
    return tuple(replaced.get(g.number, g) for g in keyring.generations)


def _with(keyring: Keyring, other: Generation) -> tuple[Generation, ...]:
    return tuple(other if g.number == other.number else g for g in keyring.generations)


def _require_whole(keyring: Keyring) -> None:
    branch = keyring.header.branch
    if branch is not None:
        detail = f"a branch of keyring {branch.parent.hex()}: rotate that, and hand the"
        raise _refused(f"{detail} branch of {branch.tenant} over again")


def _waiting(keyring: Keyring) -> Generation | None:
    newest = keyring.generations[-1]
    return newest if newest.state is GenerationState.PRE_ACTIVE else None


def _check_transition(generation: Generation, to: GenerationState) -> None:
    if to not in TRANSITIONS[generation.state]:
        detail = f"{generation.state.value}, which does not become {to.value}"
        raise _refused(f"generation {generation.number} is {detail}")


def _refused(detail: str) -> KeyReleaseError:
    return KeyReleaseError(Code.GENERATION_NOT_ALLOWED, detail)


def _time(keyring: Keyring, now: int) -> int:
    return max(now, keyring.header.changed_at)


def _new_id() -> bytes:
    drawn = secrets.token_bytes(KEYRING_ID_BYTES)
    return hashlib.sha256(labelled(Label.KEYRING_ID, drawn)).digest()


def _new_generation(
    keyring_id: bytes, key: Secret, *, number: int, now: int
) -> Generation:
    root = Secret(secrets.token_bytes(KEY_BYTES))
    try:
        sealed = seal_root(root, key=key, keyring_id=keyring_id, number=number)
    finally:
        root.wipe()
    return Generation(
        number=number,
        state=GenerationState.PRE_ACTIVE,
        created_at=now,
        sealed=sealed,
    )

# SPDX-License-Identifier: Apache-2.0
"""Trying slots: which of them open here, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tightseal.errors import Code, KeyReleaseError, TightsealError
from tightseal.keys.keyring.faults import not_allowed, tampered, unavailable
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.slot import Slot
from tightseal.keys.keyring.terms import Terms, factors_refusal
from tightseal.keys.keyring.wrap import factors_of, open_slot
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey

__all__ = ["Opening", "SlotProbe", "first_opening", "probe_slots", "working"]

MAX_REASON_CHARS: Final = 160
"""Longest reason of one slot in an error that lists them all."""

_OTHER_KEY: Final[Mapping[SlotClass, str]] = MappingProxyType(
    {
        SlotClass.GRAMINE: "sealing key changed: another MRENCLAVE or CPUSVN",
        SlotClass.SGX: "sealing key changed: another enclave or processor",
        SlotClass.SNP: "derived key changed: another measurement, policy or chip",
        SlotClass.PROVIDER: "the other provider gave another key",
        SlotClass.COUNCIL: "the shares lead to another key",
        SlotClass.TPM2: "another TPM, or other PCRs",
        SlotClass.PASSPHRASE: "another passphrase",
    }
)

_NEXT: Final = (
    "next: start where one of its slots opens, or ask for a council's shares; "
    "the file itself is kept as it is"
)


@dataclass(frozen=True, slots=True)
class SlotProbe:
    """How a slot did.

    Attributes:
        slot: the slot.
        refusal: why it did not open, for the operator; empty where it did.
        forbidden: whether it was not even tried: it may not be used here.
    """

    slot: Slot
    refusal: str = ""
    forbidden: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """The first slot that opened.

    Attributes:
        slot: the slot.
        key: the keyring key that it wraps.
        rewrap: why the slot should be made anew; empty where it need not.
        closed: the slots before it that did not open.
    """

    slot: Slot
    key: Secret = field(repr=False)
    rewrap: str
    closed: tuple[SlotProbe, ...]


def first_opening(
    slots: Sequence[Slot],
    slot_keys: Sequence[SlotKey],
    *,
    terms: Terms,
    keyring_id: bytes,
) -> Opening:
    """Try slots in their order until one gives the keyring key.

    Raises:
        KeyReleaseError: ``slot_unavailable`` with the reason of each slot and the next
            step, or ``slot_not_allowed``, where none of them may be used here.
    """
    closed: list[SlotProbe] = []
    for slot in slots:
        refusal = factors_refusal(
            slot.factors, classes=terms.slot_classes, trust_domain=terms.trust_domain
        )
        if refusal:
            closed.append(SlotProbe(slot, refusal, forbidden=True))
            continue
        try:
            key, by = _opened_by(slot, slot_keys, keyring_id)
        except KeyReleaseError as e:
            closed.append(SlotProbe(slot, e.detail))
            continue
        return Opening(slot, key, _rewrap(by, slot), tuple(closed))
    raise _none_opened(closed)


def probe_slots(
    keyring: Keyring, slot_keys: Sequence[SlotKey]
) -> tuple[SlotProbe, ...]:
    """Try every slot of an open keyring.

    Raises:
        KeyReleaseError: ``keyring_tampered``, where a slot opens to another key than
            the keyring's.
    """
    probes = []
    for slot in keyring.slots:
        try:
            key, _ = _opened_by(slot, slot_keys, keyring.header.keyring_id)
        except KeyReleaseError as e:
            probes.append(SlotProbe(slot, e.detail))
            continue
        same = key == keyring.key
        key.wipe()
        if not same:
            raise tampered(f"{slot}: wraps the key of another keyring")
        probes.append(SlotProbe(slot))
    return tuple(probes)


def working(probes: Iterable[SlotProbe]) -> frozenset[bytes]:
    """Ids of the slots that opened: what ``remove_slot`` asks for."""
    return frozenset(probe.slot.slot_id for probe in probes if not probe.refusal)


def _opened_by(
    slot: Slot, slot_keys: Sequence[SlotKey], keyring_id: bytes
) -> tuple[Secret, SlotKey]:
    """The keyring key by the first of the keys of this kind that opens the slot."""
    reasons = []
    for by in slot_keys:
        if factors_of(by) != slot.factors:
            continue
        try:
            return open_slot(slot, by, keyring_id=keyring_id), by
        except TightsealError as e:
            reasons.append(_reason(slot, e))
    if not reasons:
        names = "+".join(factor.value for factor in slot.factors)
        raise unavailable(f"{names}: this provider has none")
    raise unavailable("; ".join(reasons))


def _reason(slot: Slot, error: TightsealError) -> str:
    if error.code is not Code.KEYRING_TAMPERED:
        return error.detail
    causes = ", ".join(_OTHER_KEY[factor] for factor in slot.factors)
    return f"{slot.slot_class.value}: {causes}; or the slot was changed or moved here"


def _rewrap(by: SlotKey, slot: Slot) -> str:
    """Some classes can say that a slot opens with what is going out of use."""
    ask = getattr(by, "rewrap", None)
    if ask is None:
        return ""
    try:
        return str(ask(slot.parameters) or "")
    except TightsealError as e:
        return e.detail


def _none_opened(closed: Sequence[SlotProbe]) -> KeyReleaseError:
    listed = "; ".join(
        f"[{probe.slot}] {probe.refusal[:MAX_REASON_CHARS]}" for probe in closed
    )
    detail = f"none of {len(closed)} slots opens here; {_NEXT}; {listed}"
    if all(probe.forbidden for probe in closed):
        return not_allowed(detail)
    return unavailable(detail)

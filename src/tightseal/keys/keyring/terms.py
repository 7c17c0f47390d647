# SPDX-License-Identifier: Apache-2.0
"""Terms: what a keyring demands of the provider, and the provider of a keyring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tightseal.keys.keyring.faults import mismatch, not_allowed
from tightseal.keys.keyring.header import Header, is_simulated
from tightseal.keys.keyring.slot import Slot, is_sufficient
from tightseal.model.slots import SlotClass

__all__ = ["DamagedSlots", "Terms", "UnseenKeyring", "check_slots", "factors_refusal"]


class UnseenKeyring(StrEnum):
    """What to do with a keyring that the anchor never saw."""

    REFUSE = "refuse"
    """An anchor that forgot would let every older keyring in."""

    ADOPT = "adopt"
    """Said once by an operator: a new keyring, or a new anchor."""


class DamagedSlots(StrEnum):
    """What to do where another slot opens, and one is not as it was written."""

    REFUSE = "refuse"
    """Damage and a slot put there by the host look alike."""

    LEAVE_OUT = "leave-out"
    """Said once by an operator: open without it. The next change removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What this provider is.

    Attributes:
        trust_domain: of its platform, as text.
        policy_root: the root that it pins, 32 bytes, or ``None``.
        policy_version: version of the signed bundle in force; 0 where there is none.
        slot_classes: every class that a slot to be opened may have a factor of.
        keyring_id: the keyring that it is for, where that is known.
    """

    trust_domain: str
    policy_root: bytes | None
    policy_version: int
    slot_classes: frozenset[SlotClass] = frozenset(SlotClass)
    keyring_id: bytes | None = None

    def check(self, header: Header) -> None:
        """Refuse a keyring for another provider; the header is authentic.

        Raises:
            KeyReleaseError: ``keyring_mismatch``, with what was expected and found.
        """
        if self.keyring_id not in (None, header.keyring_id):
            found = header.keyring_id.hex()
            raise mismatch(f"keyring {found}, expected {_hex(self.keyring_id)}")
        if self.trust_domain != header.trust_domain:
            detail = f"trust domain {header.trust_domain}, but this provider stands"
            raise mismatch(f"{detail} in {self.trust_domain}")
        if self.policy_root != header.policy_root:
            detail = f"policy root {_hex(header.policy_root)}, but this provider pins"
            raise mismatch(f"{detail} {_hex(self.policy_root)}")
        if self.policy_version < header.minimum_policy_version:
            detail = f"policy version {header.minimum_policy_version} at least"
            raise mismatch(f"{detail}, but {self.policy_version} is in force")


def check_slots(header: Header, slots: Iterable[Slot]) -> None:
    """Refuse slots that header or trust domain do not allow.

    Raises:
        KeyReleaseError: ``slot_not_allowed``, naming the first.
    """
    for slot in slots:
        refusal = factors_refusal(
            slot.factors, classes=header.slot_classes, trust_domain=header.trust_domain
        )
        if refusal:
            raise not_allowed(f"{slot}: {refusal}")


def factors_refusal(
    factors: tuple[SlotClass, ...],
    *,
    classes: frozenset[SlotClass],
    trust_domain: str,
) -> str:
    """Why a slot of these may not be used, for the operator; empty where it may."""
    odd = [factor.value for factor in factors if factor not in classes]
    if odd:
        return f"class {', '.join(odd)} is not allowed"
    if not is_sufficient(factors) and not is_simulated(trust_domain):
        return "a second factor alone opens for the host: only in development"
    return ""


def _hex(value: bytes | None) -> str:
    return "none" if value is None else value.hex()

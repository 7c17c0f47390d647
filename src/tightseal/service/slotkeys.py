# SPDX-License-Identifier: Apache-2.0
"""The ways to slots' keys that a provider has.

They are its platform's, that of another provider, and second factors.

Which second factors there are is said by host settings. They open nothing alone outside
a simulated world, so a setting can close a slot and never open one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Final

from tightseal.errors import Code, KeyReleaseError, SettingsError, TightsealError
from tightseal.keys.keyring import Slot
from tightseal.keys.keyring.wrap import factors_of
from tightseal.model.ports import Clock, RootPlatform
from tightseal.model.secret import Secret
from tightseal.model.slots import (
    FIRST_FACTORS,
    SECOND_FACTORS,
    SlotClass,
    SlotKey,
)
from tightseal.platform.slots.combined import CombinedSlot
from tightseal.platform.slots.door import platform_slots
from tightseal.platform.slots.passphrase import Ask, PassphraseSlot
from tightseal.platform.slots.signer import belongs_to_signer, for_signer
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal.platform.slots.tpm_wire import open_device
from tightseal.service.keyring_settings import TpmSettings
from tightseal.service.settings import Settings
from tightseal.service.slotprovider import provider_slot
from tightseal.service.slotterms import SlotTerms, slot_terms

__all__ = [
    "SlotKeys",
    "missing_hint",
    "of_signer",
    "only_through_providers",
    "own_slots",
    "read_passphrase",
    "rewrap_reason",
]

ELSEWHERE: Final = frozenset({SlotClass.PROVIDER, SlotClass.COUNCIL})
"""First factors that are not this machine's own."""

MAX_PASSPHRASE_BYTES: Final = 4096
"""Longest file of a passphrase that is read; a slot takes less."""

_HOW: Final[Mapping[SlotClass, str]] = {
    SlotClass.PROVIDER: "pin one in release.slot_provider, and name its address in "
    "host.keyring.provider.url",
    SlotClass.TPM2: "name PCRs in host.keyring.tpm.pcrs",
    SlotClass.PASSPHRASE: "name a file in host.keyring.passphrase_file",
}


@dataclass(frozen=True, slots=True)
class SlotKeys:
    """What a provider can make and open slots with.

    Attributes:
        factors: one for each class, those of the platform first.
    """

    factors: Mapping[SlotClass, SlotKey]

    @property
    def classes(self) -> frozenset[SlotClass]:
        """Every class that there is here."""
        return frozenset(self.factors)

    @property
    def every(self) -> tuple[SlotKey, ...]:
        """Each factor alone, and each first one with all choices of second ones."""
        first = [c for c in self.factors if c in FIRST_FACTORS]
        second = [c for c in self.factors if c in SECOND_FACTORS]
        chosen = (
            (one, *others)
            for one in first
            for count in range(1, len(second) + 1)
            for others in combinations(second, count)
        )
        return (*self.factors.values(), *(self.choose(*classes) for classes in chosen))

    @property
    def of_platform(self) -> tuple[SlotKey, ...]:
        """First factors that need nothing but this machine, each alone."""
        own = FIRST_FACTORS - ELSEWHERE
        return tuple(key for name, key in self.factors.items() if name in own)

    def choose(self, *classes: SlotClass, signer: bool = False) -> SlotKey:
        """The way of these classes together; the platform's first one of none.

        Args:
            classes: of the factors.
            signer: whether new slots are to belong to the enclave's signer.

        Raises:
            KeyReleaseError: ``slot_unavailable``, where there is none here, these do
                not go together, or the signer is not allowed.
        """
        wanted: Sequence[SlotClass] = classes or tuple(self.factors)[:1]
        missing = [c for c in wanted if c not in self.factors]
        if missing or not wanted:
            raise _none_here(missing, self.factors)
        factors = [self.factors[c] for c in wanted]
        if signer:
            # The first factor, or what stands in its place, which is refused.
            first = next((c for c in wanted if c in FIRST_FACTORS), wanted[0])
            at = wanted.index(first)
            factors[at] = for_signer(factors[at])
        return factors[0] if len(factors) == 1 else CombinedSlot(factors)

    def of(self, slot: Slot) -> SlotKey:
        """The way that makes and opens slots like this one.

        Args:
            slot: of a keyring that is open.

        Raises:
            KeyReleaseError: ``slot_unavailable``, where there is none here.
        """
        return self.choose(*slot.factors, signer=of_signer(slot))


def own_slots(
    settings: Settings,
    platform: RootPlatform,
    *,
    ask: Ask | None = None,
    terms: SlotTerms | None = None,
    clock: Clock = lambda: int(time.time()),
) -> SlotKeys:
    """The ways that platform and settings give; nobody is asked yet.

    Args:
        settings: both kinds.
        platform: that they name.
        ask: for a passphrase, in place of the file that settings name.
        terms: what measured or signed settings say, where the policy in force is known;
            by default what can be known before.
        clock: Unix seconds, by the host.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    kind, keyring = settings.host.platform, settings.host.keyring
    terms = terms or slot_terms(settings, now=clock())
    found = dict(
        platform_slots(
            kind.kind.value,
            platform,
            kind.options(),
            # A key of the signer opens for whoever has the signing key.
            allow_signer=terms.allow_signer,
        )
    )
    other = provider_slot(settings, terms, source=platform, clock=clock)
    if other is not None:
        found[SlotClass.PROVIDER] = other
    if keyring.tpm.pcrs:
        found[SlotClass.TPM2] = _tpm(keyring.tpm)
    if ask is None and keyring.passphrase_file:
        ask = partial(read_passphrase, Path(keyring.passphrase_file))
    if ask is not None:
        found[SlotClass.PASSPHRASE] = PassphraseSlot(ask)
    return SlotKeys(found)


def read_passphrase(file: Path) -> Secret:
    """A passphrase from a file that holds it alone, without line ends after it.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_PASSPHRASE_BYTES)
    except OSError as e:
        detail = f"file of a passphrase {file}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    # An editor's newline at the end is no part of a passphrase.
    return Secret(data.rstrip(b"\r\n"))


def rewrap_reason(slot: Slot, slot_keys: Sequence[SlotKey]) -> str:
    """Why a slot should be made anew; empty where it need not, or nobody can say."""
    for by in slot_keys:
        ask = getattr(by, "rewrap", None)
        if ask is None or factors_of(by) != slot.factors:
            continue
        try:
            return str(ask(slot.parameters) or "")
        except TightsealError as e:
            return e.detail
    return ""


def of_signer(slot: Slot) -> bool:
    """Whether a slot belongs to the enclave's signer, as the file says."""
    return belongs_to_signer(slot.factors, slot.parameters)


def only_through_providers(slots: Sequence[Slot]) -> bool:
    """Whether every slot needs another provider to run."""
    return all(SlotClass.PROVIDER in slot.factors for slot in slots)


def missing_hint(slot: Slot, slot_keys: Sequence[SlotKey]) -> str:
    """Which setting a slot lacks here; empty where it lacks none."""
    here = {factor for by in slot_keys for factor in factors_of(by)}
    return "; ".join(_hints([f for f in slot.factors if f not in here]))


def _hints(missing: Sequence[SlotClass]) -> list[str]:
    return [f"{c.value}: {_HOW[c]}" for c in missing if c in _HOW]


def _tpm(settings: TpmSettings) -> SlotKey:
    return Tpm2Slot(
        open_device(Path(settings.device)),
        pcrs=settings.pcrs,
        ek_name=bytes.fromhex(settings.ek_name) or None,
    )


def _none_here(
    missing: Sequence[SlotClass], there: Mapping[SlotClass, SlotKey]
) -> KeyReleaseError:
    here = ", ".join(c.value for c in there) or "none"
    names = ", ".join(c.value for c in missing) or "of the platform's own"
    detail = f"slot {names}: this provider has none; here are: {here}"
    return KeyReleaseError(Code.SLOT_UNAVAILABLE, "; ".join([detail, *_hints(missing)]))

# SPDX-License-Identifier: Apache-2.0
"""The provider that slots have their keys from, asked as a guest asks it.

Who it must be comes from measured or signed settings: a host that chose it would make
the slot at a provider of its own, and open the keyring there. Where it answers is the
host's to say; at another address another provider is found out before evidence is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import httpx

from tightseal.errors import Code, KeyReleaseError, ProviderError, SettingsError
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with
from tightseal.guest.exchange import Terms
from tightseal.guest.http import Bounds
from tightseal.guest.pins import ProviderPin, pin_from_table
from tightseal.guest.provider import ProviderCollateral
from tightseal.guest.released import ReleasedKeys
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import KeyRequest, KeyType
from tightseal.model.ports import Clock, EvidenceSource
from tightseal.model.settings import ReleaseSettings, SlotProviderSettings
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.derive import KEY_BYTES
from tightseal.platform.slots.provider import ClosedSlot, ProviderSlot, SlotMaterial
from tightseal.service.keyring_settings import ProviderSlotSettings
from tightseal.service.settings import HostSettings, Settings
from tightseal.service.slotterms import SlotTerms, own_domain
from tightseal.service.sources import open_source, trusted_roots

__all__ = ["SLOT_PURPOSE", "PinnedProvider", "provider_slot", "slot_pin"]

SLOT_PURPOSE: Final = "keyring-slot"
"""Purpose of the keys of slots at the other provider. Fixed: a host that chose it could
choose one whose keys go elsewhere too."""

ATTEMPTS: Final = 2
CONNECT_SECONDS: Final = 3.0
REST_SECONDS: Final = 30.0
"""So long is a provider that was not reached not asked again: a file may hold 64 slots
of it, and a start must not wait for each."""


class PinnedProvider:
    """Implements ``OtherProvider`` over the exchange, version 1.

    Args:
        place: where it answers.
        pin: who it must be.
        source: makes our own evidence.
        collateral: judges the other provider's evidence; made when it is needed.
        domain: trust domain of our keyring, as text.
        clock: Unix seconds.
        monotonic: seconds, for the rest after it was not reached.
        transport: replaces the network in simulated worlds.
    """

    def __init__(
        self,
        place: ProviderSlotSettings,
        *,
        pin: ProviderPin,
        source: EvidenceSource,
        collateral: Callable[[], ProviderCollateral],
        domain: str,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._place = place
        self._pin = pin
        self._source = source
        self._collateral = collateral
        self._domain = domain
        self._clock = clock
        self._monotonic = monotonic
        self._transport = transport
        self._missed: tuple[float, ProviderError] | None = None

    @property
    def keyring_id(self) -> bytes:
        """Of the pin, 32 bytes."""
        return self._pin.identity.keyring_id

    @property
    def policy_root(self) -> bytes | None:
        """Of the pin, 32 bytes."""
        return self._pin.identity.policy_root

    @property
    def measurement(self) -> bytes:
        """Of the pin, 32 or 48 bytes."""
        return self._pin.identity.measurement

    def ask(self, label: str, *, generation: int | None) -> SlotMaterial:
        """Get the key of a label.

        Raises:
            TightsealError: as ``Client.keys``; ``keyring_mismatch``, where the key is
                of another trust domain than our keyring; ``key_path_invalid``, where
                the other's policy makes no raw key of it.
        """
        if self._missed is not None:
            since, error = self._missed
            if self._monotonic() - since < REST_SECONDS:
                raise error
        current: Generation = GenerationName.CURRENT
        wanted = current if generation is None else generation
        asked = dict.fromkeys((wanted, current))
        try:
            keys = self._exchange(label, *asked)
        except ProviderError as e:
            if e.code is Code.PROVIDER_UNREACHABLE:
                url = self._place.url
                error = ProviderError(e.code, f"{url}: {e.detail}")
                self._missed = self._monotonic(), error
                raise error from e
            raise
        try:
            return self._material(keys, label, wanted)
        except BaseException:
            keys.wipe()
            raise

    def _exchange(self, label: str, *generations: Generation) -> ReleasedKeys:
        seconds = self._place.seconds
        client = Client(
            self._place.url,
            source=self._source,
            tls=self._place.tls,
            terms=Terms(pin=self._pin, collateral=self._collateral()),
            bounds=Bounds(
                connect=min(CONNECT_SECONDS, seconds),
                read=seconds,
                write=seconds,
                total=seconds,
                attempts=ATTEMPTS,
            ),
            clock=self._clock,
            transport=self._transport,
        )
        with client:
            return client.keys(
                *(
                    KeyRequest(SLOT_PURPOSE, label, KEY_BYTES, generation=generation)
                    for generation in generations
                )
            )

    def _material(
        self, keys: ReleasedKeys, label: str, wanted: Generation
    ) -> SlotMaterial:
        domain = keys.receipt.trust_domain
        if domain != self._domain:
            detail = f"its key is of {domain}, our keyring of {self._domain}"
            raise KeyReleaseError(Code.KEYRING_MISMATCH, detail)
        got = keys.key(SLOT_PURPOSE, label, generation=wanted)
        newest = keys.key(SLOT_PURPOSE, label)
        if got.type is not KeyType.RAW:
            detail = f"its policy makes {got.type.value} of it, expected raw bytes"
            raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)
        if newest is not got:
            newest.secret.wipe()
        return SlotMaterial(got.secret, got.generation, newest.generation)


def provider_slot(
    settings: Settings, terms: SlotTerms, *, source: EvidenceSource, clock: Clock
) -> SlotKey | None:
    """The slot of class ``provider`` that settings give; ``None`` where they name none.

    Args:
        settings: both kinds.
        terms: what measured or signed settings say.
        source: our own platform.
        clock: Unix seconds.

    Raises:
        SettingsError: ``settings_invalid``, for our own platform's trust domain.
    """
    place, pinned = settings.host.keyring.provider, terms.release.slot_provider
    if not place.url and not pinned.pinned:
        return None
    if not place.url:
        return _closed("its address is not set: host.keyring.provider.url")
    if terms.unknown:
        return _closed(f"release.slot_provider is not known: {terms.unknown}")
    if not pinned.pinned:
        return _closed("release.slot_provider pins nobody")
    domain = own_domain(settings)
    try:
        pin = slot_pin(pinned, domain=domain)
    except SettingsError as e:
        return _closed(f"release.slot_provider: {e.detail}")
    return ProviderSlot(
        PinnedProvider(
            place,
            pin=pin,
            source=source,
            collateral=lambda: _collateral(settings.host, terms.release),
            domain=domain,
            clock=clock,
        )
    )


def slot_pin(settings: SlotProviderSettings, *, domain: str) -> ProviderPin:
    """The pin of the other provider.

    Args:
        settings: of the pin.
        domain: trust domain of our keyring, as text.

    Raises:
        SettingsError: ``settings_invalid``: it is no pin, or names a trust domain that
            is not our keyring's own.
    """
    pin = pin_from_table(
        {
            "tee": settings.tee.value,
            "measurement": settings.measurement,
            "keyring_id": settings.keyring_id,
            "policy_root": settings.policy_root or None,
            "settings_digest": settings.settings_digest or None,
            "trust_domains": list(settings.trust_domains),
            "accepted_tcb": [status.value for status in settings.accepted_tcb],
            "allow_simulated": settings.allow_simulated,
        }
    )
    if others := sorted(pin.trust_domains - {domain}):
        detail = f"trust domain {', '.join(others)}: our keyring is of {domain}, and"
        message = f"{detail} no slot crosses trust domains"
        raise SettingsError(Code.SETTINGS_INVALID, message)
    return pin


def _collateral(host: HostSettings, release: ReleaseSettings) -> ProviderCollateral:
    roots = trusted_roots(release)
    judge = judge_with(
        roots=roots,
        mode=release.verifier,
        exceptions=frozenset(release.verifier_exceptions),
    )
    # The provider's own guard lies under its keyring; the judge's has the floors of
    # this release.
    source = open_source(host, roots=roots, guard=None)
    return ProviderCollateral.behind(judge(source))


def _closed(why: str) -> SlotKey:
    return ClosedSlot(SlotClass.PROVIDER, why)

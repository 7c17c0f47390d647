# SPDX-License-Identifier: Apache-2.0
"""A provider on simulated hardware: how it starts, and which keys it has.

Everything of the provider is the product's own: keyring, key chain and the key of its
state store. Hardware, disk and people are simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from tightseal.keys.chain import derive
from tightseal.keys.keyring import (
    DamagedSlots,
    KeyringFile,
    keep_new,
    new_keyring,
    rotate,
)
from tightseal.model.claims import Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.keyring import KeyringAnchor
from tightseal.model.labels import Label
from tightseal.model.ports import KeyRoots
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.release.anchored import KeyedAnchor
from tightseal.release.keyring import KeyringKeeper, Ways
from tightseal.release.roots import PlatformRoots
from tightseal.service.ownkeyring import renew_slots, rewrapped
from tightseal.service.state import own_secret
from tightseal_sim.drill_disk import KEYRING, DrillDisk, DrillSystem
from tightseal_sim.drill_site import (
    NOW,
    POLICY_VERSION,
    Setup,
    Shape,
    Site,
    Way,
    second_machine,
)

__all__ = ["NOW", "Opened", "Stage", "keys_of", "workload_path"]


def workload_path(site: Site, generation: int) -> KeyPath:
    """The path of one workload's key: what the drill compares."""
    return KeyPath(
        kdf=Kdf.HKDF_SHA256,
        trust_domain=site.trust_domain,
        tenant="default",
        workload=WorkloadBinding(
            identity=IdentityKind.NAMED,
            name="database",
            tee=Tee.TDX,
            attributes=(),
            measurements=(),
            authority=Authority("policy_root", site.policy_root),
        ),
        protocol_class=ProtocolClass.V1,
        generation=generation,
        purpose="disk",
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """A provider that started.

    Attributes:
        keys: the workload's key of every generation that can be derived from.
        store_key: of the provider's state store.
        keeper: of the keyring; ``None`` in the sidecar shape.
    """

    keys: Mapping[int, Secret]
    store_key: Secret
    keeper: KeyringKeeper | None


class Stage:
    """One drill: a provider with keys, and a disk.

    Args:
        setup: its shape and slots.
        site: where it stands; a new machine by default.
        empty: whether it has no keyring yet.

    Attributes:
        keyed: what remembers the keyring from now on, besides what is handed in.
    """

    def __init__(
        self, setup: Setup, site: Site | None = None, *, empty: bool = False
    ) -> None:
        self.setup = setup
        self.site = Site(setup.tee) if site is None else site
        self.disk = DrillDisk()
        self.keyed: KeyedAnchor | None = None
        self.before: Mapping[int, Secret] = {}
        if empty:
            return
        if setup.shape is Shape.SERVICE:
            self._make()
        self.before = self.open().keys

    def _make(self) -> None:
        """A keyring with every slot and two generations.

        The slot of the second machine is made by the drill; in production the second
        provider would have to join first.
        """
        other = second_machine(self.setup)
        ways = self.setup.ways
        keyring = new_keyring(
            [(other if way.elsewhere else self.site).key(way) for way in ways],
            labels=list(ways),
            trust_domain=self.site.trust_domain,
            policy_root=self.site.policy_root,
            minimum_policy_version=POLICY_VERSION,
            slot_classes=frozenset(SlotClass),
            now=NOW,
        )
        keep_new(self.file(), rotate(keyring, now=NOW), anchor=None)

    def file(self, system: DrillSystem | None = None) -> KeyringFile:
        """The keyring's file, for one process."""
        return KeyringFile(KEYRING, system=system or DrillSystem(self.disk))

    def keeper(
        self,
        *,
        site: Site | None = None,
        disk: DrillDisk | None = None,
        anchor: KeyringAnchor | None = None,
        system: DrillSystem | None = None,
        damaged: DamagedSlots = DamagedSlots.REFUSE,
    ) -> KeyringKeeper:
        """Open the keyring, as a provider does at its start."""
        here = self.site if site is None else site
        process = system or DrillSystem(self.disk if disk is None else disk)
        return KeyringKeeper(
            Ways(
                file=self.file(process),
                slot_keys=here.keys(self.setup.ways),
                terms=here.terms,
                anchor=anchor,
                damaged=damaged,
                keyed=self.keyed,
            )
        )

    def open(
        self,
        *,
        site: Site | None = None,
        disk: DrillDisk | None = None,
        anchor: KeyringAnchor | None = None,
    ) -> Opened:
        """Start the provider, and derive the workload's keys.

        Raises:
            TightsealError: it does not start.
        """
        here = self.site if site is None else site
        name = here.policy_root.hex()
        if self.setup.shape is Shape.SIDECAR:
            platform = here.platform()
            root = platform.sealing_key()
            store_key = own_secret(root, Label.KDF_STATE_STORE, name)
            return Opened(keys_of(PlatformRoots(platform), here), store_key, None)
        keeper = self.keeper(site=here, disk=disk, anchor=anchor)
        store_key = keeper.keyring.derive(Label.KDF_STATE_STORE, name)
        return Opened(keys_of(keeper, here), store_key, keeper)

    def renew(self, keeper: KeyringKeeper) -> bool:
        """What the provider does by itself at its start; whether slots were due."""
        before = keeper.keyring.header.counter
        renew_slots(keeper, self.site.slot_keys(self.setup.ways), now=NOW)
        return keeper.keyring.header.counter != before

    def mend(self, keeper: KeyringKeeper) -> bool:
        """What an operator does: closed slots are made anew; whether there were any."""
        closed = [probe.slot for probe in keeper.opened.closed]
        for slot in closed:
            key = self.site.key(Way(slot.label))
            keeper.change(partial(rewrapped, slot=slot, slot_key=key, now=NOW))
        return bool(closed)


def keys_of(roots: KeyRoots, site: Site) -> Mapping[int, Secret]:
    """The workload's key of every generation."""
    return {
        number: derive(roots.root(number), workload_path(site, number))
        for number in sorted(roots.generations().open)
    }

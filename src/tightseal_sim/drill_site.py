# SPDX-License-Identifier: Apache-2.0
"""Where a drilled provider stands: machine, TEE, image, and its ways to slots' keys.

Platforms and slots are the product's own; hardware and people are simulated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Final

from tightseal.keys.keyring import (
    Terms,
)
from tightseal.model.claims import Tee
from tightseal.model.ports import RootPlatform
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.combined import CombinedSlot
from tightseal.platform.slots.door import platform_slots
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.platform.slots.sgx import SgxSlot
from tightseal.platform.slots.signer import for_signer
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal.service.slotkeys import SlotKeys
from tightseal_sim.amd.chip import SimChip
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.drill_other import Others
from tightseal_sim.intel.enclave import (
    GRAMINE_XFRM_MASK,
    EnclaveImage,
    SimEnclave,
)
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.intel.structures import KeyPolicy, KeyRequest
from tightseal_sim.tpm import SimTpm
from tightseal_sim.world import World

__all__ = [
    "GUEST",
    "IMAGE",
    "MEASURED_PCR",
    "NOW",
    "POLICY_VERSION",
    "Setup",
    "Shape",
    "Site",
    "Way",
    "foreign_ways",
    "second_machine",
]

NOW: Final = 1_800_000_000
"""Unix seconds at which everything happens."""

POLICY_VERSION: Final = 3
"""Version of the signed policy in force, and the least that the keyring asks for."""

POLICY_ROOT: Final = hashlib.sha256(b"tightseal_sim/v1/drill/policy-root").digest()
IMAGE: Final = EnclaveImage(
    name="tightseal-provider", code=b"release 1", isv_prod_id=7, isv_svn=3
)
GUEST: Final = GuestImage(kernel=b"tightseal-provider release 1", guest_svn=3)
PRODUCT: Final = "Milan"
MEASURED_PCR: Final = 7

_SEED: Final = hashlib.sha256(b"tightseal_sim/v1/drill/world").digest()
_RSA_BITS: Final = 2048
_TYPED: Final = b"correct horse battery staple"


class Shape(StrEnum):
    """Where the roots of the keys come from."""

    SIDECAR = "sidecar"
    SERVICE = "service"


class Way(StrEnum):
    """A slot of a keyring, as the table names it."""

    GRAMINE = "gramine"
    SGX = "sgx"
    GRAMINE_SIGNER = "gramine of the signer"
    SGX_SIGNER = "sgx of the signer"
    SNP = "snp"
    PASSPHRASE = "passphrase"  # noqa: S105 (the name of a slot)
    TPM = "tpm2"
    GRAMINE_TPM = "gramine+tpm2"
    GRAMINE_PASSPHRASE = "gramine+passphrase"  # noqa: S105 (the name of a slot)
    OTHER_GRAMINE = "gramine of machine B"
    OTHER_SNP = "snp of machine B"
    PEER = "provider (peer)"
    SIDECAR = "provider (sidecar)"

    @property
    def elsewhere(self) -> bool:
        """Whether it belongs to the second machine."""
        return self in (Way.OTHER_GRAMINE, Way.OTHER_SNP)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a row of the table stands on.

    Attributes:
        shape: of the provider.
        tee: in which it runs.
        ways: the slots of its keyring, in their order; none in the sidecar shape.
    """

    shape: Shape
    tee: Tee
    ways: tuple[Way, ...] = ()

    @property
    def shape_name(self) -> str:
        """For the table."""
        return f"{self.shape}, {self.tee.value.upper()}"

    @property
    def slots_name(self) -> str:
        """For the table."""
        return ", ".join(self.ways) or "none"


class _Enclave(SimEnclave):
    """An enclave whose manifest has seal masks of its own."""

    xfrm_mask: int = GRAMINE_XFRM_MASK

    def sealing_request(self, policy: int = KeyPolicy.MRENCLAVE) -> KeyRequest:
        """As Gramine asks under these masks."""
        return replace(super().sealing_request(policy), xfrm_mask=self.xfrm_mask)

    def doors(self) -> SimEnclaveKeys:
        """Gramine's keys under these masks, and EGETKEY."""
        return SimEnclaveKeys(self, xfrm_mask=self.xfrm_mask)

    def slots(self, *, allow_signer: bool) -> Mapping[SlotClass, SlotKey]:
        """The slots of this enclave."""
        doors = self.doors()
        return {
            SlotClass.GRAMINE: GramineSlot(doors, allow_signer=allow_signer),
            SlotClass.SGX: SgxSlot(doors, allow_signer=allow_signer),
        }


@cache
def _amd(seed: bytes) -> AmdWorld:
    """Making RSA keys takes long, and nothing in them is a drill's."""
    return AmdWorld(None, seed, rsa_bits=_RSA_BITS)


@dataclass
class Site:
    """A machine and what runs on it: what events change.

    Attributes:
        tee: kind of the provider's TEE.
        world: its hardware.
        machine: its name.
        image, guest: the provider, as enclave and as SNP guest.
        xfrm_mask: seal mask of the manifest.
        policy_root: the root that the provider pins.
        others: the providers that slots have their keys from.
        signer_allowed: whether release settings allow slots of the signer.
        tpm: the machine's TPM.
        chip: the AMD processor.
    """

    tee: Tee
    world: World = field(default_factory=lambda: World.in_memory(_SEED))
    machine: str = "machine A"
    image: EnclaveImage = IMAGE
    guest: GuestImage = GUEST
    xfrm_mask: int = GRAMINE_XFRM_MASK
    policy_root: bytes = POLICY_ROOT
    others: Others = field(default_factory=lambda: Others(accepted=(IMAGE,)))
    signer_allowed: bool = True

    def __post_init__(self) -> None:
        """The machine's other parts."""
        seed = hashlib.sha256(self.machine.encode()).digest()
        self.tpm = SimTpm(seed)
        self.chip: SimChip = self.amd.chip(self.machine, PRODUCT)

    @property
    def amd(self) -> AmdWorld:
        """AMD's side of the world, as it came from the factory."""
        base = self.world.intel.trusted_root.trust_domain.root_key_id or ""
        return _amd(hashlib.sha256(base.encode()).digest())

    @property
    def cpu(self) -> SimPlatform:
        """The Intel processor."""
        return self.world.intel.platform(self.machine)

    @property
    def trust_domain(self) -> str:
        """Of the provider's platform, as text."""
        if self.tee is Tee.SNP:
            return str(self.amd.trusted_root(PRODUCT).trust_domain)
        return str(self.world.intel.trusted_root.trust_domain)

    @property
    def terms(self) -> Terms:
        """What this provider demands of a keyring."""
        return Terms(
            trust_domain=self.trust_domain,
            policy_root=self.policy_root,
            policy_version=POLICY_VERSION,
        )

    def platform(self) -> RootPlatform:
        """The provider's TEE, started now."""
        if self.tee is Tee.SNP:
            return self.chip.launch(self.guest)
        return self.enclave()

    def enclave(self) -> _Enclave:
        """The enclave, loaded now."""
        enclave = _Enclave(self.cpu, self.image)
        enclave.xfrm_mask = self.xfrm_mask
        return enclave

    def keys(self, ways: Iterable[Way]) -> tuple[SlotKey, ...]:
        """The ways that this machine has; those of other TEEs are none of its own."""
        foreign = foreign_ways(self.tee)
        return tuple(self.key(way) for way in ways if way not in foreign)

    def slot_keys(self, ways: Iterable[Way]) -> SlotKeys:
        """The same, as the provider renews slots: each class once, factors apart."""
        foreign = foreign_ways(self.tee)
        here = [way for way in ways if way not in foreign]
        factors = {factor for way in here for factor in _FACTORS.get(way, (way,))}
        keys = [self.key(factor) for factor in sorted(factors)]
        return SlotKeys({SlotClass(key.slot_class): key for key in keys})

    def key(self, way: Way) -> SlotKey:
        """A way to a slot's key, on this machine."""
        if way in (Way.SNP, Way.OTHER_SNP):
            guest = self.chip.launch(self.guest)
            return platform_slots("sim", guest, allow_signer=False)[SlotClass.SNP]
        if way is Way.PASSPHRASE:
            return PassphraseSlot(lambda: Secret(_TYPED))
        if way is Way.TPM:
            return Tpm2Slot(self.tpm.open, pcrs={MEASURED_PCR})
        if way in _FACTORS:
            return CombinedSlot([self.key(factor) for factor in _FACTORS[way]])
        if way is Way.PEER:
            return self.others.peer(self.world, source=self.platform(), now=NOW)
        if way is Way.SIDECAR:
            return self.others.sidecar(
                self.world, self.machine, source=self.platform(), now=NOW
            )
        slots = platform_slots("sim", self.enclave(), allow_signer=self.signer_allowed)
        slot_class = SlotClass.SGX if way in _EGETKEY_WAYS else SlotClass.GRAMINE
        signers = way in _SIGNER_WAYS and self.signer_allowed
        return for_signer(slots[slot_class]) if signers else slots[slot_class]


_FACTORS: Final = {
    Way.GRAMINE_TPM: (Way.GRAMINE, Way.TPM),
    Way.GRAMINE_PASSPHRASE: (Way.GRAMINE, Way.PASSPHRASE),
}
_EGETKEY_WAYS: Final = frozenset({Way.SGX, Way.SGX_SIGNER})
_SIGNER_WAYS: Final = frozenset({Way.GRAMINE_SIGNER, Way.SGX_SIGNER})
_SNP_WAYS: Final = frozenset({Way.SNP, Way.OTHER_SNP})
_SGX_WAYS: Final = frozenset(Way) - _SNP_WAYS - {Way.PASSPHRASE}


def foreign_ways(tee: Tee) -> frozenset[Way]:
    """Ways that a machine of this TEE does not have."""
    return _SGX_WAYS if tee is Tee.SNP else _SNP_WAYS


def second_machine(setup: Setup) -> Site:
    """Another machine of the same world, with the same provider on it."""
    tee = Tee.SNP if Way.OTHER_SNP in setup.ways else setup.tee
    return Site(tee, machine="machine B")

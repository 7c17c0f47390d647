# SPDX-License-Identifier: Apache-2.0
"""Stored parameters of slots, and what a TPM answers."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tightseal.model.canonical import decode, encode
from tightseal.model.claims import Tee
from tightseal.model.secret import Secret
from tightseal.platform.selfview import OwnSnpReport, OwnView
from tightseal.platform.sev_guest import DerivedKey
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.platform.slots.provider import ProviderSlot, SlotMaterial
from tightseal.platform.slots.sgx import SgxSlot
from tightseal.platform.slots.snp import SnpSlot
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal.platform.slots.tpm_wire import Exchange
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.tpm import SimTpm
from tightseal_sim.world import World

IDS = {"keyring_id": bytes(32), "slot_id": bytes(16)}
TPM = SimTpm(bytes(32))
PLATFORM = World.in_memory(bytes(32)).intel.platform("host")
ENCLAVE = SimEnclaveKeys(PLATFORM.load_enclave(EnclaveImage("provider")))


class Firmware:
    def own_report(self) -> OwnSnpReport:
        view = OwnView(Tee.SNP, b"m" * 48, bytes(64), debug=False)
        return OwnSnpReport(view, vmpl=0, guest_svn=3, committed_tcb=b"\x09" * 8)

    def derive(self, key: DerivedKey) -> Secret:
        return Secret(key.request())


class Other:
    """A provider whose keys are functions of label and generation."""

    keyring_id = bytes(32)
    policy_root = None
    measurement = b"m" * 32

    def ask(self, label: str, *, generation: int | None) -> SlotMaterial:
        number = 1 if generation is None else generation
        key = hashlib.sha256(f"{label} {number}".encode()).digest()
        return SlotMaterial(Secret(key), number, 2)


SLOTS = (
    GramineSlot(ENCLAVE, allow_signer=True),
    SgxSlot(ENCLAVE, allow_signer=True),
    SnpSlot(Firmware()),
    Tpm2Slot(TPM.open, pcrs={7}),
    # Only read: each try at opening costs 64 MiB.
    PassphraseSlot(lambda: Secret(b"correct horse battery")),
    ProviderSlot(Other()),
)
STORED = [slot.create(**IDS) for slot in SLOTS]


def seeds() -> list[bytes]:
    made = [
        bytes([number]) + encode(parameters)
        for number, (parameters, _) in enumerate(STORED)
    ]
    heard: list[bytes] = []

    @contextmanager
    def listening() -> Iterator[Exchange]:
        with TPM.open() as exchange:

            def relayed(command: bytes) -> bytes:
                heard.append(exchange(command))
                return heard[-1]

            yield relayed

    Tpm2Slot(listening, pcrs={7}).open(STORED[3][0], **IDS)
    answers = b"".join(len(a).to_bytes(2) + a for a in heard)
    return [*made, bytes([len(SLOTS)]) + answers]


def one(data: bytes) -> None:
    number, rest = data[:1], data[1:]
    if number == bytes([len(SLOTS)]):
        _answers(rest)
        return
    slot = SLOTS[int.from_bytes(number) % len(SLOTS)]
    parameters = decode(rest)
    if not isinstance(parameters, Mapping):
        return
    slot.rewrap(parameters)
    if not isinstance(slot, PassphraseSlot):
        key = slot.open(parameters, **IDS)
        # What opens is what was made: everything stored enters the key.
        assert any(parameters == made and key == k for made, k in STORED)


def _answers(data: bytes) -> None:
    """Two bytes of length and an answer, as often as the TPM is asked."""

    @contextmanager
    def scripted() -> Iterator[Exchange]:
        at = 0

        def answer(_command: bytes) -> bytes:
            nonlocal at
            length = int.from_bytes(data[at : at + 2])
            at += 2 + length
            return data[at - length : at]

        yield answer

    slot = Tpm2Slot(scripted, pcrs={7}, sleep=lambda _: None)
    slot.open(STORED[3][0], **IDS)

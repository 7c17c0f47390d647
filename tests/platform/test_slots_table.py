# SPDX-License-Identifier: Apache-2.0
"""The table of events in docs/slots.md, cell by cell, in the simulated world."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from slot_rig import IDS, PROVIDER, enclave, machine, made

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.sgx import SgxSlot
from tightseal.platform.slots.snp import SevGuestKeys, SnpSlot
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal_sim.amd.firmware import SimSevDevice
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.tpm import SimTpm

PAGE = Path(__file__).parents[2] / "docs" / "slots.md"
AMD = AmdWorld(None, bytes(range(32)), rsa_bits=2048)


@dataclass(frozen=True)
class Scene:
    """A machine, what runs on it, and what happened to its TPM."""

    host: str = "host"
    updates: int = 0
    code: bytes = b"release 1"
    svn: int = 3
    kernel: bytes = b"release 1"
    signer: str = "author"
    xfrm_mask: int = 0xFFFFFFFFFFF9FF1B
    clears: int = 0
    pcr: bytes = bytes(32)


REBUILT = Scene(code=b"release 2", kernel=b"release 2")
EVENTS: dict[str, tuple[Scene, Scene]] = {
    "restart": (Scene(), Scene()),
    "microcode or firmware update (CPUSVN, TCB up)": (Scene(), Scene(updates=1)),
    "back to older microcode or firmware": (Scene(updates=1), Scene()),
    "rebuild, same signer": (Scene(), REBUILT),
    # The kernel of the guest is the same one: its SVN is in the ID block.
    "rebuild, ISVSVN or guest SVN up": (Scene(), Scene(code=b"release 2", svn=4)),
    "rebuild, another signer": (Scene(), replace(REBUILT, signer="somebody else")),
    "other seal masks in the manifest": (Scene(), Scene(xfrm_mask=0)),
    "another CPU or machine": (Scene(), Scene(host="other")),
    "TPM cleared, or another TPM": (Scene(), Scene(clears=1)),
    "a selected PCR changed": (Scene(), Scene(pcr=bytes([7]) * 32)),
}


class Slot(Protocol):
    """What the tests ask of a slot."""

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret: ...
    def rewrap(self, parameters: Mapping[str, Value]) -> str | None: ...


def enclave_keys(scene: Scene) -> SimEnclaveKeys:
    host = machine(scene.host)
    for _ in range(scene.updates):
        host.microcode_update()
    image = replace(PROVIDER, code=scene.code, signer=scene.signer, isv_svn=scene.svn)
    return SimEnclaveKeys(enclave(host, image), xfrm_mask=scene.xfrm_mask)


def gramine(scene: Scene, *, signer: bool = False) -> Slot:
    return GramineSlot(enclave_keys(scene), allow_signer=signer, use_signer=signer)


def sgx(scene: Scene, *, signer: bool = False) -> Slot:
    return SgxSlot(enclave_keys(scene), allow_signer=signer, use_signer=signer)


def snp(scene: Scene) -> Slot:
    chip = AMD.chip(scene.host, "Milan")
    chip.tcb = chip.line.tcb
    for _ in range(scene.updates):
        chip.firmware_update()
    guest = chip.launch(GuestImage(kernel=scene.kernel, guest_svn=scene.svn))
    device = SimSevDevice(guest)
    return SnpSlot(SevGuestKeys(guest, ioctl=device.ioctl, files=device))


def tpm2(scene: Scene) -> Slot:
    tpm = SimTpm(scene.host.encode().ljust(32, b"\0"))
    for _ in range(scene.clears):
        tpm.clear()
    tpm.extend(7, scene.pcr)
    return Tpm2Slot(tpm.open, pcrs={7})


COLUMNS: dict[str, Callable[[Scene], Slot]] = {
    "`gramine`": gramine,
    "`gramine` of the signer": lambda scene: gramine(scene, signer=True),
    "`sgx`": sgx,
    "`sgx` of the signer": lambda scene: sgx(scene, signer=True),
    "`snp`": snp,
    "`tpm2`": tpm2,
}


def table() -> dict[tuple[str, str], str]:
    """Event and column to the cell's text."""
    lines = iter(PAGE.read_text().splitlines())
    head = next(line for line in lines if line.startswith("| event |"))
    columns = [cell.strip() for cell in head.strip("|").split("|")][1:]
    next(lines)
    found: dict[tuple[str, str], str] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        event, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for column, cell in zip(columns, cells, strict=True):
            found[event, column] = cell.replace("*", "")
    return found


def outcome(build: Callable[[Scene], Slot], before: Scene, after: Scene) -> str:
    parameters, key = made(build(before))  # type: ignore[arg-type]
    slot = build(after)
    try:
        again = slot.open(parameters, **IDS)
    except KeyReleaseError as e:
        assert e.code is Code.SLOT_UNAVAILABLE  # noqa: PT017
        return "ends"
    assert again == key
    return "opens, re-wrap" if slot.rewrap(parameters) else "opens"


def test_the_table_has_every_event_and_slot() -> None:
    assert set(table()) == {(event, column) for event in EVENTS for column in COLUMNS}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("event", EVENTS)
def test_cell(event: str, column: str) -> None:
    promised = table()[event, column]
    happened = outcome(COLUMNS[column], *EVENTS[event])
    assert promised.removesuffix(", if the measurement is the same") == happened


def test_another_tpm_ends_it_too() -> None:
    assert outcome(tpm2, Scene(), Scene(host="other")) == "ends"

# SPDX-License-Identifier: Apache-2.0
"""The three generations: what differs between Milan, Genoa and Turin.

Written from AMD 56860 and 57230, apart from the verifier's own tables, so that a slip
in either shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, SettingsError
from tightseal.model.claims import SnpTcb

__all__ = ["GENERATIONS", "Generation", "encode_tcb", "generation"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One product line.

    Attributes:
        product: its name.
        stepping_name: productName of its VCEKs.
        cpuid: combined family, combined model, stepping.
        chip_id_bytes: length of its chip ids.
        structure: structure version of its certificates; 1 brings FMC.
        report_version: what its firmware writes unless told otherwise.
        tcb: firmware of a chip fresh from the factory.
    """

    product: str
    stepping_name: str
    cpuid: tuple[int, int, int]
    chip_id_bytes: int
    structure: int
    report_version: int
    tcb: SnpTcb


GENERATIONS: Final = (
    Generation(
        product="Milan",
        stepping_name="Milan-B0",
        cpuid=(0x19, 0x01, 0x01),
        chip_id_bytes=64,
        structure=0,
        report_version=2,
        tcb=SnpTcb(bootloader=4, tee=0, snp=24, microcode=219),
    ),
    Generation(
        product="Genoa",
        stepping_name="Genoa",
        cpuid=(0x19, 0x11, 0x01),
        chip_id_bytes=64,
        structure=0,
        report_version=3,
        tcb=SnpTcb(bootloader=10, tee=0, snp=23, microcode=84),
    ),
    Generation(
        product="Turin",
        stepping_name="Turin",
        cpuid=(0x1A, 0x02, 0x01),
        chip_id_bytes=8,
        structure=1,
        report_version=5,
        tcb=SnpTcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=81),
    ),
)


def generation(product: str) -> Generation:
    """The generation of a product line.

    Raises:
        SettingsError: ``settings_invalid``, where there is none of that name.
    """
    for known in GENERATIONS:
        if known.product == product:
            return known
    names = ", ".join(g.product for g in GENERATIONS)
    detail = f"AMD product {product!r}, expected one of {names}"
    raise SettingsError(Code.SETTINGS_INVALID, detail)


def encode_tcb(tcb: SnpTcb) -> bytes:
    """A TCB_VERSION, 8 bytes; the presence of FMC chooses Turin's layout."""
    if tcb.fmc is not None:
        head = bytes([tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp])
        return head + bytes(3) + bytes([tcb.microcode])
    return bytes([tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode])

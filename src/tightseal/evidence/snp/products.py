# SPDX-License-Identifier: Apache-2.0
"""AMD's product lines: names, TCB layouts, chip id lengths and processor models."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tightseal.model.claims import SnpTcb

__all__ = [
    "TCB_BYTES",
    "Product",
    "chip_id_bytes",
    "product_of_cpuid",
    "product_of_line",
    "product_of_name",
    "reserved_tcb",
    "split_tcb",
]

TCB_BYTES: Final = 8
"""Length of a TCB_VERSION."""

_FAMILY_ZEN3_ZEN4: Final = 0x19
_FAMILY_ZEN5: Final = 0x1A


class Product(StrEnum):
    """The product lines that this verifier knows.

    Siena and Bergamo belong to the Genoa line: AMD certifies them under its ARK.
    """

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_LINES: Final = {product.value: product for product in Product}

_MODELS: Final = (
    (_FAMILY_ZEN3_ZEN4, 0x00, 0x0F, Product.MILAN),
    (_FAMILY_ZEN3_ZEN4, 0x10, 0x1F, Product.GENOA),
    (_FAMILY_ZEN3_ZEN4, 0xA0, 0xAF, Product.GENOA),
    (_FAMILY_ZEN5, 0x00, 0x11, Product.TURIN),
)


def product_of_cpuid(family: int, model: int) -> Product | None:
    """The product line of a processor, by combined family and combined model.

    Only reports from version 3 on carry these; ``None`` for a processor not listed.
    """
    for listed, first, last, product in _MODELS:
        if family == listed and first <= model <= last:
            return product
    return None


def product_of_name(name: str) -> Product | None:
    """The product line of a certificate's product name: ``Milan``, ``Genoa-B1``.

    AMD writes the line, or the line and the stepping joined by a hyphen (Publication
    57230, productName).
    """
    line, _, stepping = name.partition("-")
    if "-" in name and not stepping:
        return None
    return product_of_line(line)


def product_of_line(line: str) -> Product | None:
    """The product line of exactly this name."""
    return _LINES.get(line)


def chip_id_bytes(product: Product) -> int:
    """How many bytes of the report's 64 are the chip id; the rest is zero."""
    return 8 if product is Product.TURIN else 64


def split_tcb(raw: bytes, product: Product) -> SnpTcb:
    """The components of an 8-byte TCB_VERSION (SEV-SNP ABI, TCB_VERSION).

    Milan and Genoa: bootloader, TEE, four reserved, SNP, microcode. Turin: FMC,
    bootloader, TEE, SNP, three reserved, microcode.
    """
    if product is Product.TURIN:
        return SnpTcb(
            fmc=raw[0], bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7]
        )
    return SnpTcb(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])


def reserved_tcb(raw: bytes, product: Product) -> bytes:
    """The bytes of a TCB_VERSION that have no meaning yet."""
    return raw[4:7] if product is Product.TURIN else raw[2:6]

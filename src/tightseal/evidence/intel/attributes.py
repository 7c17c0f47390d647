# SPDX-License-Identifier: Apache-2.0
"""Attributes of TDs and enclaves that authentic evidence may or may not have.

Sources: Intel TDX Module ABI specification, TD_ATTRIBUTES; Intel SDM volume 3D, SGX
ATTRIBUTES. Bits 18 to 22 of TD_ATTRIBUTES are not judged here: they
are in the ``td_attributes`` measurement, and so in every key.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "SERVTD_EXT",
    "SGX_DEBUG",
    "SGX_INIT",
    "SGX_MODE64BIT",
    "TD_DEBUG",
    "TD_MIGRATABLE",
    "TD_PROFILING",
    "TD_RESERVED",
    "TD_SEPT_VE_DISABLE",
    "sgx_flags",
    "td_attributes",
]


def _bits(*ranges: tuple[int, int]) -> int:
    return sum(1 << bit for low, high in ranges for bit in range(low, high + 1))


TD_DEBUG: Final = _bits((0, 0))
TD_PROFILING: Final = _bits((4, 6))
TD_RESERVED: Final = _bits((1, 3), (7, 15), (23, 26), (32, 61))
SERVTD_EXT: Final = _bits((17, 17))
TD_SEPT_VE_DISABLE: Final = _bits((28, 28))
TD_MIGRATABLE: Final = _bits((29, 29))

SGX_INIT: Final = 0x01
SGX_DEBUG: Final = 0x02
SGX_MODE64BIT: Final = 0x04


def td_attributes(raw: bytes) -> int:
    """TD_ATTRIBUTES as a number; 8 bytes, little-endian."""
    return int.from_bytes(raw, "little")


def sgx_flags(raw: bytes) -> int:
    """The flags of SGX ATTRIBUTES; 16 bytes, of which the first 8 are flags."""
    return int.from_bytes(raw[:8], "little")

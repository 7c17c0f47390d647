# SPDX-License-Identifier: Apache-2.0
"""The legacy formula of gramine-sealing-key-provider and local-key-provider.

A bare hash without label, version or framing, kept byte for byte for compatibility. It
reproduces the keys of this same enclave only: the sealing key is bound to MRENCLAVE.
"""

from __future__ import annotations

import hashlib
from typing import Final

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.kdf import check_root
from tightseal.model.branch import BranchRoot
from tightseal.model.secret import Secret

__all__ = ["TDX_MEASUREMENT_BYTES", "legacy_hash", "legacy_key"]

TDX_MEASUREMENT_BYTES: Final = 48
"""MRTD and RTMRs are SHA-384 values."""


def legacy_hash(sealing_key: bytes, measurements: bytes) -> bytes:
    """``SHA256(sealing key || measurements)``, 32 bytes; checks no length."""
    return hashlib.sha256(sealing_key + measurements).digest()


def legacy_key(
    sealing_key: Secret,
    *,
    mrtd: bytes,
    rtmr0: bytes,
    rtmr1: bytes,
    rtmr2: bytes,
    rtmr3: bytes,
) -> Secret:
    """``SHA256(sealing key || MRTD || RTMR0 || RTMR1 || RTMR2 || RTMR3)``, 32 bytes.

    TD attributes, XFAM, MRCONFIGID and the owner fields do not enter, so TDs that
    differ only there share a key: the caller must refuse what it would not share with.

    Args:
        sealing_key: of this enclave, 16 bytes or more.
        mrtd: 48 bytes, from verified claims; so are the registers.
        rtmr0: firmware configuration.
        rtmr1: kernel and boot loader.
        rtmr2: command line and initrd.
        rtmr3: what the guest's own software extended.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where a measurement is not 48 bytes;
            ``sealing_key_unavailable``, where the key is short or all zero;
            ``key_not_in_branch``.
    """
    parts = {
        "mrtd": mrtd,
        "rtmr0": rtmr0,
        "rtmr1": rtmr1,
        "rtmr2": rtmr2,
        "rtmr3": rtmr3,
    }
    for name, value in parts.items():
        if len(value) != TDX_MEASUREMENT_BYTES:
            detail = f"{name}: {len(value)} bytes, expected {TDX_MEASUREMENT_BYTES}"
            raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)
    check_root(sealing_key)
    if isinstance(sealing_key, BranchRoot):
        # The formula has no tenants, so its keys would be everybody's.
        detail = "the legacy formula has no tenants: a branch has no such keys"
        raise KeyReleaseError(Code.KEY_NOT_IN_BRANCH, detail)
    return Secret(legacy_hash(sealing_key.reveal(), b"".join(parts.values())))

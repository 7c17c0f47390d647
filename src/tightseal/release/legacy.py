# SPDX-License-Identifier: Apache-2.0
"""What is special about the legacy protocol: its recipient, its answer, its formula."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.keys.chain import derive
from tightseal.keys.legacy import legacy_key
from tightseal.model.claims import Claims, Tee
from tightseal.model.keypath import KeyPath, KeyRequest
from tightseal.model.secret import Secret
from tightseal.model.settings import LegacyDerivation
from tightseal.release.hold import Held

__all__ = [
    "LEGACY_KEY",
    "LEGACY_PURPOSE",
    "LegacyAnswer",
    "derive_legacy",
    "legacy_recipient",
]

LEGACY_PURPOSE: Final = "legacy-disk"
"""Purpose of the one key that the legacy protocol can ask for."""

LEGACY_KEY_BYTES: Final = 32
LEGACY_RECIPIENT_BYTES: Final = 32
LEGACY_KEY: Final = KeyRequest(LEGACY_PURPOSE, "", LEGACY_KEY_BYTES)

_REGISTERS: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


@dataclass(frozen=True, slots=True)
class LegacyAnswer:
    """What the legacy protocol answers.

    Attributes:
        encrypted_key: libsodium sealed box over the 32-byte key, 80 bytes.
        provider_quote: quote with report data ``SHA256(encrypted_key)`` and zeros.
        tenant: that the key belongs to; not sent.
        held: what has to see the entry in the log before any of it is sent; ``None``
            where it waits for nobody.
    """

    encrypted_key: bytes
    provider_quote: bytes
    tenant: str = ""
    held: Held | None = None


def legacy_recipient(claims: Claims) -> bytes:
    """The X25519 key in the first half of a TD's report data, 32 bytes.

    Raises:
        EvidenceError: ``evidence_kind_unsupported``, ``report_data_mismatch``.
    """
    if claims.tee is not Tee.TDX:
        detail = f"the legacy protocol serves TDs, not {claims.tee.value}"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    recipient = claims.report_data[:LEGACY_RECIPIENT_BYTES]
    if any(claims.report_data[LEGACY_RECIPIENT_BYTES:]):
        # Report data of another protocol must not be taken for a recipient key.
        detail = "report data bytes 32 to 64: expected zeros"
        raise EvidenceError(Code.REPORT_DATA_MISMATCH, detail)
    return recipient


def derive_legacy(
    root: Secret, path: KeyPath, claims: Claims, *, derivation: LegacyDerivation
) -> Secret:
    """The key of a grant, by the labelled chain or by the compatible formula."""
    if derivation is LegacyDerivation.CHAIN:
        return derive(root, path)
    registers = {name: claims.measurements[name] for name in _REGISTERS}
    return legacy_key(root, **registers)

# SPDX-License-Identifier: Apache-2.0
"""The anchor of a provider's keyring that settings name."""

from __future__ import annotations

from pathlib import Path

from tightseal.keys.keyring import AnchorFile, Keyring
from tightseal.model.secret import Secret
from tightseal.model.settings import KeyringAnchorRule
from tightseal.platform.slots.tpm_wire import open_device
from tightseal.release.anchored import KeyedAnchor
from tightseal.release.tpmanchor import AnchorTpm, TpmAnchor
from tightseal.service.settings import Settings

__all__ = ["keyed_anchor", "required", "tpm_anchor"]


def keyed_anchor(settings: Settings) -> KeyedAnchor | None:
    """What remembers the keyring, where settings name it; nobody is asked yet.

    Where release settings require a TPM, the host cannot switch it off: it is asked.
    """
    if not (settings.host.keyring.tpm.anchor or required(settings)):
        return None
    return lambda keyring: tpm_anchor(settings, keyring)


def required(settings: Settings) -> bool:
    """Whether measured settings require a TPM to have been asked."""
    return settings.release.keyring_anchor is KeyringAnchorRule.TPM


def tpm_anchor(
    settings: Settings, keyring: Keyring, *, owner_auth: Secret | None = None
) -> TpmAnchor:
    """The TPM that settings name as the anchor of a keyring.

    Args:
        settings: both kinds.
        keyring: that is open.
        owner_auth: of the owner hierarchy, where it has one; to make the index.
    """
    tpm = settings.host.keyring.tpm
    return TpmAnchor(
        keyring,
        file=AnchorFile(settings.host.keyring_path),
        tpm=AnchorTpm(
            open_device(Path(tpm.device)),
            ek_name=bytes.fromhex(tpm.ek_name) or None,
            owner_auth=owner_auth or Secret(b""),
        ),
        required=required(settings),
    )

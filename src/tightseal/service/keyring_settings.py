# SPDX-License-Identifier: Apache-2.0
"""Host settings of the keyring: its file, the factors of its slots, whom it joins."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.guest.http import provider_url
from tightseal.model.tls import TlsTrust
from tightseal.service.setting import about

__all__ = ["JoinSettings", "KeyringSettings", "ProviderSlotSettings", "TpmSettings"]


class TpmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The TPM that gives slots of a keyring a second factor, and remembers it."""

    pcrs: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=23)], ...],
        about("PCRs that every such slot is bound to; empty: no TPM", max_length=24),
    ] = ()
    ek_name: Annotated[
        str,
        msgspec.Meta(
            description="Name of its endorsement key; empty: what a slot stored",
            pattern=r"^(000b[0-9a-f]{64})?\Z",
        ),
    ] = ""
    device: Annotated[str, about("the TPM's device")] = "/dev/tpmrm0"
    anchor: Annotated[
        bool, about("hold the keyring against its counter: keyring anchor init")
    ] = False


class ProviderSlotSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the provider answers that release.slot_provider pins."""

    url: Annotated[
        str, about("address of the pinned provider; empty: none is asked")
    ] = ""
    seconds: Annotated[
        float, about("for one of the two requests, in seconds", gt=0, le=60)
    ] = 10.0
    tls: Annotated[
        TlsTrust, about("how its certificate is judged: public-ca, exchange, attested")
    ] = TlsTrust.PUBLIC_CA

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        if self.url:
            provider_url(self.url)


class JoinSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From whom to take a keyring over at the first start. Operators sign who may."""

    url: Annotated[
        str, about("address of the provider that gives; empty: nobody is asked")
    ] = ""
    invitation: Annotated[str, about("file of the signed invitation")] = ""
    tls: Annotated[
        TlsTrust, about("how its certificate is judged: public-ca or exchange")
    ] = TlsTrust.PUBLIC_CA

    def __post_init__(self) -> None:
        """Refuse what is no address; the host file may name one later."""
        if self.tls is TlsTrust.ATTESTED:
            message = "host.keyring.join.tls is attested: the invitation is no pin"
            raise SettingsError(Code.SETTINGS_INVALID, message)
        if self.url:
            provider_url(self.url)


class KeyringSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keyring, where release.root is keyring. All of it is sealed."""

    path: Annotated[
        str, about("file of the keyring; empty: keyring.tsk in state_dir")
    ] = ""
    create: Annotated[
        bool, about("make a keyring where there is none, unless join.url is given")
    ] = False
    passphrase_file: Annotated[
        str, about("file of a passphrase: a second factor; alone in simulated worlds")
    ] = ""
    tpm: TpmSettings = TpmSettings()
    provider: ProviderSlotSettings = ProviderSlotSettings()
    join: JoinSettings = JoinSettings()

# SPDX-License-Identifier: Apache-2.0
"""What a provider's keys come from, and the secrets of its own beside them.

The sidecar takes both from the platform's sealing key. The service opens its keyring
through a slot and takes both from there: nothing of it dies with a sealing key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from tightseal.keys.keyring import KeyringFile, Terms
from tightseal.model.canonical import Value
from tightseal.model.labels import Label
from tightseal.model.ports import KeyRoots, RootPlatform
from tightseal.model.secret import Secret
from tightseal.model.settings import RootKind
from tightseal.platform.slots.passphrase import Ask
from tightseal.release.keyring import POLICY_NOT_YET_KNOWN, KeyringKeeper, Ways
from tightseal.release.roots import PlatformRoots
from tightseal.service.keyringanchor import keyed_anchor
from tightseal.service.ownkeyring import (
    create_keyring,
    renew_slots,
    root_bytes,
)
from tightseal.service.settings import Settings
from tightseal.service.slotkeys import SlotKeys, own_slots
from tightseal.service.slotterms import own_domain
from tightseal.service.state import own_secret

__all__ = ["OwnRoots", "create_keyring", "open_roots", "ways_of"]

log = structlog.get_logger("tightseal.keyring")


@dataclass(frozen=True, slots=True)
class OwnRoots:
    """What a provider's keys and its own secrets come from.

    Attributes:
        key_roots: of workloads' keys.
        secret: a secret of the provider's own, 32 bytes, by label and value.
        keeper: of the keyring; ``None`` in the sidecar shape.
    """

    key_roots: KeyRoots
    secret: Callable[[Label, Value], Secret]
    keeper: KeyringKeeper | None


def open_roots(
    settings: Settings, platform: RootPlatform, *, now: int | None = None
) -> OwnRoots:
    """Take the platform's sealing key, or open the keyring, as release settings say.

    Args:
        settings: both kinds.
        platform: that they name.
        now: Unix seconds, where slots of which a re-wrap is due are made anew at once;
            ``None`` leaves the keyring as it is.

    Raises:
        PlatformError: ``sealing_key_unavailable``, in the sidecar shape.
        KeyReleaseError: the keyring is missing or does not open here.
        PolicyError: ``anchor_required``.
        ServiceError: the file system failed.
    """
    if settings.release.root is RootKind.PLATFORM:
        secret = partial(own_secret, platform.sealing_key())
        return OwnRoots(PlatformRoots(platform), secret, None)
    slots = own_slots(settings, platform)
    keeper = KeyringKeeper(_ways(settings, slots))
    opened = keeper.opened
    log.info(
        "keyring_opened",
        keyring_id=keeper.keyring_id.hex(),
        slot=str(opened.slot),
        generation=keeper.generations().current,
        counter=keeper.keyring.header.counter,
        closed=[f"{probe.slot}: {probe.refusal}" for probe in opened.closed],
        rewrap=opened.rewrap,
        anchor=opened.anchor.value,
    )
    if now is not None:
        renew_slots(keeper, slots, now=now)
    return OwnRoots(keeper, keeper.keyring.derive, keeper)


def ways_of(
    settings: Settings, platform: RootPlatform, *, ask: Ask | None = None
) -> Ways:
    """How this provider opens its keyring.

    Args:
        settings: both kinds.
        platform: that they name.
        ask: for a passphrase, in place of the file that settings name.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    return _ways(settings, own_slots(settings, platform, ask=ask))


def _ways(settings: Settings, slots: SlotKeys) -> Ways:
    return Ways(
        file=KeyringFile(settings.host.keyring_path),
        slot_keys=slots.every,
        terms=Terms(
            trust_domain=own_domain(settings),
            policy_root=root_bytes(settings.release.policy_root),
            policy_version=POLICY_NOT_YET_KNOWN,
            keyring_id=bytes.fromhex(settings.release.keyring_id) or None,
        ),
        keyed=keyed_anchor(settings),
    )

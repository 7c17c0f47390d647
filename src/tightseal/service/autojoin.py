# SPDX-License-Identifier: Apache-2.0
"""A provider that joins by itself, at its first start.

Where arguments are measured, as under Gramine, the command that joins is another
enclave than the one that serves, and the slots of one do not open in the other. So the
provider does it before it serves. The host names the giver and the invitation; neither
can make it take a keyring that operators did not sign for.
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.model.ports import Clock, RootPlatform
from tightseal.model.wire_operator import MAX_ACTION_BYTES
from tightseal.recovery.join import join
from tightseal.recovery.peer import HttpGiver
from tightseal.service.joining import candidate_of
from tightseal.service.settings import Settings
from tightseal.service.state import prepare_folder

__all__ = ["join_first"]

log = structlog.get_logger("tightseal.keyring")


def join_first(
    settings: Settings,
    platform: RootPlatform,
    *,
    clock: Clock = lambda: int(time.time()),
) -> None:
    """Take the keyring of another provider over, where there is none here.

    Where the giver could not be told how it went, what was written is removed again:
    the next start joins anew, with the same invitation.

    Args:
        settings: both kinds; ``host.keyring.join`` names giver and invitation.
        platform: that they name.
        clock: Unix seconds.

    Raises:
        TightsealError: as of ``recovery.join.join``.
        ServiceError: ``provider_not_ready``, where the giver could not be told.
    """
    named = settings.host.keyring.join
    prepare_folder(settings.host)
    joiner = candidate_of(settings, platform, now=clock()).joiner(clock)
    with HttpGiver(named.url, tls=named.tls) as giver:
        joined = join(joiner, giver, _invitation(Path(named.invitation)), done=_told)
    if joined.confirmed:
        joiner.file.remove()
        detail = f"joined, but the giver could not be told: {joined.confirmed}"
        raise ServiceError(Code.PROVIDER_NOT_READY, f"{detail}; start again")
    log.warning(
        "keyring_joined",
        keyring_id=joined.keyring_id.hex(),
        generation=joined.generation,
        counter=joined.counter,
        tenant=joined.tenant,
    )


def _told(step: str, what: str) -> None:
    log.info("joining", step=step, what=what)


def _invitation(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ACTION_BYTES + 1)
    except OSError as e:
        detail = f"host.keyring.join.invitation {path}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e

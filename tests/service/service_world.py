# SPDX-License-Identifier: Apache-2.0
"""The product's own provider on a simulated world, served inside the test's process."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service_harness import Served, serving, wait_for_end

from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.service.compose import Composed, compose, prepare
from tightseal.service.settings import (
    CollateralSettings,
    HostSettings,
    PlatformSettings,
    Settings,
)

SEED = Secret(b"\x07" * 32)


def real_clock() -> int:
    return int(time.time())


@dataclass(frozen=True)
class Serving:
    """A served provider with the parts that it was composed of."""

    served: Served
    composed: Composed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.served.http_port}"


def world_settings(
    state: Path,
    *,
    platform: PlatformSettings,
    collateral: CollateralSettings,
    roots: tuple[bytes, ...],
    host: dict[str, Any] | None = None,
    **release: Any,
) -> Settings:
    simulated = tuple(base64.b64encode(root).decode() for root in roots)
    return Settings(
        host=HostSettings(
            state_dir=str(state),
            platform=platform,
            collateral=collateral,
            **(host or {}),
        ),
        release=ReleaseSettings(simulated_roots=simulated, **release),
    )


@contextmanager
def composed_provider(
    settings: Settings,
    *,
    clock: Callable[[], int] = real_clock,
    background: bool = False,
) -> Iterator[Serving]:
    """Compose a provider and serve it; its background work runs where asked for."""
    prepare(settings, host_clock=clock)
    composed = compose(settings, seed=SEED, host_clock=clock)
    work = composed.background if background else wait_for_end
    try:
        with serving(composed.front, background=work) as served:
            yield Serving(served, composed)
    finally:
        composed.close()


def identity_of(settings: Settings, tee: str, measurement: bytes) -> ProviderIdentity:
    return ProviderIdentity(
        tee=tee,
        measurement=measurement,
        keyring_id=sidecar_keyring_id(),
        policy_root=None,
        settings_digest=settings.release.digest(),
    )

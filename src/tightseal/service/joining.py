# SPDX-License-Identifier: Apache-2.0
"""From settings to a provider that can be invited, before it has a keyring.

It decides nothing yet, so it keeps no state: the policy comes from the bundle of the
host settings, verified under the pinned policy root.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import Code, SettingsError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.provider import ProviderCollateral
from tightseal.keys.keyring import KeyringFile
from tightseal.model.action import ProviderParts
from tightseal.model.ports import Clock, RootPlatform
from tightseal.model.settings import ReleaseSettings, RootKind
from tightseal.policy.bundle.verify import (
    ExpiredMetadata,
    VerifiedBundle,
    verify_bundle,
)
from tightseal.recovery.joiner import Joiner
from tightseal.service.bundlefile import BundleFile
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings
from tightseal.service.slotkeys import own_slots
from tightseal.service.sources import open_source, trusted_roots

__all__ = ["Candidate", "candidate_of"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that can be invited.

    Attributes:
        settings: both kinds, as they were read.
        platform: that they name.
        bundle: the policy, verified.
        release: the release settings that it will decide by.
        tee, measurement: as the platform reports of this process.
    """

    settings: Settings
    platform: RootPlatform
    bundle: VerifiedBundle
    release: ReleaseSettings
    tee: str
    measurement: bytes

    @property
    def parts(self) -> ProviderParts:
        """What an invitation has to say of it."""
        return ProviderParts(self.tee, self.measurement, self.release.digest())

    def joiner(self, clock: Clock) -> Joiner:
        """The same, ready to join.

        Args:
            clock: Unix seconds.

        Raises:
            SettingsError: ``settings_invalid``.
            CollateralError: the collateral that host settings name cannot be used.
        """
        host = self.settings.host
        slots = own_slots(self.settings, self.platform, clock=clock)
        ways = ways_of(self.settings, self.platform)
        roots = trusted_roots(self.release)
        guard = MemoryGuard()
        verifier = EvidenceVerifier(
            roots=roots,
            source=open_source(host, roots=roots, guard=guard),
            cache=ResultCache(host.collateral.result_cache),
            mode=self.release.verifier,
            exceptions=frozenset(self.release.verifier_exceptions),
            guard=guard,
        )
        return Joiner(
            platform=self.platform,
            tee=self.tee,
            measurement=self.measurement,
            settings_digest=self.release.digest(),
            policy=self.bundle.policy,
            policy_version=self.bundle.version,
            terms=ways.terms,
            slot_keys=slots.every,
            own=slots.of_platform or tuple(slots.factors.values()),
            collateral=ProviderCollateral.behind(verifier),
            file=KeyringFile(host.keyring_path),
            clock=clock,
        )


def candidate_of(
    settings: Settings,
    platform: RootPlatform,
    *,
    now: int,
    measured: tuple[str, bytes] | None = None,
) -> Candidate:
    """What can be said of a provider before it has a keyring.

    Args:
        settings: both kinds.
        platform: that they name.
        now: Unix seconds.
        measured: TEE kind and measurement that it will have, where this process is
            not it; by default the platform is asked.

    Raises:
        SettingsError: ``settings_invalid``, where the settings are not of a provider
            with a keyring under a policy root; what is wrong with the bundle.
        PlatformError: the platform cannot say what runs here, or the host may read it.
    """
    release, host = settings.release, settings.host
    if release.root is not RootKind.KEYRING:
        raise _invalid(f'release.root is "{release.root.value}", expected "keyring"')
    if not release.policy_root:
        detail = (
            "release.policy_root: invitations are signed under one, and none is set"
        )
        raise _invalid(detail)
    path = host.policy_bundle
    data = BundleFile(Path(path)).changed() if path else None
    if data is None:
        where = f"{path}: no such file" if path else "it is not set"
        raise _invalid(f"host.policy_bundle: joining needs the bundle: {where}")
    bundle = verify_bundle(
        data,
        policy_root=_root(release.policy_root),
        marks=None,
        now=now,
        expired=ExpiredMetadata.REFUSE,
    )
    tee, measurement = platform.own_measurement() if measured is None else measured
    return Candidate(
        settings=settings,
        platform=platform,
        bundle=bundle,
        release=release if bundle.release is None else bundle.release.under(release),
        tee=tee,
        measurement=measurement,
    )


def _root(pinned: str) -> bytes:
    try:
        return bytes.fromhex(pinned)
    except ValueError as e:
        raise _invalid(
            "release.policy_root is first-start: joining needs a root"
        ) from e


def _invalid(detail: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, detail)

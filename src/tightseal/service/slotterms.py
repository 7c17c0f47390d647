# SPDX-License-Identifier: Apache-2.0
"""The release settings that slots are made and opened under, before a policy is known.

A keyring is opened before the state store, which holds the policy in force and lies
under the keyring's key. So under a policy root the bundle in ``host.policy_bundle`` is
asked, with every signature checked; that a newer one was published cannot be known yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightseal.errors import Code, SettingsError
from tightseal.evidence.roots import simulated_root
from tightseal.model.claims import Vendor
from tightseal.model.settings import FIRST_START, ReleaseSettings, SlotSigner
from tightseal.policy.bundle.verify import ExpiredMetadata, verify_bundle
from tightseal.service.bundlefile import BundleFile
from tightseal.service.settings import PlatformKind, Settings, SimulatedTee

__all__ = ["SlotTerms", "own_domain", "slot_terms"]


@dataclass(frozen=True, slots=True)
class SlotTerms:
    """What measured or signed settings say of slots.

    Attributes:
        release: the release settings; defaults where the signed ones are not known.
        unknown: why the signed settings are not known; empty where they are.
    """

    release: ReleaseSettings
    unknown: str = ""

    @property
    def allow_signer(self) -> bool:
        """Whether slots may belong to the signer."""
        return self.release.slot_signer is SlotSigner.ALLOW


def slot_terms(settings: Settings, *, now: int) -> SlotTerms:
    """The terms of slots: measured ones, or under a policy root signed ones.

    A bundle that cannot be used is told in ``unknown`` and stops nothing: slots that
    need nothing of it still open.

    Args:
        settings: both kinds.
        now: Unix seconds.
    """
    measured = settings.release
    if not measured.policy_root:
        return SlotTerms(measured)
    defaults = ReleaseSettings().under(measured)
    if measured.policy_root == FIRST_START:
        return SlotTerms(defaults, unknown="release.policy_root is first-start")
    path = settings.host.policy_bundle
    try:
        data = BundleFile(Path(path)).changed() if path else None
        if data is None:
            why = f"{path}: no such file" if path else "it is not set"
            detail = f"under a policy root it stands in host.policy_bundle: {why}"
            return SlotTerms(defaults, unknown=detail)
        bundle = verify_bundle(
            data,
            policy_root=bytes.fromhex(measured.policy_root),
            marks=None,
            now=now,
            # A signature that comes late must not cost the keyring.
            expired=ExpiredMetadata.ACCEPT,
        )
    except SettingsError as e:
        unknown = f"host.policy_bundle: {e.code.value}: {e.detail}"
        return SlotTerms(defaults, unknown=unknown)
    return SlotTerms((bundle.release or ReleaseSettings()).under(measured))


def own_domain(settings: Settings) -> str:
    """The trust domain of the platform that settings name, as text.

    What the provider's own quote then says has to be the same; see
    ``KeyringKeeper.check_domain``.

    Raises:
        SettingsError: ``settings_invalid``, where no simulated root fits.
    """
    platform = settings.host.platform
    if platform.kind is PlatformKind.GRAMINE:
        return Vendor.INTEL.value
    if platform.kind is PlatformKind.SEV_GUEST:
        return Vendor.AMD.value
    for certificate in settings.release.simulated_root_certificates():
        roots = simulated_root(certificate)
        found = roots.intel if platform.tee is SimulatedTee.SGX else roots.amd
        for root in found:
            return str(root.trust_domain)
    detail = f"release.simulated_roots: none is of a simulated {platform.tee.value}"
    raise SettingsError(Code.SETTINGS_INVALID, detail)

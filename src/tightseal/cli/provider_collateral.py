# SPDX-License-Identifier: Apache-2.0
"""What clients of a provider judge its evidence with, as the command line names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tightseal.cli.verify import trusted_roots
from tightseal.guest.collateral import judge_with, offline, online, stapled
from tightseal.guest.provider import ProviderCollateral

__all__ = ["provider_collateral"]


def provider_collateral(
    bundle: Path | None,
    *,
    pccs: Sequence[str],
    kds: Sequence[str],
    root_ca: Path | None,
) -> ProviderCollateral:
    """An offline bundle, or services, or what the provider sends along.

    Args:
        bundle: a file, or for SNP a folder.
        pccs: addresses of PCCS.
        kds: addresses of AMD's key distribution.
        root_ca: root certificate of a simulated world, to be trusted too.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    judge = judge_with(roots=trusted_roots(root_ca))
    if bundle is not None:
        return offline(bundle, judge=judge)
    if pccs or kds:
        return online(pccs=pccs, kds=kds, judge=judge)
    return stapled(judge=judge)

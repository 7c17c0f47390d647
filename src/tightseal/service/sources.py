# SPDX-License-Identifier: Apache-2.0
"""Where a provider's collateral comes from, and what it gives on to its guests."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tightseal.collateral.bundle import (
    MAX_BUNDLE_BYTES,
    FileSource,
    bundle_from_json,
    is_bundle,
    read_bounded,
)
from tightseal.collateral.cache import RecordCache
from tightseal.collateral.guard import FloorCheck
from tightseal.collateral.http import Asker, FetchLimits
from tightseal.collateral.kds import KdsClient
from tightseal.collateral.pccs import PccsClient
from tightseal.collateral.source import CachedSource, SourceLimits
from tightseal.collateral.wire import json_object
from tightseal.errors import Code
from tightseal.evidence.detect import EvidenceKind, detect
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.query import certificate_query
from tightseal.evidence.snp.report import parse_report
from tightseal.model.collateral import CollateralSource
from tightseal.model.roots import TrustedRoots
from tightseal.model.settings import ReleaseSettings
from tightseal.model.wire_collateral import IntelCollateralJson, SnpCertificatesJson
from tightseal.platform.attested import AttestedKeys
from tightseal.service.settings import HostSettings

__all__ = ["Staple", "open_source", "trusted_roots"]


def trusted_roots(settings: ReleaseSettings) -> TrustedRoots:
    """The vendors' roots, and the simulated ones that release settings name.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    roots = VENDOR_ROOTS
    for certificate in settings.simulated_root_certificates():
        roots = with_simulated(roots, certificate)
    return roots


def open_source(
    host: HostSettings, *, roots: TrustedRoots, guard: FloorCheck | None
) -> CollateralSource:
    """The source that host settings name: a bundle, or cache and network.

    Args:
        host: the settings.
        roots: whose parts are taken in.
        guard: refuses what is below its floors as it arrives; ``None`` where whoever
            judges has one of its own.

    Raises:
        SettingsError: ``settings_invalid``, for an address.
        CollateralError: the bundle or the cache folder cannot be used; with
            ``root_not_trusted`` a bundle with a part of no root that is switched on.
    """
    settings = host.collateral
    if settings.bundle:
        return _offline(Path(settings.bundle), roots=roots)
    asker = Asker(
        FetchLimits(total_seconds=settings.fetch_seconds),
        ca_file=Path(settings.ca_file) if settings.ca_file else None,
    )
    return CachedSource(
        cache=RecordCache(host.collateral_dir, roots=roots),
        pccs=PccsClient(settings.pccs, asker=asker) if settings.pccs else None,
        kds=KdsClient(settings.kds, asker=asker) if settings.kds else None,
        guard=guard,
        # Half of the threads stay with those whose collateral is at hand.
        limits=SourceLimits(waiting=max(1, (host.threads or os.cpu_count() or 1) // 2)),
    )


def _offline(path: Path, *, roots: TrustedRoots) -> CollateralSource:
    if path.is_dir():
        return FileSource(path)
    text = read_bounded(path, MAX_BUNDLE_BYTES)
    if not is_bundle(json_object(text, code=Code.COLLATERAL_UNREADABLE)):
        return FileSource(path)
    source = CachedSource(cache=RecordCache(None, roots=roots))
    for part in bundle_from_json(text):
        source.add(part, now=int(time.time()))
    return source


class Staple:
    """The collateral of the provider's own evidence, for guests that have none.

    Guests check it like any other: it is signed by the vendors, and the provider could
    only choose an older one that is still valid.
    """

    def __init__(self, attested: AttestedKeys, source: CollateralSource) -> None:
        self._attested = attested
        self._source = source

    def __call__(self, *, now: int) -> IntelCollateralJson | SnpCertificatesJson | None:
        """The collateral on the wire.

        Raises:
            CollateralError: there is none at the moment.
            TightsealError: the provider could not prove its own key.
        """
        evidence = self._attested.current(now=now).evidence
        if detect(evidence) is EvidenceKind.QUOTE:
            asked = collateral_query(parse_quote(evidence))
            collateral = self._source.intel(
                fmspc=asked.fmspc, ca=asked.ca, tee=asked.tee, now=now
            )
            return IntelCollateralJson.of(collateral)
        query = certificate_query(parse_report(split_evidence(evidence).report))
        if query.product is None:
            return None
        certificates = self._source.snp(
            product=query.product,
            chip_id=query.chip_id,
            tcb=query.tcb,
            vlek=query.vlek,
            now=now,
        )
        return SnpCertificatesJson.of(certificates)

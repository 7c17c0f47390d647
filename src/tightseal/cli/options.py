# SPDX-License-Identifier: Apache-2.0
"""Where commands find collateral: a cache folder, and services if any are named."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from tightseal.collateral.cache import RecordCache
from tightseal.collateral.guard import FloorCheck
from tightseal.collateral.http import Asker
from tightseal.collateral.kds import KdsClient
from tightseal.collateral.pccs import PccsClient
from tightseal.collateral.source import CachedSource
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.model.roots import TrustedRoots

__all__ = [
    "CACHE_ENV",
    "KDS_ENV",
    "PCCS_ENV",
    "cache_folder",
    "log_to_stderr",
    "open_source",
]

CACHE_ENV: Final = "TIGHTSEAL_CACHE"
"""Folder of the collateral cache."""

PCCS_ENV: Final = "TIGHTSEAL_PCCS"
"""Addresses of PCCS, best first, with commas; nobody is asked where it is empty."""

KDS_ENV: Final = "TIGHTSEAL_KDS"
"""Addresses of AMD's key distribution or caches of it, as above."""


def cache_folder() -> Path:
    """The cache folder: ``TIGHTSEAL_CACHE``, else below the user's cache folder."""
    named = os.environ.get(CACHE_ENV)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tightseal"


def open_source(
    *,
    cache: Path | None = None,
    pccs: Sequence[str] = (),
    kds: Sequence[str] = (),
    guard: FloorCheck | None = None,
    roots: TrustedRoots = VENDOR_ROOTS,
) -> CachedSource:
    """The cache, backed by the services that are named here or in the environment.

    Args:
        cache: the folder; ``cache_folder()`` by default.
        pccs: addresses of PCCS, best first; the environment's by default.
        kds: addresses of AMD's key distribution, likewise.
        guard: refuses collateral below its floors as it arrives.
        roots: whose parts are taken in; the vendors' alone by default.

    Raises:
        CollateralError: ``collateral_unreadable``, where the folder cannot be made.
        SettingsError: ``settings_invalid``, where an address is none.
    """
    log_to_stderr()
    pccs, kds = pccs or _addresses(PCCS_ENV), kds or _addresses(KDS_ENV)
    asker = Asker() if pccs or kds else None
    return CachedSource(
        cache=RecordCache(cache or cache_folder(), roots=roots),
        pccs=PccsClient(pccs, asker=asker) if pccs and asker else None,
        kds=KdsClient(kds, asker=asker) if kds and asker else None,
        guard=guard,
    )


def _addresses(variable: str) -> list[str]:
    given = os.environ.get(variable, "")
    return [part.strip() for part in given.split(",") if part.strip()]


def log_to_stderr() -> None:
    """Keep the log off stdout, which belongs to the result."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )

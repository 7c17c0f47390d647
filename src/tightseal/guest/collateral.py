# SPDX-License-Identifier: Apache-2.0
"""Where a guest gets the collateral of its provider's evidence: three ways.

* :func:`offline`: a file or folder in the guest's own image. Needs no network; expires.
* :func:`online`: a PCCS or Intel's PCS, and AMD's KDS, with a cache.
* :func:`stapled`: the provider sends it along. It is signed by the vendor, dated, and
  checked like any other, so a provider cannot forge it; but it can choose an older one
  that is still in date. The guard bounds how old: by the floor of this release, and by
  what this guest has seen before. Where that is not enough, use another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tightseal.collateral.bundle import FileSource
from tightseal.collateral.cache import RecordCache
from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.http import Asker
from tightseal.collateral.kds import KdsClient
from tightseal.collateral.pccs import PccsClient
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, CollateralError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.provider import ProviderCollateral
from tightseal.model.verifiers import VerifierException, VerifierMode
from tightseal.model.wire import IntelCollateralJson, SnpCertificatesJson, StapledJson

if TYPE_CHECKING:
    from tightseal.model.claims import SnpTcb, Tee
    from tightseal.model.collateral import (
        CollateralGuard,
        CollateralSource,
        IntelCollateral,
        SnpCertificates,
    )
    from tightseal.model.ports import Verifier
    from tightseal.model.roots import TrustedRoots

__all__ = ["Judge", "StapledSource", "judge_with", "offline", "online", "stapled"]

RESULT_CACHE_ENTRIES: Final = 64
"""Signature results kept: one provider needs about ten."""


class Judge(Protocol):
    """Makes a verifier over a source of collateral."""

    @property
    def roots(self) -> TrustedRoots:
        """The roots that are switched on; a cache takes in nothing of others."""
        ...

    def __call__(self, source: CollateralSource) -> Verifier:
        """A verifier that takes its collateral from ``source``."""
        ...


@dataclass(frozen=True, slots=True)
class _Judge:
    """What ``judge_with`` was given; one result cache for all of its verifiers."""

    roots: TrustedRoots
    mode: VerifierMode
    exceptions: frozenset[VerifierException]
    guard: CollateralGuard
    cache: ResultCache

    def __call__(self, source: CollateralSource) -> Verifier:
        return EvidenceVerifier(
            roots=self.roots,
            source=source,
            cache=self.cache,
            mode=self.mode,
            exceptions=self.exceptions,
            guard=self.guard,
        )


def judge_with(
    *,
    roots: TrustedRoots = VENDOR_ROOTS,
    mode: VerifierMode = VerifierMode.BOTH,
    exceptions: frozenset[VerifierException] = frozenset(),
    guard: CollateralGuard | None = None,
) -> Judge:
    """How evidence of the provider is judged.

    Args:
        roots: the vendors', unless a simulated world is switched on.
        mode: which verifiers judge Intel evidence.
        exceptions: rules on which dcap-qvl may be overruled, by name.
        guard: remembers collateral; by default one in memory with the floor that is
            built into this release. Give one in a file to remember across restarts.
    """
    return _Judge(
        roots=roots,
        mode=mode,
        exceptions=exceptions,
        guard=guard if guard is not None else MemoryGuard(),
        cache=ResultCache(RESULT_CACHE_ENTRIES),
    )


def offline(path: Path, *, judge: Judge | None = None) -> ProviderCollateral:
    """Collateral from a ``QuoteCollateralV3`` file, or an SNP folder, in the guest."""
    return ProviderCollateral.behind((judge or judge_with())(FileSource(path)))


def online(
    *,
    pccs: Sequence[str] = (),
    kds: Sequence[str] = (),
    cache: Path | None = None,
    judge: Judge | None = None,
) -> ProviderCollateral:
    """Collateral from the network, kept in ``cache`` (memory where ``None``).

    Args:
        pccs: base addresses of PCCS or PCS v4, best first; none: no Intel evidence.
        kds: base addresses of AMD's KDS; none: no SNP evidence without certificates.
        cache: a folder of the guest's own.
        judge: how evidence is judged, and under which roots parts are taken in.

    Raises:
        SettingsError: ``settings_invalid``, for an address.
        CollateralError: ``collateral_unreadable``, for the folder.
    """
    asker = Asker()
    judge = judge or judge_with()
    source = CachedSource(
        cache=RecordCache(cache, roots=judge.roots),
        pccs=PccsClient(pccs, asker=asker) if pccs else None,
        kds=KdsClient(kds, asker=asker) if kds else None,
    )
    return ProviderCollateral.behind(judge(source))


def stapled(*, judge: Judge | None = None) -> ProviderCollateral:
    """Collateral that the provider sends along; see the module for what that means."""
    make = judge or judge_with()
    return ProviderCollateral(
        verifier_for=lambda staple: make(StapledSource(staple)), wants_stapled=True
    )


class StapledSource:
    """What one challenge carried; implements ``CollateralSource``.

    Args:
        staple: as it came; nothing about it is verified here.
    """

    def __init__(self, staple: StapledJson | None) -> None:
        self._staple = staple

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        """The stapled collateral; the verifier finds out whether it fits.

        Raises:
            CollateralError: ``collateral_unavailable``.
            RequestError: ``request_malformed``, for its hex.
        """
        del fmspc, ca, tee, now
        if not isinstance(self._staple, IntelCollateralJson):
            raise _missing("Intel collateral")
        return self._staple.parsed()

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        """The stapled certificates; the verifier finds out whether they fit.

        Raises:
            CollateralError: ``collateral_unavailable``.
            RequestError: ``request_malformed``, for their base64url.
        """
        del product, chip_id, tcb, vlek, now
        if not isinstance(self._staple, SnpCertificatesJson):
            raise _missing("SNP certificates")
        return self._staple.parsed()


def _missing(what: str) -> CollateralError:
    detail = f"the provider stapled no {what}; give the guest its own"
    return CollateralError(Code.COLLATERAL_UNAVAILABLE, detail)

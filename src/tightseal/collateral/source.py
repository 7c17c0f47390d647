# SPDX-License-Identifier: Apache-2.0
"""Collateral from the cache while it is valid, else from a PCCS or KDS.

Certificates that evidence carries are tried before, by whoever verifies it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tightseal.collateral.cache import Record, RecordCache
from tightseal.collateral.flight import Budget, Refusals, SingleFlight
from tightseal.collateral.guard import FloorCheck
from tightseal.collateral.kds import chain_name, crl_name, signer_name
from tightseal.collateral.parts import (
    Part,
    PartKind,
    PartName,
    assemble,
    check_crl_signature,
    intel_names,
)
from tightseal.collateral.pccs import PartFetcher
from tightseal.collateral.wire import certificate_chain, load_crl
from tightseal.errors import Code, CollateralError, retry_later
from tightseal.model.claims import SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal.model.log import Log

__all__ = ["MAX_ASSEMBLED", "CachedSource", "SnpIssuers", "SourceLimits"]

MAX_ASSEMBLED: Final = 512
"""Most assembled answers kept at hand."""

RETRY_SECONDS: Final = 2
"""When to ask again, where too many wait for fetches."""

_FMSPC_BYTES: Final = 6
_CHOSEN: Final = frozenset({PartKind.TCB_INFO, PartKind.SNP_SIGNER})
"""Kinds whose subjects are read from evidence, so that anybody can choose them."""

log = Log("tightseal.collateral")


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """Bounds of a source; host settings.

    Attributes:
        burst, per_second: budget of fetches whose subject evidence chose.
        not_found_seconds: how long "no such platform" is believed.
        failed_seconds: how long a failure is, before anybody is asked again.
        query_seconds: for one query with all its parts; guests wait 30 s for a key.
        waiting: most threads that may wait for a fetch at once; 0 for any number. Each
            is one that releases nothing to platforms whose collateral is at hand.
        place_seconds: how long one waits to be among those.
    """

    burst: int = 64
    per_second: float = 1.0
    not_found_seconds: float = 300.0
    failed_seconds: float = 5.0
    query_seconds: float = 22.0
    waiting: int = 0
    place_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class SnpIssuers:
    """What stands above an SNP signer: DER of intermediate and ARK, and the CRL."""

    intermediate: bytes
    root: bytes
    crl: bytes | None


@dataclass(frozen=True, slots=True)
class _Assembled:
    """An answer made of parts, and from when to when all of them are valid."""

    parts: tuple[Part, ...]
    answer: IntelCollateral | SnpCertificates
    valid_from: int
    valid_until: int
    generation: int


class CachedSource:
    """Implements ``CollateralSource``; safe for several threads.

    A warm answer is one look into a dictionary and the very same object as before, so
    that results kept by its content are found again. On an outage whatever is still
    valid is served. "Valid" means the parts' own dates, read unverified; the verifier
    judges.

    Args:
        cache: the records, and the roots that are switched on: what is signed under
            none of them is not taken in, and those of Intel name the marks and floors
            that ``guard`` compares with.
        pccs, kds: where parts come from; ``None`` where nobody may be asked.
        guard: refuses older parts as they arrive, so that the next place is asked. It
            remembers nothing here, since nothing is verified yet.
        limits: bounds.
        monotonic: a monotonic clock, for the bounds.
    """

    def __init__(
        self,
        *,
        cache: RecordCache,
        pccs: PartFetcher | None = None,
        kds: PartFetcher | None = None,
        guard: FloorCheck | None = None,
        limits: SourceLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache = cache
        self._pccs = pccs
        self._kds = kds
        self._guard = guard
        self._limits = limits or SourceLimits()
        self._budget = Budget(
            burst=self._limits.burst,
            per_second=self._limits.per_second,
            monotonic=monotonic,
        )
        self._refusals = Refusals(
            not_found_seconds=self._limits.not_found_seconds,
            failed_seconds=self._limits.failed_seconds,
            monotonic=monotonic,
        )
        self._monotonic = monotonic
        self._flights: SingleFlight[Record] = SingleFlight()
        waiting = self._limits.waiting
        self._places = threading.BoundedSemaphore(waiting) if waiting else None
        self._assembled: dict[tuple[object, ...], _Assembled] = {}

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        """Collateral for a platform family; see ``CollateralSource``.

        Raises:
            CollateralError: ``collateral_not_found``, ``collateral_unavailable``, or
                ``collateral_rollback`` where only older than seen before is to be had.
            ServiceError: ``overloaded``, as of :meth:`part`.
        """
        key = (fmspc, ca, tee)
        ready = self._ready(key, now)
        if isinstance(ready, IntelCollateral):
            return ready
        if len(fmspc) != _FMSPC_BYTES or ca not in ("platform", "processor"):
            raise CollateralError(
                Code.COLLATERAL_UNAVAILABLE, f"no such query: {fmspc.hex()} {ca!r}"
            )
        if tee not in (Tee.SGX, Tee.TDX):
            raise CollateralError(Code.COLLATERAL_UNAVAILABLE, f"{tee} is not Intel's")
        generation = self.cache.generation
        until = self._until()
        names = intel_names(fmspc=fmspc, ca=ca, tee=tee)
        tcb_info, qe_identity, pck_crl, root_crl = (
            self.part(name, now=now, until=until) for name in names
        )
        parts = (tcb_info, qe_identity, pck_crl, root_crl)
        answer = self._again(key, parts) or assemble(*parts)
        assert isinstance(answer, IntelCollateral)
        self._keep(key, parts, answer, generation)
        return answer

    def at_hand(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> bool:
        """Whether ``intel`` would answer from memory, and ask nobody."""
        return self._ready((fmspc, ca, tee), now) is not None

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        """Certificates for an SNP report; see ``CollateralSource``.

        Raises:
            CollateralError: ``collateral_unavailable`` or ``collateral_not_found``.
                AMD gives VLEKs to cloud providers only, so for one this always raises;
                what stands above it is had from ``snp_issuers``.
        """
        if vlek:
            raise CollateralError(
                Code.COLLATERAL_NOT_FOUND,
                "a VLEK comes with the evidence or in a folder; AMD's service has none",
            )
        key = (product, chip_id, tcb)
        ready = self._ready(key, now)
        if isinstance(ready, SnpCertificates):
            return ready
        generation = self.cache.generation
        name = signer_name(product=product, chip_id=chip_id, tcb=tcb)
        until = self._until()
        parts = [self.part(chain_name(product, vlek=False), now=now, until=until)]
        parts.append(self.part(name, now=now, until=until))
        crl = self._crl(product, vlek=False, now=now, until=until)
        if crl is not None:
            parts.append(crl)
        answer = self._again(key, tuple(parts))
        if answer is None:
            intermediate, root = certificate_chain(parts[0].body.decode("ascii"))
            answer = SnpCertificates(
                signer=parts[1].body,
                intermediate=intermediate,
                root=root,
                crl=None if crl is None else crl.body,
            )
        assert isinstance(answer, SnpCertificates)
        # That there is no CRL is believed for a while only.
        soon = now + int(self._limits.not_found_seconds)
        self._keep(key, tuple(parts), answer, generation, until=None if crl else soon)
        return answer

    def snp_issuers(self, *, product: str, vlek: bool, now: int) -> SnpIssuers:
        """The intermediate, ARK and CRL above a signer that evidence carries.

        Raises:
            CollateralError: ``collateral_unavailable`` or ``collateral_not_found``.
        """
        until = self._until()
        chain = self.part(chain_name(product, vlek=vlek), now=now, until=until)
        intermediate, root = certificate_chain(chain.body.decode("ascii"))
        crl = self._crl(product, vlek=vlek, now=now, until=until)
        return SnpIssuers(intermediate, root, None if crl is None else crl.body)

    def part(self, name: PartName, *, now: int, until: float | None = None) -> Part:
        """One part that is valid at ``now``, from the cache or fetched.

        Args:
            name: which part.
            now: Unix seconds.
            until: latest end of a fetch, by the monotonic clock.

        Raises:
            CollateralError: ``collateral_unavailable`` or ``collateral_not_found``.
            ServiceError: ``overloaded``, where too many threads wait for fetches.
        """
        record = self.cache.get(name)
        if record is not None and record.part.valid_at(now):
            return record.part
        self._refusals.check(name)
        if name.kind in _CHOSEN and record is None:
            self._budget.take(str(name))
        with self._place(name):
            return self._shared_fetch(name, now, until or self._until()).part

    def renew(self, name: PartName, *, now: int) -> Record:
        """Fetch a part again, whether or not the one at hand is valid.

        Raises:
            CollateralError: ``collateral_unavailable``, ``collateral_not_found``.
        """
        return self._shared_fetch(name, now, self._until())

    def add(self, part: Part, *, now: int) -> Record:
        """Take in a part from elsewhere, by the same checks as a fetched one.

        Raises:
            CollateralError: ``collateral_rollback``, where the guard or the cache has
                seen newer.
        """
        self._accept(part)
        record = self.cache.put(part, now=now)
        self._refusals.forget(part.name)
        return record

    def _ready(
        self, key: tuple[object, ...], now: int
    ) -> IntelCollateral | SnpCertificates | None:
        entry = self._assembled.get(key)
        if (
            entry is not None
            and entry.valid_from <= now <= entry.valid_until
            and entry.generation == self.cache.generation
        ):
            return entry.answer
        return None

    def _again(
        self, key: tuple[object, ...], parts: tuple[Part, ...]
    ) -> IntelCollateral | SnpCertificates | None:
        """The answer made of these very parts before."""
        entry = self._assembled.get(key)
        return entry.answer if entry is not None and entry.parts == parts else None

    def _keep(
        self,
        key: tuple[object, ...],
        parts: tuple[Part, ...],
        answer: IntelCollateral | SnpCertificates,
        generation: int,
        *,
        until: int | None = None,
    ) -> None:
        if len(self._assembled) >= MAX_ASSEMBLED and key not in self._assembled:
            self._assembled.clear()
        self._assembled[key] = _Assembled(
            parts,
            answer,
            max(part.issued_at for part in parts),
            min([p.expires_at for p in parts] + ([] if until is None else [until])),
            generation,
        )

    def _crl(self, product: str, *, vlek: bool, now: int, until: float) -> Part | None:
        """AMD's CRL; ``None`` only where the service says that there is none."""
        try:
            return self.part(crl_name(product, vlek=vlek), now=now, until=until)
        except CollateralError as error:
            if error.code is not Code.COLLATERAL_NOT_FOUND:
                raise
            return None

    def _until(self) -> float:
        return self._monotonic() + self._limits.query_seconds

    @contextmanager
    def _place(self, name: PartName) -> Iterator[None]:
        """Be one of the threads that wait; a service that hangs must not get all."""
        places = self._places
        if places is None:
            yield
            return
        if not places.acquire(timeout=self._limits.place_seconds):
            detail = f"{name}: {self._limits.waiting} threads wait for fetches already"
            raise retry_later(Code.OVERLOADED, detail, seconds=RETRY_SECONDS)
        try:
            yield
        finally:
            places.release()

    def _shared_fetch(self, name: PartName, now: int, until: float) -> Record:
        return self._flights.do(
            name,
            lambda: self._fetch(name, now, until),
            wait_seconds=max(0.0, until - self._monotonic()),
        )

    def _fetch(self, name: PartName, now: int, until: float) -> Record:
        fetcher = self._pccs if name.kind.intel else self._kds
        try:
            if fetcher is None:
                service = "PCCS" if name.kind.intel else "KDS"
                raise CollateralError(
                    Code.COLLATERAL_UNAVAILABLE,
                    f"{name}: not in the cache, and no {service} is configured",
                )
            part = fetcher.fetch(name, now=now, accept=self._accept, until=until)
            record = self.cache.put(part, now=now)
        except CollateralError as error:
            self._refusals.add(name, error)
            log.warning(
                "collateral_fetch_failed",
                part=str(name),
                code=error.code.value,
                detail=error.detail,
            )
            raise
        self._refusals.forget(name)
        log.info(
            "collateral_fetched",
            part=str(name),
            issued_at=part.issued_at,
            expires_at=part.expires_at,
            number=part.number,
        )
        return record

    def _accept(self, part: Part) -> None:
        """Refuse a stranger's part, and what goes back behind a mark or a record."""
        if part.name.kind is PartKind.ROOT_CRL:
            self._check_root_crl(part)
        domain = self.cache.origin(part)
        if self._guard is not None and domain is not None:
            self._guard.check((part.facts(domain),))
        old = self.cache.get(part.name)
        if old is not None and part.older_than(old.part):
            raise CollateralError(
                Code.COLLATERAL_ROLLBACK,
                f"{part.name}: got issue {part.issued_at} number {part.number}, "
                f"cached issue {old.part.issued_at} number {old.part.number}",
            )

    def _check_root_crl(self, part: Part) -> None:
        """The root CRL comes without a chain; documents fetched before end in it."""
        records = (
            self.cache.get(PartName(PartKind.QE_IDENTITY, tee.value))
            for tee in (Tee.SGX, Tee.TDX)
        )
        roots = tuple(
            certificate_chain(record.part.chain)[-1] for record in records if record
        )
        if roots:
            check_crl_signature(load_crl(part.body), roots)

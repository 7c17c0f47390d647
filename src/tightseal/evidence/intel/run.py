# SPDX-License-Identifier: Apache-2.0
"""The state of one verification, and what a numbered check is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias, TypeVar, cast

from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.certs import Certificate
from tightseal.evidence.intel.chains import PckChain, SigningChain
from tightseal.evidence.intel.crl import Crl
from tightseal.evidence.intel.qe_identity import QeIdentity
from tightseal.evidence.intel.quote import UnverifiedQuote
from tightseal.evidence.intel.signed_json import IsvLevel
from tightseal.evidence.intel.tcb import Verdict
from tightseal.evidence.intel.tcb_info import (
    PlatformLevel,
    TcbInfo,
    TdxModuleIdentity,
)
from tightseal.model.claims import Check, Outcome, Tee
from tightseal.model.collateral import (
    CollateralFacts,
    CollateralGuard,
    IntelCollateral,
)
from tightseal.model.roots import TrustedRoot
from tightseal.model.verifiers import VerifierException

__all__ = ["CheckRule", "Run", "Step"]

_T = TypeVar("_T")


class Run:
    """One verification: what was handed in, and what the checks have established.

    A check fills in what it verified; a later check may rely on it, since the first
    failure ends the run. Nothing here leaves the verifier but through ``Claims``.
    """

    __slots__ = (
        "attributes",
        "cache",
        "chain_ders",
        "chain_digest",
        "collateral",
        "data",
        "exceptions",
        "guard",
        "known_chain",
        "level",
        "module",
        "now",
        "pck",
        "pck_crl",
        "qe_identity",
        "qe_level",
        "qe_signing",
        "quote",
        "root",
        "root_certificate",
        "root_crl",
        "roots",
        "tcb_info",
        "tcb_signing",
        "tee",
        "verdict",
    )

    quote: UnverifiedQuote
    tee: Tee
    attributes: int
    chain_digest: bytes
    chain_ders: tuple[bytes, ...]
    root: TrustedRoot
    pck: PckChain
    root_certificate: Certificate
    root_crl: Crl
    tcb_signing: SigningChain
    qe_signing: SigningChain
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    pck_crl: Crl
    qe_level: IsvLevel
    level: PlatformLevel
    module: TdxModuleIdentity
    verdict: Verdict

    def __init__(
        self,
        data: bytes,
        collateral: IntelCollateral,
        *,
        now: int,
        roots: tuple[TrustedRoot, ...],
        guard: CollateralGuard | None,
        cache: ResultCache | None,
        exceptions: frozenset[VerifierException],
    ) -> None:
        self.data = data
        self.collateral = collateral
        self.now = now
        self.roots = roots
        self.guard = guard
        self.cache = cache
        self.exceptions = exceptions
        self.known_chain: PckChain | None = None

    def reused(self, role: str, content: bytes, verify: Callable[[], _T]) -> _T:
        """The result kept for this role, root and content, or a new verification."""
        if self.cache is None:
            return verify()
        key = (role, self.root.trust_domain.root_key_id, content)
        kept = self.cache.get(key)
        if kept is not None:
            return cast("_T", kept)
        value = verify()
        self.cache.put(key, value)
        return value

    def admit(self, *facts: tuple[str, str, int, int]) -> Outcome | None:
        """Ask the guard whether collateral (kind, subject, date, number) goes back."""
        if self.guard is None:
            return Outcome.SKIPPED
        domain = str(self.root.trust_domain)
        self.guard.admit(
            tuple(
                CollateralFacts(domain, subject, kind, issued_at, number)
                for kind, subject, issued_at, number in facts
            ),
            now=self.now,
        )
        return None


Step: TypeAlias = Callable[[Run], Outcome | None]
"""A check: returns ``None`` where it passed, another outcome, or raises."""


@dataclass(frozen=True, slots=True)
class CheckRule:
    """One entry of the verifier's numbered list.

    Attributes:
        number: place in the list.
        name: stable name.
        spec: where the rule comes from.
        step: the code that checks it; its first line says the rule.
    """

    number: int
    name: str
    spec: str
    step: Step
    _records: Mapping[Outcome, Check] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the records once; a verification leaves more than forty of them."""
        records = {o: Check(self.name, o, self.spec) for o in Outcome}
        object.__setattr__(self, "_records", MappingProxyType(records))

    def record(self, outcome: Outcome) -> Check:
        """The record of this check with an outcome."""
        return self._records[outcome]

    @property
    def rule(self) -> str:
        """What is checked, in a sentence."""
        return (self.step.__doc__ or self.name).partition("\n")[0]

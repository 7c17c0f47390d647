# SPDX-License-Identifier: Apache-2.0
"""One case: evidence, collateral, a time and a root, and every verifier's answer."""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.errors import Code
from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal.model.verifiers import VerifierException

__all__ = ["ACCEPTED", "Case", "Expect"]


@dataclass(frozen=True, slots=True)
class Expect:
    """What the verifiers answer.

    Attributes:
        native: the code of our own verifier, asked directly; ``None``: it accepts.
        both: the code where evidence of any kind is taken and both verifiers must
            agree; ``None``: accepted.
        qvl: how dcap-qvl's message begins, without its constant prefix, where it is
            asked as the product asks it (without ``pck_certificate_chain``); ``None``:
            it accepts.
        qvl_cause: what its message says further on.
        qvl_given_chain: how it answers where it is handed ``pck_certificate_chain``
            too: ``None`` for acceptance; only with collateral that has one.
        exception: the named exception under which the evidence is accepted although
            ``native`` or ``both`` is a code.
        status: merged TCB status where the evidence is accepted.
        advisories: united advisories where the evidence is accepted.
    """

    native: Code | None = None
    both: Code | None = None
    qvl: str | None = None
    qvl_cause: str = ""
    qvl_given_chain: str | None = None
    exception: VerifierException | None = None
    status: TcbStatus = TcbStatus.UP_TO_DATE
    advisories: frozenset[str] = frozenset()

    @classmethod
    def refuse(cls, code: Code, qvl: str | None, cause: str = "") -> Expect:
        """Refused by ours; ``qvl`` is ``None`` where dcap-qvl is too lax."""
        return cls(native=code, both=code, qvl=qvl, qvl_cause=cause)

    @classmethod
    def accept(cls, status: TcbStatus, *advisories: str) -> Expect:
        """Accepted by both, with this status."""
        return cls(status=status, advisories=frozenset(advisories))


ACCEPTED = Expect()
"""Accepted by both as UpToDate, without advisories."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the negative checklist, or a control.

    Attributes:
        name: the defect in snake case; unique.
        title: the same for people.
        tee: kind of TEE.
        evidence: the quote.
        collateral: what is presented with it.
        now: Unix seconds.
        root: the only root that is trusted.
        expect: the answers.
        number: row of the checklist; ``None`` for cases beyond it.
        seen_before: collateral that the guard admitted before, for rollback cases.
    """

    name: str
    title: str
    tee: Tee
    evidence: bytes
    collateral: IntelCollateral
    now: int
    root: TrustedRoot
    expect: Expect
    number: int | None = None
    seen_before: IntelCollateral | None = None

    @property
    def native(self) -> Code | None:
        """Our own verifier's code; ``None``: accepted."""
        return self.expect.native

    @property
    def both(self) -> Code | None:
        """The code where both verifiers must agree; ``None``: accepted."""
        return self.expect.both

    @property
    def qvl(self) -> str | None:
        """How dcap-qvl's message begins; ``None``: it accepts."""
        return self.expect.qvl

    @property
    def exception(self) -> VerifierException | None:
        """The named exception that accepts the evidence."""
        return self.expect.exception

    @property
    def status(self) -> TcbStatus:
        """Merged TCB status where the evidence is accepted."""
        return self.expect.status

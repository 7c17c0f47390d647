# SPDX-License-Identifier: Apache-2.0
"""The numbered list of checks, and a record of those made so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from tightseal.errors import TightsealError
from tightseal.model.claims import Check, Outcome

__all__ = ["CHECKS", "Checklist"]

_ABI: Final = "AMD 56860, SEV-SNP ABI"
_KDS: Final = "AMD 57230, VCEK certificate and KDS interface"
_X509: Final = "RFC 5280"

CHECKS: Final = (
    ("evidence_form", "AMD 56421, GHCB, certificate table; Azure HCL blob"),
    ("report_form", f"{_ABI}, ATTESTATION_REPORT"),
    ("runtime_data", "Azure HCL blob: report data is the hash of the runtime claims"),
    ("certificate_form", f"{_X509}, DER; {_KDS}, extensions"),
    ("root_pinned", "the ARK is a pinned key; a delivered ARK is only compared"),
    ("intermediate_role", f"{_KDS}: SEV-<product> or SEV-VLEK-<product>, a CA"),
    ("intermediate_signature", f"{_KDS}: RSA-PSS with SHA-384 by the ARK"),
    ("signer_role", f"{_KDS}: a VCEK under the ASK, a VLEK under the ASVK"),
    ("signer_signature", f"{_KDS}: RSA-PSS with SHA-384 by the ASK or ASVK"),
    ("signer_key", f"{_KDS}: ECDSA on P-384"),
    ("certificate_validity", f"{_X509}, section 4.1.2.5, at the given time"),
    ("crl", f"{_X509}, section 5: by the ARK, in its window, ASK not listed"),
    ("product", f"{_KDS}, productName; {_ABI}, CPUID fields from version 3"),
    ("signing_key", f"{_ABI}, KEY_INFO against the signer certificate"),
    ("tcb", f"{_ABI}, REPORTED_TCB against the certificate, each component"),
    ("chip_id", f"{_ABI}, CHIP_ID against the certificate's hardware id"),
    ("report_signature", f"{_ABI}: ECDSA P-384 with SHA-384 over bytes 0 to 0x29f"),
    ("debug_policy", f"{_ABI}, POLICY bit 19"),
)
"""Name and source of every check, in the order in which they are made."""

_SPEC: Final = MappingProxyType(dict(CHECKS))


class Checklist:
    """Records checks; an error leaves with the record, ending in the failed check."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: list[Check] = []

    @property
    def made(self) -> tuple[Check, ...]:
        """The checks made so far."""
        return tuple(self._made)

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Make one check: passed unless a Tightseal error leaves the block."""
        try:
            yield
        except TightsealError as e:
            self._add(name, Outcome.FAILED)
            e.checks = self.made
            raise
        self._add(name, Outcome.PASSED)

    def noted(self, name: str) -> None:
        """Record what is tolerated and reported."""
        self._add(name, Outcome.NOTED)

    def skipped(self, name: str) -> None:
        """Record a check that has no meaning here."""
        self._add(name, Outcome.SKIPPED)

    def _add(self, name: str, outcome: Outcome) -> None:
        self._made.append(Check(name, outcome, _SPEC[name]))

# SPDX-License-Identifier: Apache-2.0
"""Good evidence with one thing changed, and signed again by whoever could."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from tightseal.errors import Code
from tightseal.model.collateral import SnpCertificates
from tightseal.model.roots import TrustedRoot
from tightseal_sim.amd import pki
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.report import ReportFields, encode_body, sign_body
from tightseal_sim.amd.world import AmdWorld

__all__ = ["DAY", "REPORT_DATA", "RUNTIME_CLAIMS", "Bench", "SnpCase"]

REPORT_DATA: Final = bytes(range(64))
RUNTIME_CLAIMS: Final = b'{"keys":[],"user-data":"00"}'
DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class SnpCase:
    """One piece of evidence and what must come of it.

    Attributes:
        name: the defect, or what is special about good evidence.
        evidence: what the workload presents.
        certificates: what the verifier is given beside it.
        now: Unix seconds.
        roots: what is trusted.
        expected: the code of the refusal, ``None`` where the evidence is authentic.
    """

    name: str
    evidence: bytes
    certificates: SnpCertificates
    now: int
    roots: tuple[TrustedRoot, ...]
    expected: Code | None


class Bench:
    """A chip, a guest, good evidence, and the means to change one thing in it.

    Keyword changes are those of the fields' dataclass.
    """

    def __init__(self, world: AmdWorld, product: str, now: int) -> None:
        self.world = world
        self.product = product
        self.now = now
        self.chip = world.chip("bench", product)
        self.guest = self.chip.launch(GuestImage(b"kernel"))
        self.roots = (world.trusted_root(product),)
        self.certificates = self.chip.certificates(vlek=False)
        self.report = self.guest.report(REPORT_DATA)

    def case(
        self,
        name: str,
        expected: Code | None,
        *,
        evidence: bytes | None = None,
        certificates: SnpCertificates | None = None,
        roots: tuple[TrustedRoot, ...] | None = None,
    ) -> SnpCase:
        """A case; what is not given is good."""
        return SnpCase(
            name=name,
            evidence=self.report if evidence is None else evidence,
            certificates=certificates or self.certificates,
            now=self.now,
            roots=self.roots if roots is None else roots,
            expected=expected,
        )

    def fields(self) -> ReportFields:
        """What stands in the good report."""
        return self.chip.report_fields(self.guest, REPORT_DATA)

    def resigned(self, **changes: Any) -> bytes:
        """A report that the chip's own key signed, with other fields."""
        return self.chip.sign(replace(self.fields(), **changes))

    def patched(self, offset: int, value: bytes) -> bytes:
        """A report that the chip's own key signed, with other bytes."""
        body = bytearray(encode_body(self.fields()))
        body[offset : offset + len(value)] = value
        key = self.world.signer_key(
            self.chip.name, self.chip.line, self.chip.tcb, vlek=False
        )
        return sign_body(bytes(body), key)

    def flipped(self, offset: int) -> bytes:
        """A report with one bit flipped after it was signed."""
        changed = bytearray(self.report)
        changed[offset] ^= 1
        return bytes(changed)

    def signer_fields(self) -> pki.CertificateFields:
        """What stands in the good VCEK certificate."""
        return self._signer()[0]

    def signer(
        self, *, weak: bool = False, by_asvk: bool = False, **changes: Any
    ) -> SnpCertificates:
        """The chain with another VCEK, signed again by the ASK (or the ASVK)."""
        fields = replace(self.signer_fields(), **changes)
        key = self.world.intermediate_key(self.product, vlek=by_asvk)
        signer = pki.issue(fields, key, weak=weak)
        return replace(self.certificates, signer=signer)

    def endorsed(self, **changes: Any) -> SnpCertificates:
        """The chain with other extensions of AMD's in the VCEK."""
        said = replace(self._signer()[1], **changes)
        return self.signer(extensions=pki.endorsement_extensions(said))

    def intermediate(self, **changes: Any) -> SnpCertificates:
        """The chain with another ASK, signed again by the ARK."""
        good = self.world.intermediate_fields(self.product, vlek=False)
        fields = replace(good, **changes)
        made = pki.issue(fields, self.world.root_key(self.product))
        return replace(self.certificates, intermediate=made)

    def crl(self, **changes: Any) -> SnpCertificates:
        """The chain with a CRL of the ARK."""
        good = pki.CrlFields(
            issuer=pki.name(f"ARK-{self.product}"),
            this_update=self.now - DAY,
            next_update=self.now + DAY,
        )
        fields = replace(good, **changes)
        crl = pki.issue_crl(fields, self.world.root_key(self.product))
        return replace(self.certificates, crl=crl)

    def _signer(self) -> tuple[pki.CertificateFields, pki.EndorsementFields]:
        chip = self.chip
        return self.world.signer_fields(chip.name, chip.line, chip.tcb, vlek=False)

# SPDX-License-Identifier: Apache-2.0
"""What a verifier needs beside the evidence, and the guard against going back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

from tightseal.model.claims import SnpTcb, Tee

__all__ = [
    "CollateralFacts",
    "CollateralGuard",
    "CollateralSource",
    "IntelCollateral",
    "SnpCertificates",
]


@dataclass(frozen=True, slots=True)
class IntelCollateral:
    """Intel's collateral for one FMSPC, PCK CA and TEE, as the PCS v4 gives it.

    The texts are exact: signatures cover them byte for byte.

    Attributes:
        pck_crl_issuer_chain: PEM; may be empty (not needed to verify).
        root_ca_crl, pck_crl: DER.
        tcb_info_issuer_chain, qe_identity_issuer_chain: PEM, leaf first.
        tcb_info, qe_identity: the JSON text of the value of ``tcbInfo`` and
            ``enclaveIdentity``.
        tcb_info_signature, qe_identity_signature: raw r and s, 64 bytes.
        pck_certificate_chain: PEM, where the source delivers one; it is compared with
            the chain in the quote, never used in its place.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    pck_certificate_chain: str | None = None
    content_hash: bytes = field(init=False, default=b"", compare=False)

    def __post_init__(self) -> None:
        """Hash the content once, so that results can be reused by content."""
        digest = hashlib.sha256()
        for part in (
            self.pck_crl_issuer_chain.encode(),
            self.root_ca_crl,
            self.pck_crl,
            self.tcb_info_issuer_chain.encode(),
            self.tcb_info.encode(),
            self.tcb_info_signature,
            self.qe_identity_issuer_chain.encode(),
            self.qe_identity.encode(),
            self.qe_identity_signature,
            (self.pck_certificate_chain or "").encode(),
        ):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        object.__setattr__(self, "content_hash", digest.digest())


@dataclass(frozen=True, slots=True)
class SnpCertificates:
    """AMD's certificates for one report, DER.

    Attributes:
        signer: the VCEK or VLEK certificate.
        intermediate: ASK for a VCEK, ASVK for a VLEK.
        root: the ARK as delivered, compared with the pinned key and never trusted;
            ``None`` where none came.
        crl: AMD's CRL for the product, where there is one.
    """

    signer: bytes
    intermediate: bytes
    root: bytes | None = None
    crl: bytes | None = None


@dataclass(frozen=True, slots=True)
class CollateralFacts:
    """What must not go back, read from collateral whose signatures verified.

    Attributes:
        trust_domain: as text, so that domains never share a memory.
        subject: what it is about, such as ``tdx:b0c06f000000`` or ``crl:platform``.
        kind: ``tcb_info``, ``qe_identity``, ``root_crl`` or ``pck_crl``.
        issued_at: issue date (``thisUpdate`` of a CRL), Unix seconds.
        number: ``tcbEvaluationDataNumber`` or the CRL number.
    """

    trust_domain: str
    subject: str
    kind: str
    issued_at: int
    number: int


class CollateralGuard(Protocol):
    """Remembers the newest collateral seen, and refuses older."""

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        """Admit verified collateral, or refuse it.

        Raises:
            CollateralError: ``collateral_rollback``, where any fact is older than one
                admitted before, or than the floor built into the release.
        """
        ...

    def admitted(self, *, trust_domain: str, kind: str, subject: str) -> bool:
        """Whether collateral on this subject was ever admitted, so that it exists."""
        ...


class CollateralSource(Protocol):
    """Where collateral comes from: a file, a cache, a PCCS. Never the workload."""

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        """Collateral for a platform family.

        Args:
            fmspc: 6 bytes, from the unverified PCK certificate; only names a query.
            ca: ``platform`` or ``processor``.
            tee: SGX or TDX.
            now: Unix seconds.

        Raises:
            CollateralError: ``collateral_unavailable`` or another collateral code.
        """
        ...

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        """Certificates for an SNP report.

        Args:
            product: ``Milan``, ``Genoa`` or ``Turin``.
            chip_id: as the report says; only names a query.
            tcb: reported TCB, which the VCEK is asked for.
            vlek: whether the report was signed by a VLEK.
            now: Unix seconds.

        Raises:
            CollateralError: ``collateral_unavailable`` or another collateral code.
        """
        ...

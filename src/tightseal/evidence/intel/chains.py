# SPDX-License-Identifier: Apache-2.0
"""The two kinds of chain under Intel's root: PCK and TCB signing.

A chain verifies here for its structure, roles and signatures alone; validity periods
and revocation are judged at a given time by the caller, on every use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.certs import (
    Certificate,
    Role,
    decode_chain,
    parse_certificate,
    require_issued_by,
    require_role,
)
from tightseal.evidence.intel.pck import PckExtension, parse_pck_extension
from tightseal.model.roots import TrustedRoot

__all__ = [
    "PCK_CHAIN_ROLE",
    "QE_REPORT_ROLE",
    "PckChain",
    "SigningChain",
    "ca_kind",
    "find_root",
    "known_pck_chain",
    "verify_pck_chain",
    "verify_signing_chain",
]


@dataclass(frozen=True, slots=True)
class PckChain:
    """A PCK chain whose signatures verified up to a trusted root.

    Attributes:
        ders: the certificates as they came, leaf first.
        leaf, ca, root: the certificates.
        ca_kind: ``platform`` or ``processor``.
        extension: what Intel certified about the platform.
    """

    ders: tuple[bytes, ...]
    leaf: Certificate
    ca: Certificate
    root: Certificate
    ca_kind: str
    extension: PckExtension


@dataclass(frozen=True, slots=True)
class SigningChain:
    """A TCB signing chain whose signatures verified up to a trusted root."""

    leaf: Certificate
    root: Certificate


PCK_CHAIN_ROLE: Final = "pck_chain"
"""Role under which verified PCK chains are kept, keyed by SHA-256 of the PEM."""

QE_REPORT_ROLE: Final = "qe_report"
"""Role under which it is kept that a PCK signed a QE report."""


def known_pck_chain(
    cache: ResultCache | None, roots: tuple[TrustedRoot, ...], digest: bytes
) -> tuple[TrustedRoot, PckChain] | None:
    """The chain of this digest as verified before, and the root it verified under."""
    if cache is None:
        return None
    for root in roots:
        kept = cache.get((PCK_CHAIN_ROLE, root.trust_domain.root_key_id, digest))
        if isinstance(kept, PckChain):
            return root, kept
    return None


def find_root(
    certificate: bytes,
    roots: tuple[TrustedRoot, ...],
    *,
    fault: type[TightsealError],
) -> tuple[TrustedRoot, Certificate]:
    """The trusted root whose key the last certificate of a chain (DER) carries.

    Raises:
        fault: ``root_not_trusted``, ``certificate_malformed``,
            ``certificate_role_mismatch`` or ``certificate_chain_invalid``.
    """
    for root in roots:
        try:
            found = _root_certificate(certificate, root.spki)
        except EvidenceError as e:
            raise fault(e.code, e.detail) from e
        if found is not None:
            return root, found
    name = parse_certificate(certificate, fault=fault).common_name
    names = ", ".join(f"{r.name} ({r.trust_domain.vendor.value})" for r in roots)
    detail = f"chain ends in {name!r}, whose key is not trusted; trusted: {names}"
    raise fault(Code.ROOT_NOT_TRUSTED, detail)


@lru_cache(maxsize=16)
def _root_certificate(certificate: bytes, spki: bytes) -> Certificate | None:
    """The root certificate, role and own signature checked; ``None`` for another key.

    Remembered for the process, since every chain ends in one of few certificates. No
    refusal is remembered, and no judgement of time.

    Raises:
        EvidenceError: ``certificate_malformed``, ``certificate_role_mismatch`` or
            ``certificate_chain_invalid``.
    """
    fault = EvidenceError
    parsed = parse_certificate(certificate, fault=fault)
    if parsed.spki != spki:
        return None
    require_role(parsed, Role.ROOT_CA, fault=fault)
    require_issued_by(parsed, parsed, cas_below=0, fault=fault)
    return parsed


def verify_pck_chain(ders: tuple[bytes, ...], root: Certificate) -> PckChain:
    """Verify the chain that a quote embeds: PCK certificate, PCK CA, root.

    Args:
        ders: the certificates, leaf first.
        root: the last of them, checked by ``find_root``.

    Raises:
        EvidenceError: ``certificate_malformed``, ``certificate_role_mismatch``,
            ``certificate_chain_invalid`` or ``pck_extension_invalid``.
    """
    fault = EvidenceError
    leaf = parse_certificate(ders[0], fault=fault)
    require_role(leaf, Role.PCK, fault=fault)
    if len(ders) != len(("leaf", "ca", "root")):
        detail = f"PCK chain: got {len(ders)} certificates, expected 3"
        raise fault(Code.CERTIFICATE_CHAIN_INVALID, detail)
    ca = parse_certificate(ders[1], fault=fault)
    kind = ca_kind(ca)
    require_issued_by(ca, root, cas_below=1, fault=fault)
    require_issued_by(leaf, ca, cas_below=0, fault=fault)
    if leaf.sgx_extension is None:
        detail = "PCK certificate without the SGX extension"
        raise fault(Code.PCK_EXTENSION_INVALID, detail)
    return PckChain(
        ders=ders,
        leaf=leaf,
        ca=ca,
        root=root,
        ca_kind=kind,
        extension=parse_pck_extension(leaf.sgx_extension, fault=fault),
    )


def ca_kind(ca: Certificate) -> str:
    """``platform`` or ``processor``, by the role of a PCK CA.

    Raises:
        EvidenceError: ``certificate_role_mismatch``, where it is no PCK CA.
    """
    role = require_role(ca, Role.PLATFORM_CA, Role.PROCESSOR_CA, fault=EvidenceError)
    return "platform" if role is Role.PLATFORM_CA else "processor"


def verify_signing_chain(
    pem: str, root: TrustedRoot, known: Certificate
) -> SigningChain:
    """Verify the issuer chain of TCB info or QE identity: TCB signing, root.

    Only the TCB signing role may sign collateral: any other leaf under the same root,
    a PCK above all, is within reach of whoever runs a platform.

    Args:
        pem: the chain, leaf first.
        root: the root that the quote's own chain ends in.
        known: that chain's root certificate, already checked.

    Raises:
        CollateralError: ``certificate_malformed``, ``certificate_chain_too_long``,
            ``certificate_role_mismatch``, ``certificate_chain_invalid`` or
            ``root_not_trusted``.
    """
    fault = CollateralError
    ders = decode_chain(pem.encode(), fault=fault)
    leaf = parse_certificate(ders[0], fault=fault)
    require_role(leaf, Role.TCB_SIGNING, fault=fault)
    if len(ders) != len(("leaf", "root")):
        detail = f"TCB signing chain: got {len(ders)} certificates, expected 2"
        raise fault(Code.CERTIFICATE_CHAIN_INVALID, detail)
    if ders[1] != known.der:
        _, known = find_root(ders[1], (root,), fault=fault)
    require_issued_by(leaf, known, cas_below=0, fault=fault)
    return SigningChain(leaf, known)

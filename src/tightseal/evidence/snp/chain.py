# SPDX-License-Identifier: Apache-2.0
"""VCEK or VLEK, to ASK or ASVK, to the pinned ARK: signatures, roles, dates, CRL.

Signature results are reused by content and root key where a cache is given. Roles,
dates and revocation are judged on every call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tightseal.errors import Code, CollateralError, EvidenceError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.snp.certificate import (
    Certificate,
    parse_certificate,
    parse_crl,
    signed_by,
)
from tightseal.evidence.snp.certs import Endorsement, parse_endorsement
from tightseal.evidence.snp.checklist import Checklist
from tightseal.evidence.snp.products import Product, product_of_line
from tightseal.evidence.snp.report import SigningKey
from tightseal.model.collateral import (
    CollateralFacts,
    CollateralGuard,
    SnpCertificates,
)
from tightseal.model.roots import TrustedRoot

__all__ = ["VerifiedChain", "check_crl", "crl_due", "verify_chain"]

_ROLE_INTERMEDIATE: Final = "snp_intermediate"
_ROLE_SIGNER: Final = "snp_signer"
_ROLE_CRL: Final = "snp_crl"


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain whose signatures, roles and dates hold.

    Attributes:
        root: the pinned root it ends in.
        product: the root's product line.
        intermediate: ASK or ASVK.
        endorsement: what the VCEK or VLEK says.
        key: its public key.
    """

    root: TrustedRoot
    product: Product
    intermediate: Certificate
    endorsement: Endorsement
    key: ec.EllipticCurvePublicKey


def verify_chain(
    certificates: SnpCertificates,
    *,
    now: int,
    roots: tuple[TrustedRoot, ...],
    cache: ResultCache | None,
    checklist: Checklist,
) -> VerifiedChain:
    """Verify a chain as of ``now``.

    Makes the checks ``certificate_form`` to ``certificate_validity``. Does not check
    revocation (:func:`check_crl`) or the product of the report.

    Raises:
        EvidenceError: a certificate code, ``root_not_trusted``,
            ``snp_product_unknown``, ``snp_extension_invalid`` or
            ``snp_signature_algorithm_unsupported``.
    """
    with checklist.check("certificate_form"):
        endorsement = parse_endorsement(certificates.signer)
        intermediate = parse_certificate(certificates.intermediate, what="ASK or ASVK")
        delivered = _delivered_root(certificates.root)
    signer = endorsement.certificate
    with checklist.check("root_pinned"):
        root, by_signature = _pinned(intermediate, delivered, roots, cache)
        product = _product(root)
    with checklist.check("intermediate_role"):
        role = _intermediate_role(intermediate, product)
    with checklist.check("intermediate_signature"):
        if not by_signature and not _root_signed(root, intermediate, cache):
            detail = f"{intermediate.subject_name} is not signed by {root.name}"
            raise EvidenceError(Code.CERTIFICATE_CHAIN_INVALID, detail)
    with checklist.check("signer_role"):
        _check_signer_role(endorsement, intermediate, role)
    with checklist.check("signer_signature"):
        content = (intermediate.encoded, signer.encoded)
        if not _once(
            cache,
            (_ROLE_SIGNER, root, content),
            lambda: _issued(intermediate.spki, signer),
        ):
            detail = f"{role.name} is not signed by {intermediate.subject_name}"
            raise EvidenceError(Code.CERTIFICATE_CHAIN_INVALID, detail)
    with checklist.check("signer_key"):
        key = _p384_key(signer.spki)
    with checklist.check("certificate_validity"):
        for certificate in (signer, intermediate):
            _check_window(certificate, now)
    return VerifiedChain(root, product, intermediate, endorsement, key)


def crl_due(
    chain: VerifiedChain, *, guard: CollateralGuard | None, required: bool
) -> bool:
    """Whether evidence under this chain may not be judged without AMD's CRL.

    Once a CRL of the chain's product and kind of signer was admitted, it exists, and
    going without it again is going back: whoever keeps it away hides a revocation.
    """
    if required or guard is None:
        return required
    facts = _facts(chain, 0, 0)
    return guard.admitted(
        trust_domain=facts.trust_domain, kind=facts.kind, subject=facts.subject
    )


def check_crl(
    data: bytes | None,
    chain: VerifiedChain,
    *,
    now: int,
    guard: CollateralGuard | None,
    cache: ResultCache | None,
) -> None:
    """Check AMD's CRL and that it does not list the intermediate.

    AMD keeps one list for the ASK and one for the ASVK, both signed by the ARK; nothing
    in a list says which of them it is, so the right one must be fetched.

    Raises:
        CollateralError: ``collateral_unavailable`` without a CRL, ``crl_malformed``,
            ``crl_issuer_mismatch``,
            ``crl_signature_invalid``, ``crl_not_yet_valid``, ``crl_expired``, or
            ``collateral_rollback`` from the guard.
        EvidenceError: ``certificate_revoked``.
    """
    if data is None:
        detail = f"AMD CRL {_facts(chain, 0, 0).subject}: required, and none was given"
        raise CollateralError(Code.COLLATERAL_UNAVAILABLE, detail)
    crl = parse_crl(data)
    if crl.issuer != chain.intermediate.issuer:
        detail = f"AMD CRL: issuer is not {chain.root.name}"
        raise CollateralError(Code.CRL_ISSUER_MISMATCH, detail)
    if not _once(
        cache,
        (_ROLE_CRL, chain.root, (data,)),
        lambda: signed_by(
            chain.root.spki, signature=crl.signature, signed_bytes=crl.signed_bytes
        ),
    ):
        detail = f"AMD CRL is not signed by {chain.root.name}"
        raise CollateralError(Code.CRL_SIGNATURE_INVALID, detail)
    if now < crl.this_update:
        detail = f"AMD CRL: valid from {crl.this_update}, now {now}"
        raise CollateralError(Code.CRL_NOT_YET_VALID, detail)
    if now > crl.next_update:
        detail = f"AMD CRL: valid to {crl.next_update}, now {now}"
        raise CollateralError(Code.CRL_EXPIRED, detail)
    if guard is not None:
        guard.admit((_facts(chain, crl.this_update, crl.number),), now=now)
    if chain.intermediate.serial in crl.revoked:
        detail = f"{chain.intermediate.subject_name}: serial in AMD's CRL"
        raise EvidenceError(Code.CERTIFICATE_REVOKED, detail)


def _facts(chain: VerifiedChain, issued_at: int, number: int) -> CollateralFacts:
    role = chain.endorsement.role.name.lower()
    return CollateralFacts(
        trust_domain=str(chain.root.trust_domain),
        subject=f"crl:{role}:{chain.product.value}",
        kind="root_crl",
        issued_at=issued_at,
        number=number,
    )


def _delivered_root(data: bytes | None) -> Certificate | None:
    return None if data is None else parse_certificate(data, what="ARK")


def _pinned(
    intermediate: Certificate,
    delivered: Certificate | None,
    roots: tuple[TrustedRoot, ...],
    cache: ResultCache | None,
) -> tuple[TrustedRoot, bool]:
    """The pinned root, and whether its signature was what told it."""
    if delivered is not None:
        for root in roots:
            if root.spki == delivered.spki:
                return root, False
        detail = f"{delivered.subject_name}: its key is not a trusted root"
        raise EvidenceError(Code.ROOT_NOT_TRUSTED, detail)
    for root in roots:
        named = intermediate.issuer_name == f"ARK-{root.product}"
        if named and _root_signed(root, intermediate, cache):
            return root, True
    detail = f"{intermediate.subject_name}: not signed by a trusted root"
    raise EvidenceError(Code.ROOT_NOT_TRUSTED, detail)


def _product(root: TrustedRoot) -> Product:
    product = product_of_line(root.product)
    if product is None:
        detail = f"root {root.name}: product {root.product!r}"
        raise EvidenceError(Code.SNP_PRODUCT_UNKNOWN, detail)
    return product


def _intermediate_role(certificate: Certificate, product: Product) -> SigningKey:
    roles = {
        f"SEV-{product.value}": SigningKey.VCEK,
        f"SEV-VLEK-{product.value}": SigningKey.VLEK,
    }
    role = roles.get(certificate.subject_name)
    if role is None or not certificate.authority:
        detail = (
            f"intermediate {certificate.subject_name!r}, CA {certificate.authority}; "
            f"expected a CA named {' or '.join(roles)}"
        )
        raise EvidenceError(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    if certificate.issuer_name != f"ARK-{product.value}":
        detail = f"issuer {certificate.issuer_name!r}, expected 'ARK-{product.value}'"
        raise EvidenceError(Code.CERTIFICATE_CHAIN_INVALID, detail)
    return role


def _check_signer_role(
    endorsement: Endorsement, intermediate: Certificate, role: SigningKey
) -> None:
    if endorsement.role is not role:
        detail = f"{endorsement.role.name} under {intermediate.subject_name}"
        raise EvidenceError(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    if endorsement.certificate.issuer != intermediate.subject:
        issuer = endorsement.certificate.issuer_name
        detail = f"{role.name}: issuer {issuer!r} is not {intermediate.subject_name!r}"
        raise EvidenceError(Code.CERTIFICATE_CHAIN_INVALID, detail)


def _root_signed(
    root: TrustedRoot, intermediate: Certificate, cache: ResultCache | None
) -> bool:
    return _once(
        cache,
        (_ROLE_INTERMEDIATE, root, (intermediate.encoded,)),
        lambda: _issued(root.spki, intermediate),
    )


def _issued(spki: bytes, certificate: Certificate) -> bool:
    return signed_by(
        spki,
        signature=certificate.signature,
        signed_bytes=certificate.signed_bytes,
    )


def _once(
    cache: ResultCache | None,
    key: tuple[str, TrustedRoot, tuple[bytes, ...]],
    verify: Callable[[], bool],
) -> bool:
    """Verify a signature, or reuse that this very content verified under this root."""
    if cache is None:
        return verify()
    role, root, content = key
    digest = hashlib.sha256()
    for part in content:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    entry = (role, root.trust_domain.root_key_id, digest.digest())
    if cache.get(entry) is True:
        return True
    verified = verify()
    if verified:
        cache.put(entry, True)
    return verified


def _p384_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as e:
        detail = "the signer's key cannot be read"
        raise EvidenceError(Code.CERTIFICATE_MALFORMED, detail) from e
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP384R1
    ):
        return key
    detail = "the signer's key is not on P-384"
    raise EvidenceError(Code.SNP_SIGNATURE_ALGORITHM, detail)


def _check_window(certificate: Certificate, now: int) -> None:
    name = certificate.subject_name
    if now < certificate.not_before:
        detail = f"{name}: valid from {certificate.not_before}, now {now}"
        raise EvidenceError(Code.CERTIFICATE_NOT_YET_VALID, detail)
    if now > certificate.not_after:
        detail = f"{name}: valid to {certificate.not_after}, now {now}"
        raise EvidenceError(Code.CERTIFICATE_EXPIRED, detail)

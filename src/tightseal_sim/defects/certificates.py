# SPDX-License-Identifier: Apache-2.0
"""Spoiled certificates and CRLs, and chains that are not the evidence's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tightseal.errors import Code
from tightseal.model.claims import Tee, TrustDomain, Vendor
from tightseal.model.roots import TrustedRoot
from tightseal_sim.defects.bench import (
    Bench,
    Offsets,
    flip,
    impostor,
    resign_tcb,
)
from tightseal_sim.defects.case import ACCEPTED, Case, Expect
from tightseal_sim.intel.collateral import CollateralParts
from tightseal_sim.intel.pki import (
    Authority,
    CertificateRequest,
    issue,
    pem_chain,
)
from tightseal_sim.intel.quote import QuoteParts, assemble

__all__ = ["chains", "crls", "pck_certificates", "vendor_root"]

_AT: Final = Offsets()
_CHAIN: Final = "Failed to verify certificate chain"
_ROOT_CRL: Final = "Failed to parse root CA CRL"
_PCK_CRL: Final = "Failed to parse PCK CRL"
_FORGED: Final = "InvalidSignatureForPublicKey"
_HOUR: Final = 3600

INTEL_ROOT_SPKI: Final = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d030107034200040ba9c4c0c0c86193a3fe23d6b02c"
    "da10a8bbd4e88e48b4458561a36e705525f567918e2edc88e40d860bd0cc4ee26aacc988e505a95355"
    "8c453f6b0904ae7394"
)
"""Intel SGX Root CA: SubjectPublicKeyInfo of the published certificate."""

INTEL_ROOT_KEY_ID: Final = (
    "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5"
    "dcf58eef31463613de1570d516200993"
)


def crls(bench: Bench) -> Iterator[Case]:
    """CRLs that revoke, are forged, old, garbled, or lack what they must have."""
    intel, whole = bench.intel, bench.collateral()
    root, pck = whole.root_crl, whole.pck_crl
    revoked = Expect.refuse(Code.CERTIFICATE_REVOKED, _CHAIN, "CertRevoked")
    forged_pck = impostor(pck.issuer, bench.attacker.pck_cas["platform"])
    forged_root = impostor(root.issuer, bench.attacker.root)
    past = {"this_update": bench.now - 40 * _HOUR, "next_update": bench.now - _HOUR}
    for number, name, title, spoiled, expect in (
        (64, "pck_revoked", "PCK certificate revoked",
         _pck(whole, revoked=_serials(bench.platform.pck)), revoked),
        (65, "pck_ca_revoked", "PCK CA revoked in the root CRL",
         _root(whole, revoked=_serials(pck.issuer)), revoked),
        (66, "tcb_signing_revoked", "TCB signing certificate revoked",
         _root(whole, revoked=_serials(intel.tcb_signing)), revoked),
        (67, "pck_crl_forged", "PCK CRL signed by an attacker, same issuer name",
         _pck(whole, issuer=forged_pck),
         Expect.refuse(
             Code.CRL_SIGNATURE_INVALID, _CHAIN, "InvalidCrlSignatureForPublicKey")),
        (68, "root_crl_forged", "root CRL signed by an attacker",
         _root(whole, issuer=forged_root),
         Expect.refuse(
             Code.CRL_SIGNATURE_INVALID, _ROOT_CRL, "InvalidCrlSignatureForPublicKey")),
        (70, "pck_crl_omitted", "root CRL in the PCK CRL's place",
         replace(whole, pck_crl=root),
         Expect.refuse(
             Code.CRL_ISSUER_MISMATCH, _CHAIN, "UnknownRevocationStatus")),
        (73, "pck_crl_expired", "PCK CRL expired", _pck(whole, **past),
         Expect.refuse(Code.CRL_EXPIRED, _CHAIN, "CrlExpired")),
        (92, "root_crl_expired", "root CRL expired", _root(whole, **past),
         Expect.refuse(Code.CRL_EXPIRED, "CrlExpired")),
        (None, "pck_crl_from_the_future", "PCK CRL issued in the future",
         _pck(whole, this_update=bench.now + _HOUR),
         Expect.refuse(Code.CRL_NOT_YET_VALID, None)),
    ):  # fmt: skip
        yield bench.case(name, title, expect, number=number, collateral=spoiled)
    yield bench.case(
        "pck_crl_garbage",
        "PCK CRL garbage",
        Expect.refuse(Code.CRL_MALFORMED, _PCK_CRL),
        number=69,
        collateral=replace(whole.assemble(), pck_crl=b"\x30\x03garbage"),
    )
    yield from _incomplete(bench)


def _incomplete(bench: Bench) -> Iterator[Case]:
    """CRLs without what makes going back visible; Intel's always have it."""
    whole = bench.collateral()
    for which, spoil, unread in (("pck", _pck, _PCK_CRL), ("root", _root, _ROOT_CRL)):
        for name, title, missing, message in (
            ("number", "CRLNumber", {"number": None}, None),
            ("authority_key_id", "AuthorityKeyIdentifier",
             {"authority_key_id": False}, None),
            ("next_update", "nextUpdate", {"next_update": None}, unread),
        ):  # fmt: skip
            yield bench.case(
                f"{which}_crl_without_{name}",
                f"{which} CRL without {title}",
                Expect.refuse(Code.CRL_MALFORMED, message),
                collateral=spoil(whole, **missing),
            )


def _pck(parts: CollateralParts, **changes: Any) -> CollateralParts:
    return replace(parts, pck_crl=replace(parts.pck_crl, **changes))


def _root(parts: CollateralParts, **changes: Any) -> CollateralParts:
    return replace(parts, root_crl=replace(parts.root_crl, **changes))


def _serials(authority: Authority) -> tuple[int, ...]:
    return (authority.certificate.serial_number,)


def pck_certificates(bench: Bench) -> Iterator[Case]:
    """PCK chains under the right root that are not PCK chains."""
    intel = bench.intel
    ca, genuine = intel.pck_cas["platform"], bench.platform.pck_fields
    request = intel.pck_request("defects-leaf", genuine)
    moment = datetime.fromtimestamp(bench.now, UTC)
    soon, gone = moment + timedelta(hours=1), moment - timedelta(hours=1)
    role = Code.CERTIFICATE_ROLE_MISMATCH
    for number, name, title, leaf, expect in (
        (None, "pck_leaf_name", "PCK leaf with another name",
         issue(ca, replace(request, common_name="Intel SGX Certificate")),
         Expect.refuse(role, None)),
        (None, "pck_leaf_without_extension", "PCK leaf without the SGX extension",
         issue(ca, replace(request, pck=None)),
         Expect.refuse(Code.PCK_EXTENSION_INVALID, "Intel extension not found")),
        (None, "pck_leaf_expired", "PCK leaf expired",
         issue(ca, replace(request, not_after=gone)),
         Expect.refuse(Code.CERTIFICATE_EXPIRED, _CHAIN, "CertExpired")),
        (None, "pck_leaf_not_yet_valid", "PCK leaf not yet valid",
         issue(ca, replace(request, not_before=soon)),
         Expect.refuse(Code.CERTIFICATE_NOT_YET_VALID, _CHAIN, "CertNotValidYet")),
    ):  # fmt: skip
        parts = _signed_by(bench, leaf, intel.pck_chain(leaf, "platform"))
        yield bench.case(name, title, expect, number=number, evidence=parts)
    signing = intel.tcb_signing
    yield bench.case(
        "tcb_signing_used_as_pck",
        "TCB signing certificate used as PCK",
        Expect.refuse(role, "Intel extension not found"),
        number=91,
        evidence=_signed_by(bench, signing, intel.tcb_signing_chain),
    )
    yield _foreign_ca_name(bench, request)


def _foreign_ca_name(bench: Bench, request: CertificateRequest) -> Case:
    """A CA of the root that is no PCK CA issues PCK certificates."""
    intel = bench.intel
    ca = issue(
        intel.root,
        CertificateRequest(
            "Intel SGX Other CA",
            intel.seed.p256("key", "defects/ca"),
            intel.seed.serial("serial", "defects/ca"),
            path_length=0,
        ),
    )
    leaf = issue(ca, request)
    whole = bench.collateral()
    return bench.case(
        "pck_ca_name",
        "PCK certificate of a CA with another name",
        Expect.refuse(Code.CERTIFICATE_ROLE_MISMATCH, None),
        evidence=_signed_by(bench, leaf, pem_chain((leaf, ca, intel.root))),
        collateral=replace(whole, pck_crl=replace(whole.pck_crl, issuer=ca)),
    )


def _signed_by(bench: Bench, leaf: Authority, chain: str) -> QuoteParts:
    return replace(bench.td_parts(), qe_signer=leaf.key, chain=chain)


def chains(bench: Bench) -> Iterator[Case]:
    """Chains that are not the one that signed, or too long to follow."""
    own, other = bench.platform, bench.other_platform
    parts, whole = bench.td_parts(), bench.collateral()
    quote = assemble(parts)
    beside = replace(whole, pck_certificate_chain=own.pck_chain)
    mismatch = Expect.refuse(
        Code.EMBEDDED_CHAIN_MISMATCH, "Signature is invalid for qe_report in quote"
    )
    for number, name, title, evidence, collateral, expect in (
        (72, "collateral_chain_of_other_platform",
         "pck_certificate_chain of another platform in the collateral",
         parts, replace(whole, pck_certificate_chain=other.pck_chain),
         replace(
             Expect.refuse(Code.EMBEDDED_CHAIN_MISMATCH, None),
             qvl_given_chain="Signature is invalid for qe_report in quote")),
        (90, "embedded_chain_of_other_platform",
         "another platform's chain embedded, genuine one in the collateral",
         replace(parts, chain=other.pck_chain), beside, mismatch),
        (None, "embedded_chain_of_other_platform_alone",
         "another platform's chain embedded, none in the collateral",
         replace(parts, chain=other.pck_chain), whole,
         replace(mismatch, native=Code.QE_REPORT_SIGNATURE_INVALID,
                 both=Code.QE_REPORT_SIGNATURE_INVALID)),
        (None, "embedded_chain_flipped", "embedded PEM flipped, genuine one beside",
         flip(quote, _AT.pem), beside,
         Expect.refuse(Code.EMBEDDED_CHAIN_MISMATCH, _CHAIN, _FORGED)),
        (None, "embedded_chain_flipped_alone", "embedded PEM flipped",
         flip(quote, _AT.pem), whole,
         Expect.refuse(Code.CERTIFICATE_CHAIN_INVALID, _CHAIN, _FORGED)),
        (None, "certification_type_flipped_chain_beside",
         "certification type flipped, genuine chain beside",
         flip(quote, _AT.cert_type), beside,
         Expect.refuse(Code.CERTIFICATION_DATA_UNSUPPORTED,
                       "Unsupported DCAP PCK cert format")),
        (None, "control_collateral_chain", "the genuine chain in the collateral too",
         parts, beside, ACCEPTED),
    ):  # fmt: skip
        yield bench.case(
            name,
            title,
            expect,
            number=number,
            evidence=evidence,
            collateral=collateral,
        )
    yield _long_chain(bench)


def _long_chain(bench: Bench) -> Case:
    intel = bench.intel
    links = (intel.tcb_signing, *(intel.pck_cas["platform"],) * 5, intel.root)
    return bench.case(
        "issuer_chain_too_long",
        "issuer chain with 6 intermediates",
        Expect.refuse(
            Code.CERTIFICATE_CHAIN_TOO_LONG, "Too many intermediate certificates: 6"
        ),
        number=87,
        collateral=resign_tcb(bench.collateral(), intel.tcb_signing, pem_chain(links)),
    )


def vendor_root(bench: Bench) -> Iterator[Case]:
    """Evidence of this world where Intel's own root is demanded."""
    domain = TrustDomain(Vendor.INTEL, INTEL_ROOT_KEY_ID)
    for tee in (Tee.TDX, Tee.SGX):
        yield bench.case(
            f"simulated_root_for_intel_{tee.value}",
            f"simulated root presented where Intel's is demanded ({tee.value})",
            Expect.refuse(
                Code.ROOT_NOT_TRUSTED, _ROOT_CRL, "InvalidCrlSignatureForPublicKey"
            ),
            number=97,
            tee=tee,
            root=TrustedRoot(domain, "Intel SGX Root CA", INTEL_ROOT_SPKI),
        )

# SPDX-License-Identifier: Apache-2.0
"""SEV-SNP evidence to claims: a numbered list of named checks, printed by ``CHECKS``.

It answers authenticity. Whether debugging, an old TCB or a VMPL is acceptable is for
policy to say; AMD publishes no judgement of a TCB that could be shown.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.snp.certs import Endorsement
from tightseal.evidence.snp.chain import (
    VerifiedChain,
    check_crl,
    crl_due,
    verify_chain,
)
from tightseal.evidence.snp.checklist import CHECKS, Checklist
from tightseal.evidence.snp.form import SnpEvidence, split_evidence
from tightseal.evidence.snp.products import (
    Product,
    chip_id_bytes,
    product_of_cpuid,
    reserved_tcb,
    split_tcb,
)
from tightseal.evidence.snp.report import UnverifiedReport, parse_report
from tightseal.model.claims import Claims, PlatformIdentity, Tee
from tightseal.model.collateral import CollateralGuard, SnpCertificates
from tightseal.model.roots import TrustedRoot

__all__ = ["CHECKS", "verify_report"]

_NO_STATUS: Final = "TCB status: AMD publishes none; compare snp_tcb in the policy"
_NO_SIGNER_CRL: Final = "revocation of the VCEK or VLEK: AMD lists none"
_NO_CRL: Final = "revocation of the ASK or ASVK: no CRL was given"
_NO_CPUID: Final = "processor model: report version 2 does not name it"
_MASKED: Final = "chip id in the report: masked by the host"
_NO_CHIP: Final = "chip: a VLEK names none"
_RUNTIME: Final = "contents of the paravisor's runtime claims"


def verify_report(
    evidence: bytes,
    certificates: SnpCertificates,
    *,
    now: int,
    roots: tuple[TrustedRoot, ...],
    cache: ResultCache | None = None,
    guard: CollateralGuard | None = None,
    require_crl: bool = False,
) -> Claims:
    """Verify a report, a report with its certificate table, or Azure's blob.

    Certificates in the evidence are not used here: hand them in (see
    ``query.embedded_certificates``). The CRL must not come from the workload.

    Args:
        evidence: at most ``form.MAX_EVIDENCE_BYTES``.
        certificates: signer, intermediate, and where there are any ARK and CRL; DER.
        now: Unix seconds.
        roots: the AMD and simulated roots that may be trusted.
        cache: results of certificate and CRL signatures, reused by content.
        guard: refuses a CRL older than one seen before, and none where one was.
        require_crl: refuse none also where none was seen before.

    Returns:
        claims with ``single_verifier`` set, ``tcb`` None and ``snp_tcb`` given; a chip
        id only from a verified VCEK. For Azure's blob ``report_data_bound`` is False.

    Raises:
        EvidenceError, CollateralError: with ``checks``, the last of which failed.

    Source: AMD 56860 (SEV-SNP ABI), AMD 57230 (certificates).
    """
    checklist = Checklist()
    with checklist.check("evidence_form"):
        split = split_evidence(evidence)
    with checklist.check("report_form"):
        report = parse_report(split.report)
    _check_runtime(split, report, checklist)
    chain = verify_chain(
        certificates, now=now, roots=roots, cache=cache, checklist=checklist
    )
    crl = certificates.crl
    if crl is None and not crl_due(chain, guard=guard, required=require_crl):
        checklist.skipped("crl")
    else:
        with checklist.check("crl"):
            check_crl(crl, chain, now=now, guard=guard, cache=cache)
    endorsement = chain.endorsement
    with checklist.check("product"):
        _check_product(report, chain)
    with checklist.check("signing_key"):
        _check_signing_key(report, endorsement)
    with checklist.check("tcb"):
        _check_tcb(report, endorsement, chain.product)
    _check_chip_id(report, endorsement, chain.product, checklist)
    with checklist.check("report_signature"):
        _check_signature(report, chain.key)
    if report.debug:
        checklist.noted("debug_policy")
    else:
        with checklist.check("debug_policy"):
            pass
    return _claims(split, report, chain, checklist, crl=crl is not None)


def _check_runtime(
    split: SnpEvidence, report: UnverifiedReport, checklist: Checklist
) -> None:
    if split.hcl is None:
        checklist.skipped("runtime_data")
        return
    with checklist.check("runtime_data"):
        if not split.hcl.binds(report.report_data):
            detail = "report data is not the SHA-256 of the runtime claims"
            raise EvidenceError(Code.HCL_RUNTIME_DATA_MISMATCH, detail)


def _check_product(report: UnverifiedReport, chain: VerifiedChain) -> None:
    certified = chain.endorsement.product
    if certified is not chain.product:
        detail = f"certificate for {certified.value} under {chain.root.name}"
        raise EvidenceError(Code.SNP_PRODUCT_MISMATCH, detail)
    if report.cpuid is None:
        return
    family, model, _ = report.cpuid
    named = product_of_cpuid(family, model)
    if named is None:
        detail = f"processor family {family:#x}, model {model:#x}"
        raise EvidenceError(Code.SNP_PRODUCT_UNKNOWN, detail)
    if named is not chain.product:
        detail = f"report from {named.value}, certificates for {chain.product.value}"
        raise EvidenceError(Code.SNP_PRODUCT_MISMATCH, detail)


def _check_signing_key(report: UnverifiedReport, endorsement: Endorsement) -> None:
    if report.signing_key is not endorsement.role:
        detail = (
            f"report signed by {report.signing_key.name}, "
            f"certificate of a {endorsement.role.name}"
        )
        raise EvidenceError(Code.SNP_SIGNING_KEY_MISMATCH, detail)


def _check_tcb(
    report: UnverifiedReport, endorsement: Endorsement, product: Product
) -> None:
    raw = report.reported_tcb
    tcb, reserved = split_tcb(raw, product), reserved_tcb(raw, product)
    if (tcb, reserved) != (endorsement.tcb, endorsement.reserved):
        detail = (
            f"report {tcb}, reserved {reserved.hex()}; "
            f"certificate {endorsement.tcb}, reserved {endorsement.reserved.hex()}"
        )
        raise EvidenceError(Code.SNP_TCB_MISMATCH, detail)


def _check_chip_id(
    report: UnverifiedReport,
    endorsement: Endorsement,
    product: Product,
    checklist: Checklist,
) -> None:
    if endorsement.hardware_id is None:
        checklist.skipped("chip_id")
        return
    if not any(report.chip_id):
        # The host masks the chip id; the VCEK, of one chip only, still signed.
        checklist.noted("chip_id")
        return
    with checklist.check("chip_id"):
        length = chip_id_bytes(product)
        chip, rest = report.chip_id[:length], report.chip_id[length:]
        if chip != endorsement.hardware_id or any(rest):
            detail = (
                f"report {report.chip_id.hex()}, "
                f"certificate {endorsement.hardware_id.hex()}"
            )
            raise EvidenceError(Code.SNP_CHIP_ID_MISMATCH, detail)


def _check_signature(report: UnverifiedReport, key: ec.EllipticCurvePublicKey) -> None:
    signature = encode_dss_signature(report.r, report.s)
    try:
        key.verify(signature, report.signed_bytes, ec.ECDSA(SHA384()))
    except InvalidSignature as e:
        detail = "the report is not signed by the certified key"
        raise EvidenceError(Code.SNP_SIGNATURE_INVALID, detail) from e


def _claims(
    split: SnpEvidence,
    report: UnverifiedReport,
    chain: VerifiedChain,
    checklist: Checklist,
    *,
    crl: bool,
) -> Claims:
    endorsement = chain.endorsement
    chip_id = endorsement.hardware_id
    if chip_id is not None and not any(chip_id):
        chip_id = None
    return Claims(
        tee=Tee.SNP,
        trust_domain=chain.root.trust_domain,
        measurements=_measurements(report),
        report_data=report.report_data,
        debug=report.debug,
        platform=PlatformIdentity(chip_id=chip_id),
        tcb=None,
        snp_tcb=endorsement.tcb,
        single_verifier=True,
        checks=checklist.made,
        not_checked=_not_checked(split, report, endorsement, crl=crl),
        report_data_bound=split.hcl is None,
        evidence_hash=split.digest(),
    )


def _measurements(report: UnverifiedReport) -> MappingProxyType[str, bytes]:
    raw = report.raw
    return MappingProxyType(
        {
            "snp_measurement": report.measurement,
            "host_data": report.host_data,
            "id_key_digest": report.id_key_digest,
            "author_key_digest": report.author_key_digest,
            "family_id": report.family_id,
            "image_id": report.image_id,
            "guest_svn": raw[0x04:0x08],
            "vmpl": raw[0x30:0x34],
            "policy": raw[0x08:0x10],
            "report_id": report.report_id,
            "reported_tcb": report.reported_tcb,
        }
    )


def _not_checked(
    split: SnpEvidence,
    report: UnverifiedReport,
    endorsement: Endorsement,
    *,
    crl: bool,
) -> tuple[str, ...]:
    masked = endorsement.hardware_id is not None and not any(report.chip_id)
    said = (
        (_NO_STATUS, True),
        (_NO_CRL, not crl),
        (_NO_SIGNER_CRL, True),
        (_NO_CPUID, report.cpuid is None),
        (_MASKED, masked),
        (_NO_CHIP, endorsement.hardware_id is None),
        (_RUNTIME, split.hcl is not None),
    )
    return tuple(text for text, holds in said if holds)

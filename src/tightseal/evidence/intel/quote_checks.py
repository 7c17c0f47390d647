# SPDX-License-Identifier: Apache-2.0
"""The checks of the quote itself: form, chain, signatures, TCB, attributes."""

from __future__ import annotations

from typing import Final, NoReturn

from tightseal.errors import Code, CollateralError, EvidenceError
from tightseal.evidence.intel import attributes as attr
from tightseal.evidence.intel.certs import check_validity, decode_chain
from tightseal.evidence.intel.chains import (
    PCK_CHAIN_ROLE,
    QE_REPORT_ROLE,
    find_root,
    known_pck_chain,
    verify_pck_chain,
)
from tightseal.evidence.intel.crl import require_not_revoked
from tightseal.evidence.intel.layout import BodyType
from tightseal.evidence.intel.qe_identity import qe_level, require_identity
from tightseal.evidence.intel.quote import PCK_CHAIN_CERTIFICATION_DATA, parse_quote
from tightseal.evidence.intel.run import Run
from tightseal.evidence.intel.signatures import public_key, sha256, verifies_raw
from tightseal.evidence.intel.tcb import (
    merge,
    module_identity,
    module_level,
    platform_level,
    relaunch,
    require_module,
)
from tightseal.model.claims import Outcome, TcbStatus, Tee
from tightseal.model.verifiers import VerifierException

INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Vendor id of Intel's quoting enclaves; all others are unknown."""

_ZERO_48: Final = bytes(48)

# Looking a member up in its enumeration is slow before Python 3.12, and these are asked
# for on every verification.
_SGX: Final = Tee.SGX
_TDX: Final = Tee.TDX
_SKIPPED: Final = Outcome.SKIPPED
_REVOKED: Final = TcbStatus.REVOKED
_TD10: Final = BodyType.TD10


def quote_structure(run: Run) -> None:
    """The quote has a known version and TEE, and lengths that account for all of it."""
    run.quote = parse_quote(run.data)
    run.tee = run.quote.tee
    if run.tee is _TDX:
        run.attributes = attr.td_attributes(run.quote.field("td_attributes"))
    else:
        run.attributes = attr.sgx_flags(run.quote.field("attributes"))


def quote_padding(run: Run) -> Outcome | None:
    """Nothing but zeros follows the declared length."""
    return Outcome.NOTED if run.quote.trailing_zeros else None


def qe_vendor(run: Run) -> None:
    """The quoting enclave's vendor is Intel."""
    got = run.quote.header.qe_vendor_id
    if got != INTEL_QE_VENDOR_ID:
        detail = f"QE vendor: got {got.hex()}, expected {INTEL_QE_VENDOR_ID.hex()}"
        raise EvidenceError(Code.QE_VENDOR_UNKNOWN, detail)


def certification_type(run: Run) -> None:
    """The quote embeds its PCK chain."""
    got = run.quote.certification_type
    if got != PCK_CHAIN_CERTIFICATION_DATA:
        detail = f"certification data type: got {got}, expected 5 (PCK chain)"
        raise EvidenceError(Code.CERTIFICATION_DATA_UNSUPPORTED, detail)


def embedded_chain(run: Run) -> None:
    """The embedded chain is strict PEM, and equals the collateral's where it has one.

    The chain in the quote is the one that is verified; a chain in the collateral never
    takes its place, or the identity shown would not be the one that was judged.
    """
    pem = run.quote.certification_data
    known = known_pck_chain(run.cache, run.roots, run.chain_digest)
    if known is not None:
        run.root, run.known_chain = known
        run.root_certificate = run.known_chain.root
        run.chain_ders = run.known_chain.ders
    else:
        run.chain_ders = decode_chain(pem, fault=EvidenceError)
    given = run.collateral.pck_certificate_chain
    if not given or given.encode() == pem:
        return
    if decode_chain(given.encode(), fault=EvidenceError) != run.chain_ders:
        detail = "the chain in the quote is not the PCK chain in the collateral"
        raise EvidenceError(Code.EMBEDDED_CHAIN_MISMATCH, detail)


def root_trusted(run: Run) -> None:
    """The embedded chain ends in a root whose key is trusted."""
    if run.known_chain is None:
        run.root, run.root_certificate = find_root(
            run.chain_ders[-1], run.roots, fault=EvidenceError
        )


def pck_chain(run: Run) -> None:
    """The embedded chain is PCK certificate, CA and root, each signed by the next."""
    run.pck = run.known_chain or run.reused(
        PCK_CHAIN_ROLE,
        run.chain_digest,
        lambda: verify_pck_chain(run.chain_ders, run.root_certificate),
    )


def pck_validity(run: Run) -> None:
    """The embedded chain is within its validity."""
    pck = run.pck
    for certificate in (pck.root, pck.ca, pck.leaf):
        check_validity(certificate, now=run.now, fault=EvidenceError)


def pck_ca_revocation(run: Run) -> None:
    """The root CRL does not name the PCK CA."""
    require_not_revoked(run.pck.ca, run.root_crl, fault=EvidenceError)


def pck_revocation(run: Run) -> None:
    """The PCK CRL does not name the PCK certificate."""
    require_not_revoked(run.pck.leaf, run.pck_crl, fault=EvidenceError)


def fmspc(run: Run) -> None:
    """TCB info is of the PCK certificate's platform family."""
    got, expected = run.tcb_info.fmspc, run.pck.extension.fmspc
    if got != expected:
        detail = f"TCB info FMSPC: got {got.hex()}, expected {expected.hex()}"
        raise CollateralError(Code.FMSPC_MISMATCH, detail)


def pceid(run: Run) -> None:
    """TCB info is of the PCK certificate's PCE."""
    got, expected = run.tcb_info.pce_id, run.pck.extension.pce_id
    if got != expected:
        detail = f"TCB info PCEID: got {got.hex()}, expected {expected.hex()}"
        raise CollateralError(Code.PCEID_MISMATCH, detail)


def tdx_module(run: Run) -> Outcome | None:
    """The TDX module has the signer and attributes of its identity."""
    quote = run.quote
    if run.tee is not _TDX:
        return _SKIPPED
    run.module = module_identity(run.tcb_info, quote.field("tee_tcb_svn"))
    require_module(
        run.module,
        mr_signer_seam=quote.field("mr_signer_seam"),
        seam_attributes=quote.field("seam_attributes"),
    )
    return None


def qe_report_signature(run: Run) -> None:
    """The QE report is signed by the PCK."""
    quote, key = run.quote, run.pck.leaf.key

    def verify() -> bool:
        if not verifies_raw(key, quote.qe_report_signature, quote.qe_report):
            detail = "QE report: signature does not verify under the PCK"
            raise EvidenceError(Code.QE_REPORT_SIGNATURE_INVALID, detail)
        return True

    # A quoting enclave is certified once for its key, and copies that into each quote.
    # The chain's digest stands for the PCK; the parts have fixed lengths.
    signed = run.chain_digest + quote.qe_report + quote.qe_report_signature
    run.reused(QE_REPORT_ROLE, sha256(signed), verify)


def qe_report_data(run: Run) -> None:
    """The QE report commits to the attestation key and the QE authentication data."""
    quote = run.quote
    digest = sha256(quote.attestation_key + quote.qe_auth_data)
    got = quote.qe_field("report_data")
    if got != digest + bytes(32):
        detail = f"QE report data: got {got.hex()}, expected {digest.hex()} and zeros"
        raise EvidenceError(Code.QE_REPORT_DATA_MISMATCH, detail)


def qe_identity(run: Run) -> None:
    """The quoting enclave is the one that Intel names."""
    require_identity(run.quote.qe_report, run.qe_identity)


def qe_debug(run: Run) -> None:
    """The quoting enclave is not in debug mode."""
    flags = attr.sgx_flags(run.quote.qe_field("attributes"))
    if flags & attr.SGX_DEBUG:
        raise EvidenceError(Code.QE_DEBUG, f"quoting enclave: flags {flags:#x}")


def qe_tcb(run: Run) -> None:
    """The quoting enclave reaches a TCB level."""
    run.qe_level = qe_level(run.quote.qe_report, run.qe_identity)


def quote_signature(run: Run) -> None:
    """Header and body are signed by the attestation key."""
    quote = run.quote
    key = public_key(quote.attestation_key)
    if key is None or not verifies_raw(key, quote.signature, quote.signed_bytes):
        detail = "quote: signature does not verify under the attestation key"
        raise EvidenceError(Code.QUOTE_SIGNATURE_INVALID, detail)


def tcb_level(run: Run) -> None:
    """The platform reaches a TCB level."""
    svn = run.quote.field("tee_tcb_svn") if run.tee is _TDX else None
    run.level = platform_level(run.tcb_info, run.pck.extension, svn)


def tdx_module_tcb(run: Run) -> Outcome | None:
    """The TDX module reaches a TCB level; the status is merged with platform and QE."""
    if run.tee is not _TDX:
        run.verdict = merge(run.level, run.qe_level)
        return _SKIPPED
    module = module_level(run.module, run.quote.field("tee_tcb_svn"))
    run.verdict = merge(run.level, run.qe_level, module)
    return _SKIPPED if module is None else None


def td_relaunch(run: Run) -> Outcome | None:
    """The TCB that the TD runs on now reaches a level, and may advise a relaunch."""
    quote = run.quote
    if run.tee is not _TDX or quote.body_type is _TD10:
        return _SKIPPED
    svn = quote.field("tee_tcb_svn2")
    if svn == quote.field("tee_tcb_svn"):
        return None
    level = platform_level(run.tcb_info, run.pck.extension, svn)
    module = module_level(module_identity(run.tcb_info, svn), svn)
    run.verdict = relaunch(run.verdict, merge(level, run.qe_level, module))
    return None


def tcb_not_revoked(run: Run) -> None:
    """Neither platform, quoting enclave nor TDX module is revoked."""
    if run.verdict.status is _REVOKED:
        detail = "TCB status: Revoked, for platform, quoting enclave or TDX module"
        raise EvidenceError(Code.TCB_REVOKED, detail)


def debug(run: Run) -> None:
    """The host cannot read the workload: no debug attribute."""
    bit = attr.SGX_DEBUG if run.tee is _SGX else attr.TD_DEBUG
    if run.attributes & bit:
        _refuse(run, bit, Code.DEBUG_ENABLED)


def sgx_initialised(run: Run) -> Outcome | None:
    """The enclave is initialised."""
    if run.tee is not _SGX:
        return _SKIPPED
    if not run.attributes & attr.SGX_INIT:
        raise EvidenceError(Code.SGX_NOT_INITIALISED, "enclave: INIT is not set")
    return None


def sgx_64bit(run: Run) -> Outcome | None:
    """The enclave runs in 64-bit mode."""
    if run.tee is not _SGX:
        return _SKIPPED
    if not run.attributes & attr.SGX_MODE64BIT:
        raise EvidenceError(Code.SGX_NOT_64BIT, "enclave: MODE64BIT is not set")
    return None


def td_profiling(run: Run) -> Outcome | None:
    """The TD is not profiled by the host."""
    if run.tee is not _TDX:
        return _SKIPPED
    if run.attributes & attr.TD_PROFILING:
        _refuse(run, attr.TD_PROFILING, Code.TD_PROFILING)
    return None


def td_reserved(run: Run) -> Outcome | None:
    """The TD has no reserved attribute."""
    if run.tee is not _TDX:
        return _SKIPPED
    if run.attributes & attr.TD_RESERVED:
        _refuse(run, attr.TD_RESERVED, Code.TD_ATTRIBUTES_RESERVED)
    return None


def td_migratable(run: Run) -> Outcome | None:
    """The TD cannot be migrated."""
    if run.tee is not _TDX:
        return _SKIPPED
    if run.attributes & attr.TD_MIGRATABLE:
        _refuse(run, attr.TD_MIGRATABLE, Code.TD_MIGRATABLE)
    return None


def td_sept_ve(run: Run) -> Outcome | None:
    """The TD disables SEPT_VE, or the exception for it is switched on."""
    if run.tee is not _TDX:
        return _SKIPPED
    if run.attributes & attr.TD_SEPT_VE_DISABLE:
        return None
    if VerifierException.SEPT_VE_ENABLED in run.exceptions:
        return Outcome.NOTED
    detail = f"TD: SEPT_VE_DISABLE is not set in attributes {run.attributes:#018x}"
    raise EvidenceError(Code.SEPT_VE_ENABLED, detail)


def td_service_td(run: Run) -> Outcome | None:
    """No service TD is bound to the TD."""
    if run.tee is not _TDX:
        return _SKIPPED
    if run.attributes & attr.SERVTD_EXT:
        _refuse(run, attr.SERVTD_EXT, Code.TD_SERVICE_TD)
    if run.quote.body_type is not _TD10:
        bound = run.quote.field("mr_service_td")
        if bound != _ZERO_48:
            raise EvidenceError(Code.TD_SERVICE_TD, f"TD: service TD {bound.hex()}")
    return None


def _refuse(run: Run, bits: int, code: Code) -> NoReturn:
    got = run.attributes
    detail = f"{run.tee.name} attributes {got:#018x}: have {got & bits:#x}"
    raise EvidenceError(code, detail)

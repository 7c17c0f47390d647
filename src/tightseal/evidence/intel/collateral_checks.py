# SPDX-License-Identifier: Apache-2.0
"""The checks of collateral: genuine, of the right role, current, and not going back."""

from __future__ import annotations

from typing import Final

from tightseal.errors import Code, CollateralError
from tightseal.evidence.intel.certs import check_validity
from tightseal.evidence.intel.chains import SigningChain, verify_signing_chain
from tightseal.evidence.intel.crl import (
    check_crl_time,
    require_not_revoked,
    verify_crl,
)
from tightseal.evidence.intel.qe_identity import (
    QE_IDENTITY_KINDS,
    QeIdentity,
    parse_qe_identity,
)
from tightseal.evidence.intel.run import Run
from tightseal.evidence.intel.signatures import verifies_raw
from tightseal.evidence.intel.tcb_info import (
    TCB_INFO_VERSION,
    TcbInfo,
    parse_tcb_info,
)
from tightseal.model.claims import Outcome

__all__ = [
    "collateral_rollback",
    "pck_crl_signature",
    "pck_crl_time",
    "qe_identity_signature",
    "qe_identity_time",
    "qe_identity_type",
    "root_crl_rollback",
    "root_crl_signature",
    "root_crl_time",
    "tcb_info_signature",
    "tcb_info_time",
    "tcb_info_type",
    "tcb_signing_chain",
    "tcb_signing_revocation",
    "tcb_signing_validity",
]

_SKIPPED: Final = Outcome.SKIPPED


def root_crl_signature(run: Run) -> None:
    """The root CRL is signed by the root that the quote's chain ends in."""
    collateral = run.collateral
    run.root_crl = run.reused(
        "root_crl",
        collateral.content_hash,
        lambda: verify_crl(collateral.root_ca_crl, run.root_certificate),
    )


def root_crl_time(run: Run) -> None:
    """The root CRL and the root itself are current, and the root is not revoked."""
    check_crl_time(run.root_crl, now=run.now)
    check_validity(run.root_certificate, now=run.now, fault=CollateralError)
    require_not_revoked(run.root_certificate, run.root_crl, fault=CollateralError)


def root_crl_rollback(run: Run) -> Outcome | None:
    """The root CRL is not older than one seen before.

    Admitted by itself, before it is used: a newer root CRL that revokes a signer of
    this very collateral must be remembered although the run ends there.
    """
    if run.guard is None:
        return _SKIPPED
    crl = run.root_crl
    return run.admit(("root_crl", "crl:root", crl.this_update, crl.number))


def tcb_signing_chain(run: Run) -> None:
    """TCB info and QE identity come with TCB signing certificate and root."""
    collateral = run.collateral
    run.tcb_signing = _signing_chain(
        run, "tcb_signing_chain", collateral.tcb_info_issuer_chain
    )
    if collateral.qe_identity_issuer_chain == collateral.tcb_info_issuer_chain:
        run.qe_signing = run.tcb_signing
    else:
        run.qe_signing = _signing_chain(
            run, "qe_signing_chain", collateral.qe_identity_issuer_chain
        )


def _signing_chain(run: Run, role: str, pem: str) -> SigningChain:
    return run.reused(
        role,
        run.collateral.content_hash,
        lambda: verify_signing_chain(pem, run.root, run.root_certificate),
    )


def tcb_signing_validity(run: Run) -> None:
    """The TCB signing chains are within their validity."""
    for chain in (run.tcb_signing, run.qe_signing):
        check_validity(chain.root, now=run.now, fault=CollateralError)
        check_validity(chain.leaf, now=run.now, fault=CollateralError)


def tcb_signing_revocation(run: Run) -> None:
    """The root CRL does not name a TCB signing certificate."""
    for chain in (run.tcb_signing, run.qe_signing):
        require_not_revoked(chain.root, run.root_crl, fault=CollateralError)
        require_not_revoked(chain.leaf, run.root_crl, fault=CollateralError)


def tcb_info_signature(run: Run) -> None:
    """The exact text of TCB info is signed by its TCB signing certificate."""
    run.tcb_info = run.reused(
        "tcb_info", run.collateral.content_hash, lambda: _verified_tcb_info(run)
    )


def _verified_tcb_info(run: Run) -> TcbInfo:
    collateral, key = run.collateral, run.tcb_signing.leaf.key
    text = collateral.tcb_info
    if not verifies_raw(key, collateral.tcb_info_signature, text.encode()):
        detail = "TCB info: signature does not verify over its text"
        raise CollateralError(Code.TCB_INFO_SIGNATURE_INVALID, detail)
    return parse_tcb_info(text)


def tcb_info_time(run: Run) -> None:
    """TCB info is current."""
    info = run.tcb_info
    if run.now < info.issued_at:
        detail = f"TCB info: issued {info.issued_at}, now {run.now}"
        raise CollateralError(Code.TCB_INFO_NOT_YET_VALID, detail)
    if run.now > info.next_update:
        detail = f"TCB info: next update {info.next_update}, now {run.now}"
        raise CollateralError(Code.TCB_INFO_EXPIRED, detail)


def tcb_info_type(run: Run) -> None:
    """TCB info is of version 3 and for the quote's TEE."""
    info, expected = run.tcb_info, run.tee.name
    if info.id != expected or info.version != TCB_INFO_VERSION:
        detail = (
            f"TCB info: got {info.id!r} version {info.version}, "
            f"expected {expected!r} version {TCB_INFO_VERSION}"
        )
        raise CollateralError(Code.TCB_INFO_TYPE_MISMATCH, detail)


def qe_identity_signature(run: Run) -> None:
    """The exact text of the QE identity is signed by its TCB signing certificate."""
    run.qe_identity = run.reused(
        "qe_identity", run.collateral.content_hash, lambda: _verified_qe_identity(run)
    )


def _verified_qe_identity(run: Run) -> QeIdentity:
    collateral, key = run.collateral, run.qe_signing.leaf.key
    text = collateral.qe_identity
    if not verifies_raw(key, collateral.qe_identity_signature, text.encode()):
        detail = "QE identity: signature does not verify over its text"
        raise CollateralError(Code.QE_IDENTITY_SIGNATURE_INVALID, detail)
    return parse_qe_identity(text)


def qe_identity_time(run: Run) -> None:
    """The QE identity is current."""
    identity = run.qe_identity
    if run.now < identity.issued_at:
        detail = f"QE identity: issued {identity.issued_at}, now {run.now}"
        raise CollateralError(Code.QE_IDENTITY_NOT_YET_VALID, detail)
    if run.now > identity.next_update:
        detail = f"QE identity: next update {identity.next_update}, now {run.now}"
        raise CollateralError(Code.QE_IDENTITY_EXPIRED, detail)


def qe_identity_type(run: Run) -> None:
    """The QE identity is for the quoting enclave of the quote's TEE."""
    identity = run.qe_identity
    kind, versions = QE_IDENTITY_KINDS[run.tee]
    if identity.id != kind or identity.version not in versions:
        detail = (
            f"QE identity: got {identity.id!r} version {identity.version}, "
            f"expected {kind!r} version {sorted(versions)}"
        )
        raise CollateralError(Code.QE_IDENTITY_TYPE_MISMATCH, detail)


def pck_crl_signature(run: Run) -> None:
    """The PCK CRL is signed by the CA that issued the PCK certificate."""
    pck, collateral = run.pck, run.collateral
    run.pck_crl = run.reused(
        "pck_crl",
        collateral.content_hash + pck.ca.spki,
        lambda: verify_crl(collateral.pck_crl, pck.ca),
    )


def pck_crl_time(run: Run) -> None:
    """The PCK CRL is current."""
    check_crl_time(run.pck_crl, now=run.now)


def collateral_rollback(run: Run) -> Outcome | None:
    """TCB info, QE identity and PCK CRL are not older than those seen before.

    Asked once all of them are genuine and current, and their signers not revoked; and
    before they judge the platform: a newer answer that refuses this very platform must
    be remembered, or an older and kinder one could be brought back.
    """
    if run.guard is None:
        return _SKIPPED
    info, identity, crl = run.tcb_info, run.qe_identity, run.pck_crl
    tee = run.tee.value
    return run.admit(
        (
            "tcb_info",
            f"{tee}:{info.fmspc.hex()}",
            info.issued_at,
            info.evaluation_number,
        ),
        ("qe_identity", tee, identity.issued_at, identity.evaluation_number),
        (
            "pck_crl",
            f"crl:{run.pck.ca_kind}",
            crl.this_update,
            crl.number,
        ),
    )

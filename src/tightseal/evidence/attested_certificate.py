# SPDX-License-Identifier: Apache-2.0
"""Evidence that certificates carry: the CCC's form, Gramine's older one, and dstack's.

Each form says where the evidence stands and what its report data must be, so that it is
about this certificate's key and no other:

* CCC (also Gramine since 1.8, rats-tls): tagged evidence under 2.23.133.5.4.9; report
  data is SHA-256 over claims that hold the hash of the key.
* Gramine before: a bare quote; report data is SHA-256 of the key. Its macro put the
  DER tag and length into the identifier, so on the wire it reads as below.
* dstack: a quote and an event log, or a versioned attestation with both, under Phala's
  arc; report data is SHA-512 over ``ratls-cert:`` and the key.

Quotes under 1.2.840.113741.1.13 are not looked for: that is the arc of Intel's PCK
certificates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.certificate import Certificate
from tightseal.evidence.detect import MAX_EVIDENCE_BYTES
from tightseal.evidence.dstack_certificate import DSTACK_OIDS, dstack_evidence
from tightseal.model.tagged_evidence import EVIDENCE_OID, decode_tagged

__all__ = [
    "GRAMINE_OID",
    "CertificateEvidence",
    "CertificateForm",
    "certificate_evidence",
    "check_report_data",
]

GRAMINE_OID: Final = "0.6.9.42.840.113741.1337.6"
"""Gramine's own, meant as 1.2.840.113741.1337.6."""

DSTACK_TAG: Final = b"ratls-cert:"
REPORT_DATA_BYTES: Final = 64


class CertificateForm(StrEnum):
    """Whose form the evidence has."""

    CCC = "ccc"
    GRAMINE = "gramine"
    DSTACK = "dstack"


@dataclass(frozen=True, slots=True)
class CertificateEvidence:
    """What a certificate carries; nothing of it is verified.

    Attributes:
        form: whose.
        evidence: a quote or report, for a verifier.
        report_data: 64 bytes that it must carry to be about the certificate's key.
        event_log: dstack's JSON, where there is one.
        nonce: of CCC claims.
    """

    form: CertificateForm
    evidence: bytes
    report_data: bytes
    event_log: bytes | None = None
    nonce: bytes | None = None


def certificate_evidence(certificate: Certificate) -> CertificateEvidence:
    """The evidence of a certificate, and what binds it to the certificate's key.

    Gramine writes its own form beside the CCC's; the CCC's counts then.

    Raises:
        EvidenceError: ``evidence_unreadable``, where there is none, or of two makers;
            ``certificate_malformed``, where it has not its form;
            ``report_data_mismatch``, where CCC claims name another key;
            ``evidence_kind_unsupported`` or ``evidence_too_large``.
    """
    names = certificate.extensions.keys()
    tagged, dstack = EVIDENCE_OID in names, not DSTACK_OIDS.isdisjoint(names)
    if tagged and dstack:
        raise _unreadable("evidence in the form of the CCC and in dstack's")
    if tagged:
        found = _ccc(certificate)
    elif dstack:
        quote, log = dstack_evidence(certificate.extensions)
        expected = hashlib.sha512(DSTACK_TAG + certificate.spki).digest()
        found = CertificateEvidence(CertificateForm.DSTACK, quote, expected, log)
    elif GRAMINE_OID in names:
        quote = certificate.extensions[GRAMINE_OID]
        expected = certificate.key_hash.ljust(REPORT_DATA_BYTES, b"\0")
        found = CertificateEvidence(CertificateForm.GRAMINE, quote, expected)
    else:
        raise _unreadable("no evidence in the form of the CCC, Gramine or dstack")
    if len(found.evidence) > MAX_EVIDENCE_BYTES:
        detail = f"{len(found.evidence)} bytes, at most {MAX_EVIDENCE_BYTES}"
        raise EvidenceError(Code.EVIDENCE_TOO_LARGE, f"certificate: {detail}")
    return found


def _ccc(certificate: Certificate) -> CertificateEvidence:
    tagged = decode_tagged(certificate.extensions[EVIDENCE_OID])
    if not tagged.claims.fit(certificate.spki):
        got = tagged.claims.key_hash.hex()
        raise EvidenceError(
            Code.REPORT_DATA_MISMATCH,
            f"certificate: its claims name the key {tagged.claims.hash_name}:{got}, "
            f"its own is sha256:{certificate.key_hash.hex()}",
        )
    return CertificateEvidence(
        CertificateForm.CCC,
        tagged.quote,
        tagged.report_data(),
        nonce=tagged.claims.nonce,
    )


def check_report_data(found: CertificateEvidence, report_data: bytes) -> None:
    """Check that verified evidence is about the certificate's key.

    Args:
        found: of the certificate.
        report_data: of the claims that a verifier made of ``found.evidence``.

    Raises:
        EvidenceError: ``report_data_mismatch``.
    """
    if report_data != found.report_data:
        raise EvidenceError(
            Code.REPORT_DATA_MISMATCH,
            f"certificate: its evidence is about another key: report data "
            f"{report_data.hex()}, expected {found.report_data.hex()}",
        )


def _unreadable(why: str) -> EvidenceError:
    return EvidenceError(Code.EVIDENCE_UNREADABLE, f"certificate: {why}")

# SPDX-License-Identifier: Apache-2.0
"""What a command is given to judge: evidence, or a certificate that carries it.

A certificate comes from a file, or from whoever answers at an address: the handshake is
made with nobody believed, since the evidence is what is to be judged.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.attested_certificate import (
    CertificateEvidence,
    certificate_evidence,
    check_report_data,
)
from tightseal.evidence.certificate import (
    Certificate,
    check_own_signature,
    looks_like_certificate,
    pem_to_der,
    read_certificate,
)
from tightseal.evidence.detect import MAX_TEXT_BYTES, decode_text
from tightseal.model.claims import Claims
from tightseal.policy.eventlog import replay_runtime_log

__all__ = ["STDIN", "Presented", "presented", "read_evidence"]

STDIN: Final = "-"
CONNECT_SECONDS: Final = 10.0
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Presented:
    """Evidence, and the certificate that it came in, if any.

    Attributes:
        evidence: binary.
        certificate: as read; its own signature is not what it is believed by.
        found: how its evidence is bound to its key.
    """

    evidence: bytes
    certificate: Certificate | None = None
    found: CertificateEvidence | None = None

    def described(self) -> dict[str, str | int | bool | None]:
        """The certificate for people, unverified; empty where there is none."""
        certificate, found = self.certificate, self.found
        if certificate is None or found is None:
            return {}
        log, nonce = found.event_log, found.nonce
        return {
            "form": found.form.value,
            "key_sha256": certificate.key_hash.hex(),
            "not_before": certificate.not_before,
            "not_after": certificate.not_after,
            "signed_by_its_own_key": _self_signed(certificate),
            "expected_report_data": found.report_data.hex(),
            "nonce": None if nonce is None else nonce.hex(),
            "event_log_bytes": None if log is None else len(log),
        }

    def bound(self, claims: Claims) -> dict[str, str | int | bool | None] | None:
        """Check that verified evidence is about the certificate's key; what it says.

        Raises:
            EvidenceError: ``report_data_mismatch``; of an event log in it, as
                ``replay_runtime_log``.
        """
        if self.found is None:
            return None
        check_report_data(self.found, claims.report_data)
        log = self.found.event_log
        replayed = None if log is None else replay_runtime_log(log, claims)
        return self.described() | {"event_log_replayed": replayed}


def presented(name: str) -> Presented:
    """Evidence from a file or stdin, or of a certificate there or at an address.

    Raises:
        EvidenceError: ``evidence_unreadable``, ``evidence_too_large``, or what is wrong
            with the certificate.
    """
    address = _ADDRESS.fullmatch(name)
    remote = address is not None and not Path(name).exists()
    data = _shown_at(address) if remote and address else read_evidence(name)
    if not remote and not looks_like_certificate(data):
        return Presented(decode_text(data))
    certificate = read_certificate(pem_to_der(data))
    found = certificate_evidence(certificate)
    return Presented(found.evidence, certificate, found)


def _self_signed(certificate: Certificate) -> bool:
    try:
        check_own_signature(certificate)
    except EvidenceError:
        return False
    return True


def _shown_at(address: re.Match[str]) -> bytes:
    host = address[1].removeprefix("[").removesuffix("]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, int(address[2])), CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert(True)
    except (OSError, ValueError, OverflowError) as error:
        detail = f"{address[0]}: {getattr(error, 'strerror', None) or error}"
        raise EvidenceError(Code.EVIDENCE_UNREADABLE, detail) from error
    if shown is None:
        detail = f"{address[0]}: no certificate was shown"
        raise EvidenceError(Code.EVIDENCE_UNREADABLE, detail)
    return shown


def read_evidence(name: str) -> bytes:
    """Read evidence from a file or, for ``-``, from stdin, at most its longest form.

    Raises:
        EvidenceError: ``evidence_unreadable`` or ``evidence_too_large``.
    """
    try:
        if name == STDIN:
            return _bounded(sys.stdin.buffer, "stdin")
        with Path(name).open("rb") as file:
            return _bounded(file, name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"{name}: {reason}"
        raise EvidenceError(Code.EVIDENCE_UNREADABLE, message) from error


def _bounded(file: BinaryIO, name: str) -> bytes:
    data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        message = f"{name}: more than {MAX_TEXT_BYTES} bytes"
        raise EvidenceError(Code.EVIDENCE_TOO_LARGE, message)
    return data

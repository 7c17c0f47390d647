# SPDX-License-Identifier: Apache-2.0
"""Quotes from their parts: v3 (SGX), v4 and v5 (TDX), whole or spoiled on purpose.

Intel TDX DCAP Quoting Library API, appendix "Quote format"; Intel SGX ECDSA
QuoteLibReference API, appendix A.4.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from tightseal_sim.intel.signing import raw_public_key, raw_signature
from tightseal_sim.intel.structures import ReportBody

__all__ = [
    "INTEL_QE_VENDOR",
    "QUOTE_FORMS",
    "QuoteForm",
    "QuoteHeader",
    "QuoteParts",
    "TdBody",
    "assemble",
]

INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

TEE_SGX: Final = 0
TEE_TDX: Final = 0x81
ECDSA_P256: Final = 2
PCK_CHAIN: Final = 5
QE_REPORT_CERTIFICATION: Final = 6

_HEADER: Final = struct.Struct("<HHIHH16s20s")


class QuoteForm(Enum):
    """Quote version and body type (0 where the version has no descriptor)."""

    V3_SGX = (3, 0)
    V4_TD10 = (4, 0)
    V5_TD10 = (5, 2)
    V5_TD15 = (5, 3)
    V5_TD15EX = (5, 4)

    @property
    def version(self) -> int:
        """Quote version."""
        return self.value[0]

    @property
    def body_type(self) -> int:
        """Body type of the version 5 descriptor; 0 for none."""
        return self.value[1]

    @property
    def body_bytes(self) -> int:
        """Length of the body."""
        return _BODY_BYTES[self]


_BODY_BYTES: Final = {
    QuoteForm.V3_SGX: 384,
    QuoteForm.V4_TD10: 584,
    QuoteForm.V5_TD10: 584,
    QuoteForm.V5_TD15: 648,
    QuoteForm.V5_TD15EX: 885,
}

QUOTE_FORMS: Final = {
    "v4": QuoteForm.V4_TD10,
    "v5": QuoteForm.V5_TD10,
    "v5-td15": QuoteForm.V5_TD15,
    "v5-td15ex": QuoteForm.V5_TD15EX,
}
"""The forms of TDX quotes, by the names of options."""


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The 48 bytes that every quote begins with."""

    version: int
    tee_type: int
    user_data: bytes
    key_type: int = ECDSA_P256
    qe_svn: int = 0
    pce_svn: int = 0
    vendor: bytes = INTEL_QE_VENDOR

    def pack(self) -> bytes:
        """48 bytes."""
        return _HEADER.pack(
            self.version,
            self.key_type,
            self.tee_type,
            self.qe_svn,
            self.pce_svn,
            self.vendor,
            self.user_data,
        )


@dataclass(frozen=True, slots=True)
class TdBody:
    """A TD report body; TD 1.5 and 1.5ex fields are left out of shorter forms."""

    tee_tcb_svn: bytes = bytes(16)
    mr_seam: bytes = bytes(48)
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: int = 0
    xfam: int = 0
    mrtd: bytes = bytes(48)
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48),) * 4
    report_data: bytes = bytes(64)
    tee_tcb_svn2: bytes = bytes(16)
    mr_service_td: bytes = bytes(48)
    vm_id: int = 0
    td_id: bytes = bytes(32)
    device_info: bytes = bytes(48)
    init_cpu_svn: bytes = bytes(16)
    init_fmspc: bytes = bytes(12)

    def pack(self, form: QuoteForm) -> bytes:
        """The body in the given form: 584, 648 or 885 bytes."""
        whole = b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes,
                struct.pack("<QQ", self.td_attributes, self.xfam),
                self.mrtd,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                *self.rtmrs,
                self.report_data,
                self.tee_tcb_svn2,
                self.mr_service_td,
                bytes([self.vm_id]),
                self.td_id,
                self.device_info,
                bytes(48 + 8),  # no service TD at launch
                self.init_cpu_svn,
                self.tee_tcb_svn,
                self.init_fmspc,
                bytes(48 + 8),  # no service TD now
            )
        )
        return whole[: form.body_bytes]


@dataclass(frozen=True, slots=True)
class QuoteParts:
    """Everything that a quote is made of, before any signature.

    Attributes:
        header, body: the signed part.
        body_type: version 5 descriptor; ``None`` for versions 3 and 4.
        attestation_key: signs header and body.
        qe: the quoting enclave's report; its report data is filled in.
        qe_signer: the PCK key.
        chain: PEM of leaf, PCK CA and root.
        auth_data: QE authentication data.
        bound_key: the key that the QE report binds; another than
            ``attestation_key`` makes a defect.
        pck_cert_type: type of the innermost certification data.
        qe_data_tail: second half of the QE report's report data; zero.
    """

    header: QuoteHeader
    body: bytes
    body_type: int | None
    attestation_key: ec.EllipticCurvePrivateKey
    qe: ReportBody
    qe_signer: ec.EllipticCurvePrivateKey
    chain: str
    auth_data: bytes = bytes(range(32))
    bound_key: ec.EllipticCurvePrivateKey | None = None
    pck_cert_type: int = PCK_CHAIN
    qe_data_tail: bytes = bytes(32)


def assemble(parts: QuoteParts) -> bytes:
    """Sign and join the parts."""
    signed = parts.header.pack()
    if parts.body_type is not None:
        signed += struct.pack("<HI", parts.body_type, len(parts.body))
    signed += parts.body
    quote_signature = raw_signature(parts.attestation_key, signed)
    qe = _qe_certification(parts)
    if parts.header.version != QuoteForm.V3_SGX.version:
        qe = _typed(QE_REPORT_CERTIFICATION, qe)
    data = quote_signature + raw_public_key(parts.attestation_key) + qe
    return signed + struct.pack("<I", len(data)) + data


def _qe_certification(parts: QuoteParts) -> bytes:
    bound = parts.bound_key or parts.attestation_key
    digest = hashlib.sha256(raw_public_key(bound) + parts.auth_data).digest()
    report = replace(parts.qe, report_data=digest + parts.qe_data_tail).pack()
    return b"".join(
        (
            report,
            raw_signature(parts.qe_signer, report),
            struct.pack("<H", len(parts.auth_data)),
            parts.auth_data,
            _typed(parts.pck_cert_type, parts.chain.encode() + b"\0"),
        )
    )


def _typed(kind: int, data: bytes) -> bytes:
    return struct.pack("<HI", kind, len(data)) + data

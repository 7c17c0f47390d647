# SPDX-License-Identifier: Apache-2.0
"""The attestation report as firmware writes it (AMD 56860, ATTESTATION_REPORT)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

__all__ = ["ReportFields", "encode_body", "sign_body"]

_BODY_BYTES: Final = 0x2A0
_REPORT_BYTES: Final = 0x4A0
_SCALAR_BYTES: Final = 72
_CPUID_VERSION: Final = 3
_MITIGATION_VERSION: Final = 5


@dataclass(frozen=True, slots=True)
class ReportFields:
    """Every field of a report, in report order."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int]
    chip_id: bytes
    committed_tcb: bytes
    firmware: tuple[int, int, int]
    launch_tcb: bytes
    mitigations: int


def encode_body(fields: ReportFields) -> bytes:
    """The 672 bytes that the signature covers."""
    body = bytearray(_BODY_BYTES)
    struct.pack_into(
        "<IIQ16s16sII8sQII",
        body,
        0,
        fields.version,
        fields.guest_svn,
        fields.policy,
        fields.family_id,
        fields.image_id,
        fields.vmpl,
        fields.signature_algorithm,
        fields.current_tcb,
        fields.platform_info,
        fields.key_info,
        0,
    )
    struct.pack_into(
        "64s48s32s48s48s32s32s8s",
        body,
        0x50,
        fields.report_data,
        fields.measurement,
        fields.host_data,
        fields.id_key_digest,
        fields.author_key_digest,
        fields.report_id,
        fields.report_id_ma,
        fields.reported_tcb,
    )
    if fields.version >= _CPUID_VERSION:
        body[0x188:0x18B] = bytes(fields.cpuid)
    body[0x1A0:0x1E0] = fields.chip_id.ljust(64, b"\0")
    body[0x1E0:0x1E8] = fields.committed_tcb
    body[0x1E8:0x1EB] = body[0x1EC:0x1EF] = bytes(reversed(fields.firmware))
    body[0x1F0:0x1F8] = fields.launch_tcb
    if fields.version >= _MITIGATION_VERSION:
        struct.pack_into("<QQ", body, 0x1F8, fields.mitigations, fields.mitigations)
    return bytes(body)


def sign_body(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The whole report, 1184 bytes: body and signature, r and s little-endian."""
    signature = key.sign(body, ec.ECDSA(SHA384(), deterministic_signing=True))
    r, s = decode_dss_signature(signature)
    scalars = b"".join(x.to_bytes(_SCALAR_BYTES, "little") for x in (r, s))
    return (body + scalars).ljust(_REPORT_BYTES, b"\0")

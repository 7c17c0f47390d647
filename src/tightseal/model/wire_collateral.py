# SPDX-License-Identifier: Apache-2.0
"""Stapled collateral in the HTTP API's JSON.

Intel's has the fields of dcap-qvl's ``QuoteCollateralV3`` (CRLs and signatures in
lower-case hex) and the tag ``kind``; AMD's holds DER certificates in base64url.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

import msgspec

from tightseal.errors import Code, RequestError
from tightseal.model.base64url import (
    base64url_chars,
    decode_base64url,
    encode_base64url,
)
from tightseal.model.collateral import IntelCollateral, SnpCertificates

__all__ = ["IntelCollateralJson", "SnpCertificatesJson", "StapledJson"]

MAX_TEXT_CHARS: Final = 128 * 1024
"""Longest certificate chain, TCB info or QE identity."""

MAX_CRL_BYTES: Final = 256 * 1024
MAX_CERTIFICATE_BYTES: Final = 8 * 1024
SIGNATURE_HEX_CHARS: Final = 128

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
_CrlHex = Annotated[str, msgspec.Meta(max_length=2 * MAX_CRL_BYTES)]
_SignatureHex = Annotated[str, msgspec.Meta(max_length=SIGNATURE_HEX_CHARS)]
_CertificateText = Annotated[
    str, msgspec.Meta(max_length=base64url_chars(MAX_CERTIFICATE_BYTES))
]
_CrlText = Annotated[str, msgspec.Meta(max_length=base64url_chars(MAX_CRL_BYTES))]


class IntelCollateralJson(
    msgspec.Struct, frozen=True, tag_field="kind", tag="intel", omit_defaults=True
):
    """``IntelCollateral`` on the wire."""

    pck_crl_issuer_chain: _Text
    root_ca_crl: _CrlHex
    pck_crl: _CrlHex
    tcb_info_issuer_chain: _Text
    tcb_info: _Text
    tcb_info_signature: _SignatureHex
    qe_identity_issuer_chain: _Text
    qe_identity: _Text
    qe_identity_signature: _SignatureHex
    pck_certificate_chain: _Text | None = None

    @classmethod
    def of(cls, collateral: IntelCollateral) -> IntelCollateralJson:
        """Encode collateral."""
        return cls(
            pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
            root_ca_crl=collateral.root_ca_crl.hex(),
            pck_crl=collateral.pck_crl.hex(),
            tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
            tcb_info=collateral.tcb_info,
            tcb_info_signature=collateral.tcb_info_signature.hex(),
            qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
            qe_identity=collateral.qe_identity,
            qe_identity_signature=collateral.qe_identity_signature.hex(),
            pck_certificate_chain=collateral.pck_certificate_chain,
        )

    def parsed(self) -> IntelCollateral:
        """Decode the hex fields; raises ``request_malformed``. Verifies nothing."""
        return IntelCollateral(
            pck_crl_issuer_chain=self.pck_crl_issuer_chain,
            root_ca_crl=_hex(self.root_ca_crl, "root_ca_crl"),
            pck_crl=_hex(self.pck_crl, "pck_crl"),
            tcb_info_issuer_chain=self.tcb_info_issuer_chain,
            tcb_info=self.tcb_info,
            tcb_info_signature=_hex(self.tcb_info_signature, "tcb_info_signature"),
            qe_identity_issuer_chain=self.qe_identity_issuer_chain,
            qe_identity=self.qe_identity,
            qe_identity_signature=_hex(
                self.qe_identity_signature, "qe_identity_signature"
            ),
            pck_certificate_chain=self.pck_certificate_chain,
        )


class SnpCertificatesJson(
    msgspec.Struct, frozen=True, tag_field="kind", tag="snp", omit_defaults=True
):
    """``SnpCertificates`` on the wire."""

    signer: _CertificateText
    intermediate: _CertificateText
    root: _CertificateText | None = None
    crl: _CrlText | None = None

    @classmethod
    def of(cls, certificates: SnpCertificates) -> SnpCertificatesJson:
        """Encode certificates."""
        root, crl = certificates.root, certificates.crl
        return cls(
            signer=encode_base64url(certificates.signer),
            intermediate=encode_base64url(certificates.intermediate),
            root=None if root is None else encode_base64url(root),
            crl=None if crl is None else encode_base64url(crl),
        )

    def parsed(self) -> SnpCertificates:
        """Decode the certificates; raises ``request_malformed``. Verifies nothing."""
        return SnpCertificates(
            signer=_certificate(self.signer, "signer"),
            intermediate=_certificate(self.intermediate, "intermediate"),
            root=None if self.root is None else _certificate(self.root, "root"),
            crl=None
            if self.crl is None
            else decode_base64url(
                self.crl, field="crl", min_bytes=1, max_bytes=MAX_CRL_BYTES
            ),
        )


def _certificate(text: str, field: str) -> bytes:
    return decode_base64url(
        text, field=field, min_bytes=1, max_bytes=MAX_CERTIFICATE_BYTES
    )


def _hex(text: str, field: str) -> bytes:
    """Lower-case hex: one text for each value."""
    if _HEX.fullmatch(text) is None:
        detail = f"{field}: not lower-case hex"
        raise RequestError(Code.REQUEST_MALFORMED, detail)
    return bytes.fromhex(text)


StapledJson: TypeAlias = IntelCollateralJson | SnpCertificatesJson
"""Collateral that a provider sends along; the tag ``kind`` says which."""

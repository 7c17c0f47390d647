# SPDX-License-Identifier: Apache-2.0
"""The provider's own TLS key: made in the TEE, proven by the certificate it stands in.

All workers of one provider derive it from the seed that they share, so that any of them
takes a connection; a restart draws another seed. The certificate carries a quote over
the key's hash in the CCC's form. A quote ages, so the certificate is made anew each
epoch of the attested key; the key stays, or a connection that lives over the end of an
epoch would no longer be the one that a new challenge names.

The certificate proves the provider's image and platform. Its keyring, its policy and
its settings are proven by the challenge: the CCC's claims have no place for them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tightseal.model.canonical import labelled
from tightseal.model.claims import Tee
from tightseal.model.labels import Label
from tightseal.model.ports import RootPlatform
from tightseal.model.secret import Secret
from tightseal.model.tagged_evidence import (
    EVIDENCE_OID,
    claims_buffer_of,
    encode_tagged,
    report_data_of,
)

__all__ = ["TlsKey"]

COMMON_NAME: Final = "Tightseal provider"
SKEW_SECONDS: Final = 300
"""How long before it was made a certificate is valid: clients' clocks are behind."""

_QUOTED: Final = frozenset({Tee.SGX.value, Tee.TDX.value})
"""TEEs whose evidence the CCC's form has a tag for."""

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (SEC 2, section 2.4.2)."""

_SCALAR_BYTES: Final = 48
"""128 bits more than the order has: the bias of the remainder is below 2^-128."""


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A P-256 key that is never written anywhere, and what proves it.

    Attributes:
        spki: SubjectPublicKeyInfo, DER.
    """

    spki: bytes
    _private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def derived(cls, seed: Secret) -> TlsKey:
        """The key of a provider, from the 32 bytes that its workers share."""
        raw = HKDF(
            algorithm=hashes.SHA256(),
            length=_SCALAR_BYTES,
            salt=None,
            info=labelled(Label.KDF_TLS_KEY, None),
        ).derive(seed.reveal())
        scalar = int.from_bytes(raw, "big") % (_ORDER - 1) + 1
        private_key = ec.derive_private_key(scalar, ec.SECP256R1())
        spki = private_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return cls(spki, private_key)

    @property
    def key_hash(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo, 32 bytes."""
        return hashlib.sha256(self.spki).digest()

    def private_pem(self) -> bytes:
        """The private key as PEM, for a TLS library; as secret as the key."""
        return self._private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def certificate(
        self, *, platform: RootPlatform | None, now: int, not_after: int
    ) -> bytes:
        """A self-signed certificate, PEM, with this platform's evidence of the key.

        The CCC has no form for SNP reports, so an SNP guest's certificate has none.

        Args:
            platform: makes the evidence; ``None`` for a certificate without.
            now: Unix seconds.
            not_after: Unix seconds.

        Raises:
            PlatformError: the platform gave no quote.
        """
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._private_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(now - SKEW_SECONDS, UTC))
            .not_valid_after(datetime.fromtimestamp(not_after, UTC))
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
        )
        if platform is not None and platform.own_measurement()[0] in _QUOTED:
            builder = builder.add_extension(self._evidence(platform), critical=False)
        made = builder.sign(self._private_key, hashes.SHA256())
        return made.public_bytes(Encoding.PEM)

    def _evidence(self, platform: RootPlatform) -> x509.UnrecognizedExtension:
        buffer = claims_buffer_of(self.spki)
        quote = platform.evidence(report_data_of(buffer))
        return x509.UnrecognizedExtension(
            x509.ObjectIdentifier(EVIDENCE_OID), encode_tagged(quote, buffer)
        )

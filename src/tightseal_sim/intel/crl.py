# SPDX-License-Identifier: Apache-2.0
"""CRLs, written by hand, since a defective one must lack what builders insist on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tightseal_sim.intel import der
from tightseal_sim.intel.pki import Authority, authority_key_id

__all__ = ["Crl"]

_ECDSA_SHA256: Final = "1.2.840.10045.4.3.2"


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL as its issuer fills it in; ``None`` leaves a field out (a defect).

    Attributes:
        issuer: the CA.
        number: CRLNumber.
        this_update, next_update: Unix seconds.
        revoked: serial numbers.
        authority_key_id: whether the extension is there.
    """

    issuer: Authority
    number: int | None
    this_update: int
    next_update: int | None
    revoked: tuple[int, ...] = ()
    authority_key_id: bool = True

    def encode(self) -> bytes:
        """DER, signed by the issuer (RFC 5280 section 5.1)."""
        algorithm = der.sequence(der.oid(_ECDSA_SHA256))
        fields = [
            der.integer(1),
            algorithm,
            self.issuer.certificate.subject.public_bytes(),
            der.utc_time(self.this_update),
        ]
        if self.next_update is not None:
            fields.append(der.utc_time(self.next_update))
        if self.revoked:
            when = der.utc_time(self.this_update)
            entries = [der.sequence(der.integer(s), when) for s in self.revoked]
            fields.append(der.sequence(*entries))
        if extensions := self._extensions():
            fields.append(der.explicit(0, der.sequence(*extensions)))
        body = der.sequence(*fields)
        algorithm_key = ec.ECDSA(SHA256(), deterministic_signing=True)
        signature = self.issuer.key.sign(body, algorithm_key)
        return der.sequence(body, algorithm, der.bit_string(signature))

    def _extensions(self) -> list[bytes]:
        found: list[x509.ExtensionType] = []
        if self.number is not None:
            found.append(x509.CRLNumber(self.number))
        if self.authority_key_id:
            # Of the certificate: who signs in another's name copies the identifier.
            key = self.issuer.certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            found.append(authority_key_id(key))
        return [
            der.sequence(
                der.oid(e.oid.dotted_string), der.octet_string(e.public_bytes())
            )
            for e in found
        ]

# SPDX-License-Identifier: Apache-2.0
"""A client of CCC interoperable RA-TLS, from its text alone, without Tightseal's code.

X.509: extension 2.23.133.5.4.9 holds tagged CBOR. SGX and TDX: tag 60000 over an array
of the quote and the serialised claims; SHA-256 of the claims is the user data of the
quote; the claim ``pubkey-hash`` is a serialised pair of an algorithm's number and the
hash of the SubjectPublicKeyInfo. The quote is judged by dcap-qvl.
"""

import hashlib
import socket
import ssl
from typing import Any

import cbor2
import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

EVIDENCE = x509.ObjectIdentifier("2.23.133.5.4.9")
INTEL_QUOTE = 60000
HASHES = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}

# sgx_quote3_t: a header of 48 bytes, then the report body of 384.
MRENCLAVE = slice(48 + 64, 48 + 96)
USER_DATA = slice(48 + 320, 48 + 384)


class Refused(Exception):  # noqa: N818
    """The peer is not attested."""


def connect(
    port: int,
    *,
    mrenclave: bytes,
    collateral: dcap_qvl.QuoteCollateralV3,
    root: bytes,
    now: int,
) -> ssl.SSLSocket:
    """A connection to an attested enclave; nothing was sent yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10))
    shown = tls.getpeercert(True)
    assert shown is not None
    try:
        check(shown, mrenclave=mrenclave, collateral=collateral, root=root, now=now)
    except BaseException:
        tls.close()
        raise
    return tls


def check(
    shown: bytes,
    *,
    mrenclave: bytes,
    collateral: dcap_qvl.QuoteCollateralV3,
    root: bytes,
    now: int,
) -> None:
    certificate = x509.load_der_x509_certificate(shown)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Refused("not an elliptic curve key")
    algorithm = certificate.signature_hash_algorithm
    assert algorithm is not None
    key.verify(
        certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm)
    )
    extension = certificate.extensions.get_extension_for_oid(EVIDENCE)
    value = extension.value
    if extension.critical or not isinstance(value, x509.UnrecognizedExtension):
        raise Refused("the extension is critical")
    quote, claims = _tagged(value.value)
    if quote[USER_DATA] != hashlib.sha256(claims).digest() + bytes(32):
        raise Refused("the quote is not about these claims")
    number, digest = cbor2.loads(cbor2.loads(claims)["pubkey-hash"])
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if HASHES[number](spki).digest() != digest:
        raise Refused("the claims are not about this key")
    dcap_qvl.verify_with_root_ca(quote, collateral, root, now)
    if quote[MRENCLAVE] != mrenclave:
        raise Refused("another enclave")


def _tagged(content: bytes) -> tuple[bytes, bytes]:
    item: Any = cbor2.loads(content)
    if not isinstance(item, cbor2.CBORTag) or item.tag != INTEL_QUOTE:
        raise Refused("not the tag of an Intel quote")
    quote, claims = item.value
    return quote, claims

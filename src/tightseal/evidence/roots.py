# SPDX-License-Identifier: Apache-2.0
"""The vendors' root public keys, and simulated roots that are switched on by name.

The keys are facts, shipped with their provenance; a certificate that comes with
evidence or collateral is compared with them and never trusted for itself.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import NameOID

from tightseal.errors import Code, SettingsError
from tightseal.model.claims import TrustDomain, Vendor
from tightseal.model.roots import TrustedRoot, TrustedRoots

__all__ = [
    "VENDOR_KEYS",
    "VENDOR_ROOTS",
    "VendorKey",
    "root_key_id",
    "simulated_root",
    "with_simulated",
]

MAX_ROOT_CERTIFICATE_BYTES: Final = 1 << 14
"""Longest simulated root certificate that is read, PEM or DER."""

AMD_PRODUCTS: Final = ("Milan", "Genoa", "Turin")
"""The product lines whose report layouts are known."""


@dataclass(frozen=True, slots=True)
class VendorKey:
    """A vendor's root public key as a fact.

    Attributes:
        vendor: Intel or AMD.
        product: AMD product line, empty for Intel.
        subject: subject of the certificate that the vendor publishes, RFC 4514.
        source: where the vendor publishes that certificate.
        certificate_sha256: digest of the published certificate, DER.
        spki_sha256: digest of the SubjectPublicKeyInfo, DER.
        spki: the key itself, DER.
    """

    vendor: Vendor
    product: str
    subject: str
    source: str
    certificate_sha256: str
    spki_sha256: str
    spki: bytes


def _der(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)


_INTEL_SPKI: Final = """
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBV
    JfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlA==
"""

_MILAN_SPKI: Final = """
    MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEA0Ld52RJOdeiJlqK2JdsVmD7FktuotWwX
    1fNgW41XY9Xz1HEhSUmhLz9Cu9DHRlvgJSNxbeYYsnJfvyjx1MfU0V5tkKiU1EesNFta1kTA0szN
    isdYc9isqk7mXT5+KfGRbfc4V/9zRIcE8jlHN61S1ju8X93+6dxDUrG2SzxqJ4BhqyYmUDruPXJS
    X4vUc01P7j98MpqOS95rORdGHeI52Naz5m2B+O+vjsC060d37jY9LFeuOP4Meri8qgfi2S5kKqg/
    aF6aPtuAZQVR7u3KFYXP59XmJgtcog05gmI0T/OitLhuzVvpZcLph0odh/1IPXqx3+MnjD97A7fX
    pqGd/y8KxX7jksTEzAOgbKAeam3lm+3yKIcTYMlsRMXPcjNbIvmsBykD//xSniusuHBkgnlENEWx
    1UcbQQrs+gVDkuVPhsnzIRNgYvM48Y+7LGiJYnrmE8xcrexekBxrva2V9TJQqnN3Q53kt5viQi3+
    gCfmkwC0F0tirIZbLkXPrPwzZ0M9eNxhIySb2npJfgnqz55I0u33wh4r0ZNQeTGfw03MBUtyuzGe
    sGkcw+loqMaq1qR4tjGbPYxCvpCq7+OgpCCoMNit2uLo9M18fHz10lOMT8nWAUvRZFzteXCm+7PH
    dYPlmQwUw3LvenJ/ILXoQPHfbkH0CyPfhl1jWhJFZasCAwEAAQ==
"""

_GENOA_SPKI: Final = """
    MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEA3Cd95S/uFOuRIskW9vz9VDBF69NDQF79
    oRhL/L2PVQGhK3YdfEBgpF/JiwWFBsT/fXDhzA01p3LkcT/7LdjcRfKXjHl+0Qq/M4dZkh6QDoUe
    KzNBLDcBKDDGWo3v35NyrxbA1DnkYwUKU5AAk4P94tKXLp80oxt84ahyHoLmc/LqsGsp+oq1Bz4P
    PsYLwTG4iMKVaaT90/oZ4I8oibSru92vJhlqWO27d/Rxc3iUMyhNeGToOvgx/iUo4gGpG61NDpkE
    UvIzuKcaMx8IdTpWg2DF6SwF0IgVMffnvtJmA68BwJNWo1E4PLJdaPfBifcJpuBFwNVQIPQEVX3a
    P89HJSp8YbY9lySS6PlVEqTBBtaQmi4ATGmMR+n2K/e+JAhU2Gj7jIpJhOkdH9firQDnmlA2SFfJ
    /Cc0mGNzW9RmIhyOUnNFoclmkRhl3/AQU5Ys9Qsan1jT/EiyT+pCpmnA+y9edvhDCbOG8F2oxHGR
    dTBkylungrkXJGYiwGrR8kaiqv7NN8QhOBMqYjcbrkEr0f8QMKklIS5ruOfqlLMCBw8JLB3LkjpW
    gtD7OpxkzSsohN47Uom86RY6lp72g8eXHP1qYrnvhzaG1S70vw6OkbaaC9EjiH/uHgAJQGxon7u0
    Q7xgoREWA/e7JcBQwLg80Hq/sbRuqesxz7wBWSY254cCAwEAAQ==
"""

_TURIN_SPKI: Final = """
    MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAwaAriB7EIuVc4ZB1wD3YfDxL+9eyS7+i
    zm0Jj3W772NINCWl8Bj3w/JD2ZjmbRxWdIq/4d9iarCKorXloJUB1jRdgxqccTx1aOoig4+2w1Xh
    VVJT7K457wT5ZLNJgQaxqa9Etkwjd6+9sOhlCDE9l43kQ0R2BikVJa/uyyVOSwEk5w5tXKOuG9jv
    q6QtAMJasW38wlqRDaKEGtZ9VUgGon27ZuL4sTJuC/azz9/iQBw8kEilzOl95AiTkeY5jSEBDWbA
    qnZk5qlM7kISKG20kgQm14mhNKDI2p2oua+zuAG7i52epoRF2GfU0TYk/yf+vCNB2tnechFQuP2e
    8bLk95ZdqPi9/UWw4JXjtdEA4u2JYplSSUPQVAXKt6LVqujtJcM59JKr2u0XQ75KwxcMp15gSXhB
    fInvPAwuAY4dEwwGqT8oIg4esPHwEsmChhYeDIxPG9R4fx9O0q6p8Gb+HXlTiS47P9YNeOpidOUK
    zDl/S1OvyhDtSL8LJc24QATFydo/iD/KUdvFTRlD0crkAMkZLoWQ8hLDGc6BZJXsdd7Zf2e4UW3t
    I/1oh/2t23Ot3zyhTcv5gDbABu0LjVe98uRnS15SMwK//lJt9e5BqKvgABkSoABf+B4VFtPVEX0y
    grYaFaI9i5ABrxnVBmzXpRb21iI1NlNCfOGUPIhVpWECAwEAAQ==
"""

VENDOR_KEYS: Final = (
    VendorKey(
        vendor=Vendor.INTEL,
        product="",
        subject=("C=US,ST=CA,L=Santa Clara,O=Intel Corporation,CN=Intel SGX Root CA"),
        source=(
            "https://certificates.trustedservices.intel.com/"
            "Intel_SGX_Provisioning_Certification_RootCA.cer"
        ),
        certificate_sha256=(
            "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
        ),
        spki_sha256="a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e",
        spki=_der(_INTEL_SPKI),
    ),
    VendorKey(
        vendor=Vendor.AMD,
        product="Milan",
        subject=(
            "CN=ARK-Milan,O=Advanced Micro Devices,ST=CA,L=Santa Clara,"
            "C=US,OU=Engineering"
        ),
        source="https://kdsintf.amd.com/vcek/v1/Milan/cert_chain",
        certificate_sha256=(
            "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"
        ),
        spki_sha256="9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
        spki=_der(_MILAN_SPKI),
    ),
    VendorKey(
        vendor=Vendor.AMD,
        product="Genoa",
        subject=(
            "CN=ARK-Genoa,O=Advanced Micro Devices,ST=CA,L=Santa Clara,"
            "C=US,OU=Engineering"
        ),
        source="https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain",
        certificate_sha256=(
            "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"
        ),
        spki_sha256="429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
        spki=_der(_GENOA_SPKI),
    ),
    VendorKey(
        vendor=Vendor.AMD,
        product="Turin",
        subject=(
            "CN=ARK-Turin,O=Advanced Micro Devices,ST=CA,L=Santa Clara,"
            "C=US,OU=Engineering"
        ),
        source="https://kdsintf.amd.com/vcek/v1/Turin/cert_chain",
        certificate_sha256=(
            "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
        ),
        spki_sha256="4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
        spki=_der(_TURIN_SPKI),
    ),
)
"""Every vendor root key with its provenance."""


def _load_key(spki: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """Load a root key of the two kinds that vendors use."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise SettingsError(Code.SETTINGS_INVALID, "root key: not readable") from e
    if isinstance(key, rsa.RSAPublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1
    ):
        return key
    raise SettingsError(Code.SETTINGS_INVALID, "root key: neither RSA nor EC P-256")


@lru_cache(maxsize=64)
def root_key_id(spki_der: bytes) -> str:
    """Name a root key: hex SHA-384 over the content of its SPKI's BIT STRING.

    Other verifiers of Intel evidence print the same id.

    Raises:
        SettingsError: ``settings_invalid``, where the key is neither RSA nor EC P-256.
    """
    key = _load_key(spki_der)
    if isinstance(key, rsa.RSAPublicKey):
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha384(bits).hexdigest()


def _vendor_root(key: VendorKey) -> TrustedRoot:
    name = "Intel SGX Root CA" if not key.product else f"ARK-{key.product}"
    domain = TrustDomain(key.vendor, root_key_id(key.spki))
    return TrustedRoot(domain, name, key.spki, key.product)


VENDOR_ROOTS: Final = TrustedRoots(
    intel=tuple(_vendor_root(k) for k in VENDOR_KEYS if k.vendor is Vendor.INTEL),
    amd=tuple(_vendor_root(k) for k in VENDOR_KEYS if k.vendor is Vendor.AMD),
)
"""The roots that are always switched on."""

_VENDOR_KEY_IDS: Final = frozenset(root_key_id(k.spki) for k in VENDOR_KEYS)


def simulated_root(certificate: bytes) -> TrustedRoots:
    """Open the trust domain of a simulated world.

    Args:
        certificate: the world's self-signed root, DER or PEM. EC P-256 stands for
            Intel's root; RSA for AMD's, with the product in its name ``ARK-<Product>``.

    Returns:
        the one root, under ``intel`` or ``amd``.

    Raises:
        SettingsError: ``settings_invalid``, where it is no such certificate, is not
            self-signed, or carries a vendor's key.
    """
    parsed = _load_certificate(certificate)
    spki = parsed.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    key_id = root_key_id(spki)
    if key_id in _VENDOR_KEY_IDS:
        raise SettingsError(
            Code.SETTINGS_INVALID, "simulated root: this is a vendor's key"
        )
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise SettingsError(Code.SETTINGS_INVALID, "simulated root: no common name")
    name = str(names[0].value)
    root = TrustedRoot(
        TrustDomain(Vendor.SIMULATED, key_id),
        name,
        spki,
        certificate=parsed.public_bytes(Encoding.DER),
    )
    if isinstance(_load_key(spki), ec.EllipticCurvePublicKey):
        return TrustedRoots(intel=(root,))
    product = name.removeprefix("ARK-")
    if not name.startswith("ARK-") or product not in AMD_PRODUCTS:
        known = ", ".join(f"ARK-{p}" for p in AMD_PRODUCTS)
        detail = f"simulated AMD root: got name {name!r}, expected one of {known}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return TrustedRoots(amd=(replace(root, product=product),))


def with_simulated(roots: TrustedRoots, certificate: bytes) -> TrustedRoots:
    """Add a simulated root to the roots that are switched on.

    Adding the same key again changes nothing.

    Raises:
        SettingsError: ``settings_invalid``, as in ``simulated_root``.
    """
    added = simulated_root(certificate)
    return TrustedRoots(
        intel=_union(roots.intel, added.intel), amd=_union(roots.amd, added.amd)
    )


def _union(
    have: tuple[TrustedRoot, ...], new: tuple[TrustedRoot, ...]
) -> tuple[TrustedRoot, ...]:
    known = {r.spki for r in have}
    return have + tuple(r for r in new if r.spki not in known)


def _load_certificate(data: bytes) -> x509.Certificate:
    """Read one self-signed certificate, PEM or DER, and check its own signature."""
    if len(data) > MAX_ROOT_CERTIFICATE_BYTES:
        raise SettingsError(Code.SETTINGS_INVALID, "simulated root: too large")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            certificates = x509.load_pem_x509_certificates(data)
        else:
            certificates = [x509.load_der_x509_certificate(data)]
        if len(certificates) != 1:
            raise SettingsError(
                Code.SETTINGS_INVALID, "simulated root: expected one certificate"
            )
        certificates[0].verify_directly_issued_by(certificates[0])
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as e:
        detail = f"simulated root: not a self-signed certificate ({type(e).__name__})"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    return certificates[0]

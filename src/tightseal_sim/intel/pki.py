# SPDX-License-Identifier: Apache-2.0
"""Certificates with Intel's names and extensions, under a root of our own.

Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tightseal_sim.intel import der

__all__ = [
    "COMPONENTS",
    "PCK_CA_NAMES",
    "PCK_LEAF_NAME",
    "ROOT_NAME",
    "SGX_EXTENSION",
    "TCB_SIGNING_NAME",
    "Authority",
    "CertificateRequest",
    "ConfigurationFlags",
    "PckFields",
    "PlatformTcb",
    "authority_key_id",
    "issue",
    "pem_chain",
    "self_signed",
    "x509_name",
]

ROOT_NAME: Final = "Intel SGX Root CA"
TCB_SIGNING_NAME: Final = "Intel SGX TCB Signing"
PCK_LEAF_NAME: Final = "Intel SGX PCK Certificate"
PCK_CA_NAMES: Final = {
    "platform": "Intel SGX PCK Platform CA",
    "processor": "Intel SGX PCK Processor CA",
}
SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"

COMPONENTS: Final = 16
"""TCB components of a platform."""

NOT_BEFORE: Final = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER: Final = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)

_CRL_URL: Final = "https://collateral.invalid/sgx/rootcacrl"


@dataclass(frozen=True, slots=True)
class PlatformTcb:
    """Security versions of a platform, as in its PCK certificate.

    Attributes:
        components: 16 component SVNs.
        pcesvn: SVN of the provisioning certification enclave.
    """

    components: tuple[int, ...]
    pcesvn: int

    @property
    def cpusvn(self) -> bytes:
        """CPUSVN, 16 bytes; here the components themselves."""
        return bytes(self.components)


@dataclass(frozen=True, slots=True)
class ConfigurationFlags:
    """The configuration sequence of the platform CA's certificates."""

    dynamic_platform: bool = False
    cached_keys: bool = False
    smt_enabled: bool = False


@dataclass(frozen=True, slots=True)
class PckFields:
    """What the SGX extension of a PCK certificate says.

    Attributes:
        ppid: 16 bytes.
        tcb: security versions.
        pceid: 2 bytes.
        fmspc: 6 bytes.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
        piid: platform instance id, 16 bytes; platform CA only.
        flags: platform CA only.
    """

    ppid: bytes
    tcb: PlatformTcb
    pceid: bytes
    fmspc: bytes
    sgx_type: int
    piid: bytes | None = None
    flags: ConfigurationFlags | None = None

    def extension(self) -> bytes:
        """DER of the extension's value."""
        tcb = [
            _item(f"2.{i}", der.integer(svn))
            for i, svn in enumerate(self.tcb.components, start=1)
        ]
        tcb.append(_item("2.17", der.integer(self.tcb.pcesvn)))
        tcb.append(_item("2.18", der.octet_string(self.tcb.cpusvn)))
        items = [
            _item("1", der.octet_string(self.ppid)),
            _item("2", der.sequence(*tcb)),
            _item("3", der.octet_string(self.pceid)),
            _item("4", der.octet_string(self.fmspc)),
            _item("5", der.enumerated(self.sgx_type)),
        ]
        if self.piid is not None:
            items.append(_item("6", der.octet_string(self.piid)))
        if self.flags is not None:
            flags = (
                self.flags.dynamic_platform,
                self.flags.cached_keys,
                self.flags.smt_enabled,
            )
            values = [
                _item(f"7.{i}", der.boolean(v)) for i, v in enumerate(flags, start=1)
            ]
            items.append(_item("7", der.sequence(*values)))
        return der.sequence(*items)


def _item(suffix: str, value: bytes) -> bytes:
    return der.sequence(der.oid(f"{SGX_EXTENSION}.{suffix}"), value)


@dataclass(frozen=True, slots=True)
class Authority:
    """A key with its certificate: whatever can sign certificates, CRLs or JSON."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate, DER."""
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What to certify.

    Attributes:
        common_name: the rest of the name is Intel's.
        key: the subject's key.
        serial: positive.
        path_length: for a CA; ``None`` makes a leaf.
        pck: SGX extension, for PCK leaves.
        not_before, not_after: validity.
    """

    common_name: str
    key: ec.EllipticCurvePrivateKey
    serial: int
    path_length: int | None = None
    pck: PckFields | None = None
    not_before: datetime = NOT_BEFORE
    not_after: datetime = NOT_AFTER


def x509_name(common_name: str) -> x509.Name:
    """A name in Intel's form and order."""
    parts = (
        (NameOID.COMMON_NAME, common_name),
        (NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def self_signed(request: CertificateRequest) -> Authority:
    """A root."""
    certificate = _build(request, x509_name(request.common_name), request.key)
    return Authority(request.key, certificate)


def issue(issuer: Authority, request: CertificateRequest) -> Authority:
    """A certificate signed by ``issuer``; with the subject's key beside it."""
    certificate = _build(request, issuer.certificate.subject, issuer.key)
    return Authority(request.key, certificate)


def _build(
    request: CertificateRequest, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    is_ca = request.path_length is not None
    point = x509.UniformResourceIdentifier(_CRL_URL)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509_name(request.common_name))
        .issuer_name(issuer)
        .public_key(request.key.public_key())
        .serial_number(request.serial)
        .not_valid_before(request.not_before)
        .not_valid_after(request.not_after)
        .add_extension(authority_key_id(signer.public_key()), critical=False)
        .add_extension(
            x509.CRLDistributionPoints(
                [x509.DistributionPoint([point], None, None, None)]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(request.key.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(
            x509.BasicConstraints(ca=is_ca, path_length=request.path_length),
            critical=True,
        )
    )
    if request.pck is not None:
        extension = x509.UnrecognizedExtension(
            x509.ObjectIdentifier(SGX_EXTENSION), request.pck.extension()
        )
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, SHA256(), ecdsa_deterministic=True)


def authority_key_id(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    """The extension that names an issuer by its key."""
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def pem_chain(certificates: Iterable[Authority]) -> str:
    """The certificates as one PEM text, in the order given."""
    return "".join(
        a.certificate.public_bytes(Encoding.PEM).decode() for a in certificates
    )

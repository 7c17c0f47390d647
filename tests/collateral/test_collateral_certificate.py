# SPDX-License-Identifier: Apache-2.0
"""The outline of certificates, read alike for Intel's, AMD's and serial number 0."""

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from collateral_support import Recorded
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tightseal.collateral import wire
from tightseal.collateral.certificate import (
    Certificate,
    issued_by,
    parse_certificate,
    public_key,
)
from tightseal.collateral.kds import chain_name, signer_name
from tightseal.collateral.origin import check_origin
from tightseal.collateral.parts import make_part
from tightseal.errors import Code, CollateralError
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.model.claims import SnpTcb

MILAN = "snp-milan-trustee"
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "same")])


@pytest.fixture
def milan(vectors: Path) -> tuple[bytes, bytes, bytes]:
    folder = vectors / "snp" / MILAN
    vcek, ask, ark = (
        (folder / f"{n}.der").read_bytes() for n in ("vcek", "ask", "ark")
    )
    return vcek, ask, ark


def test_a_vcek_of_serial_number_0_is_read_without_a_warning(
    milan: tuple[bytes, bytes, bytes],
) -> None:
    vcek, ask, ark = milan
    pem = "".join(
        x509.load_der_x509_certificate(c).public_bytes(Encoding.PEM).decode()
        for c in (ask, ark)
    )
    name = signer_name(product="Milan", chip_id=b"\1" * 64, tcb=SnpTcb(3, 0, 8, 115))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wire.certificate_der(vcek) == vcek
        signer = make_part(name, vcek, chain=pem)
        chain = make_part(chain_name("Milan", vlek=False), pem.encode())
        check_origin(chain, VENDOR_ROOTS, chain=None)
        check_origin(signer, VENDOR_ROOTS, chain=chain)
    with pytest.warns(UserWarning, match="serial number"):
        theirs = x509.load_der_x509_certificate(vcek)
    assert theirs.serial_number == 0
    assert signer.issued_at == theirs.not_valid_before_utc.timestamp()
    assert signer.expires_at == theirs.not_valid_after_utc.timestamp()


def agrees(ours: Certificate, der: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = x509.load_der_x509_certificate(der)
    assert ours.issuer == theirs.issuer.public_bytes()
    assert ours.subject == theirs.subject.public_bytes()
    assert ours.not_before == theirs.not_valid_before_utc.timestamp()
    assert ours.not_after == theirs.not_valid_after_utc.timestamp()
    assert ours.algorithm == theirs.signature_algorithm_oid.dotted_string
    assert ours.signed == theirs.tbs_certificate_bytes
    assert ours.signature == theirs.signature
    assert ours.spki == theirs.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def test_the_outline_agrees_with_the_library(
    october: Recorded, milan: tuple[bytes, bytes, bytes]
) -> None:
    intel = wire.certificate_chain(october.collateral_.tcb_info_issuer_chain)
    for der in (*intel, *milan):
        agrees(parse_certificate(der), der)


def test_links_of_both_vendors(
    october: Recorded, milan: tuple[bytes, bytes, bytes]
) -> None:
    found = october.collateral_
    intel = [
        parse_certificate(der)
        for der in wire.certificate_chain(found.tcb_info_issuer_chain)
    ]
    vcek, ask, ark = (parse_certificate(der) for der in milan)
    for chain in (intel, [vcek, ask, ark]):
        assert issued_by(chain[-1], chain[-1])
        assert issued_by(chain[-2], chain[-1])
    assert issued_by(vcek, ask)
    assert not issued_by(vcek, ark)
    assert not issued_by(ask, vcek)
    assert not issued_by(intel[0], ark)


def built(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    algorithm: hashes.SHA256 | hashes.SHA384,
) -> bytes:
    build = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    return build.sign(key, algorithm).public_bytes(Encoding.DER)


def test_only_the_vendors_algorithms_link() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = parse_certificate(built(key, hashes.SHA256()))
    assert issued_by(good, good)
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for weak in (built(key, hashes.SHA384()), built(rsa_key, hashes.SHA384())):
        certificate = parse_certificate(weak)
        assert not issued_by(certificate, certificate)
    stranger = parse_certificate(
        built(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    assert not issued_by(good, stranger)


def test_keys_of_other_kinds_are_none() -> None:
    assert public_key(b"") is None
    assert public_key(b"\x30\x00") is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda der: der[:-1],
        lambda der: der + b"\x00",
        lambda der: der.replace(
            bytes.fromhex("a003020102"), bytes.fromhex("a003020101")
        ),
    ],
    ids=["empty", "cut", "trailing", "version 2"],
)
def test_other_forms_are_refused(
    milan: tuple[bytes, bytes, bytes], spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(CollateralError) as caught:
        parse_certificate(spoil(milan[0]))
    assert caught.value.code is Code.CERTIFICATE_MALFORMED


@given(at=st.integers(0, 4000), flip=st.integers(1, 255), cut=st.integers(0, 4000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_raise_from_the_tree_and_never_link(
    milan: tuple[bytes, bytes, bytes], at: int, flip: int, cut: int
) -> None:
    changed = bytearray(milan[0])
    changed[at % len(changed)] ^= flip
    issuer = parse_certificate(milan[1])
    for data in (bytes(changed), milan[0][: cut % len(milan[0])]):
        try:
            certificate = parse_certificate(data)
        except CollateralError:
            continue
        same = parse_certificate(milan[0])
        assert certificate == same or not issued_by(certificate, issuer)

# SPDX-License-Identifier: Apache-2.0
"""Strict PEM, certificate roles, CRLs, and signatures of raw r and s."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.intel.certs import (
    Certificate,
    Role,
    check_validity,
    decode_chain,
    parse_certificate,
    require_issued_by,
    require_role,
)
from tightseal.evidence.intel.crl import check_crl_time, verify_crl
from tightseal.evidence.intel.pck import parse_pck_extension
from tightseal.evidence.intel.signatures import P256_ORDER, public_key, verifies_raw
from tightseal.evidence.intel.signed import ECDSA_WITH_SHA256
from tightseal.model import der
from tightseal_sim.world import World

WORLD = World.in_memory(b"certs".ljust(32, b"\0"))
PLATFORM = WORLD.intel.platform("one")
CHAIN = PLATFORM.pck_chain.encode()
LEAF, CA, ROOT = (
    parse_certificate(d, fault=EvidenceError)
    for d in decode_chain(CHAIN, fault=EvidenceError)
)
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())


def code(e: pytest.ExceptionInfo[TightsealError]) -> Code:
    return e.value.code


# PEM


def test_real_forms_of_pem_are_read() -> None:
    expected = decode_chain(CHAIN, fault=EvidenceError)
    assert len(expected) == 3
    for form in (
        CHAIN.rstrip(b"\n\0"),
        CHAIN.rstrip(b"\n\0") + b"\n",
        CHAIN.rstrip(b"\n\0") + b"\n\0",
        CHAIN.rstrip(b"\n\0").replace(b"\n", b"\r\n"),
    ):
        assert decode_chain(form, fault=EvidenceError) == expected


LINES = CHAIN.split(b"\n")
PEM_DEFECTS = {
    "empty": b"",
    "text_before": b"x" + CHAIN,
    "space_before": b" " + CHAIN,
    "text_between": CHAIN.replace(b"-----\n-----BEGIN", b"-----\nx\n-----BEGIN", 1),
    "text_after": CHAIN.rstrip(b"\0") + b"x",
    "two_nuls": CHAIN.rstrip(b"\0") + b"\0\0",
    "attribute_header": CHAIN.replace(b"-----\nMII", b"-----\nA: b\n\nMII", 1),
    "space_in_line": CHAIN.replace(b"MII", b"MI I", 1),
    "other_label": CHAIN.replace(b"CERTIFICATE", b"X509 CRL"),
    "padding_within": CHAIN.replace(LINES[1], LINES[1][:-1] + b"=", 1),
    "no_end": CHAIN[:200],
}


@pytest.mark.parametrize("name", PEM_DEFECTS)
def test_anything_but_plain_pem_is_refused(name: str) -> None:
    with pytest.raises(EvidenceError) as e:
        decode_chain(PEM_DEFECTS[name], fault=EvidenceError)
    assert code(e) is Code.CERTIFICATE_MALFORMED


def test_base64_that_is_not_canonical_is_refused() -> None:
    def block(text: bytes) -> bytes:
        head, foot = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
        return b"\n".join((head, text, foot, b""))

    assert decode_chain(block(b"QQ=="), fault=EvidenceError) == (b"A",)
    assert base64.b64decode(b"QR==") == b"A"
    with pytest.raises(EvidenceError) as e:
        decode_chain(block(b"QR=="), fault=EvidenceError)
    assert code(e) is Code.CERTIFICATE_MALFORMED


def test_a_long_chain_is_refused() -> None:
    for pem in (CHAIN.rstrip(b"\0") * 2, b"A" * (1 << 16)):
        with pytest.raises(CollateralError) as e:
            decode_chain(pem, fault=CollateralError)
        assert code(e) is Code.CERTIFICATE_CHAIN_TOO_LONG


# certificates


def name(common_name: str | None) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated")]
    if common_name is not None:
        names.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(names)


def builder(
    common_name: str | None = Role.TCB_SIGNING.value,
    *,
    key: ec.EllipticCurvePrivateKey = KEY,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(Role.ROOT_CA.value))
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(START)
        .not_valid_after(END)
    )


LEAF_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)


def made(
    build: x509.CertificateBuilder, hash_: hashes.SHA256 | hashes.SHA384 | None = None
) -> Certificate:
    signed = build.sign(KEY, hash_ or hashes.SHA256())
    return parse_certificate(signed.public_bytes(Encoding.DER), fault=EvidenceError)


def test_a_plain_certificate_is_read() -> None:
    got = made(builder().add_extension(LEAF_CONSTRAINTS, critical=True))
    assert got.common_name == Role.TCB_SIGNING.value
    assert got.subject == name(Role.TCB_SIGNING.value).public_bytes()
    assert got.issuer == name(Role.ROOT_CA.value).public_bytes()
    assert (got.not_before, got.not_after) == (START.timestamp(), END.timestamp())
    assert got.serial == 77
    role = require_role(got, Role.TCB_SIGNING, fault=EvidenceError)
    assert role is Role.TCB_SIGNING


def constrained(build: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return build.add_extension(LEAF_CONSTRAINTS, critical=True)


CERTIFICATE_DEFECTS = {
    "sha384": lambda: made(constrained(builder()), hashes.SHA384()),
    "no_basic_constraints": lambda: made(builder()),
    "no_common_name": lambda: made(constrained(builder(None))),
    "unknown_critical_extension": lambda: made(
        constrained(builder()).add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"),
            critical=True,
        )
    ),
    "p384_key": lambda: made(
        constrained(builder(key=ec.generate_private_key(ec.SECP384R1())))
    ),
    "cut": lambda: parse_certificate(LEAF.der[:-1], fault=EvidenceError),
    "longer": lambda: parse_certificate(LEAF.der + b"\0", fault=EvidenceError),
    "empty": lambda: parse_certificate(b"", fault=EvidenceError),
}


@pytest.mark.parametrize("defect", CERTIFICATE_DEFECTS)
def test_a_malformed_certificate_is_refused(defect: str) -> None:
    with pytest.raises(EvidenceError) as e:
        CERTIFICATE_DEFECTS[defect]()
    assert code(e) is Code.CERTIFICATE_MALFORMED


def test_the_unsigned_algorithm_of_a_certificate_is_fixed() -> None:
    at = LEAF.der.rindex(ECDSA_WITH_SHA256)
    assert at > len(LEAF.der) // 2
    for other in (b"\3", b"\4"):
        changed = LEAF.der[: at + 11] + other + LEAF.der[at + 12 :]
        if changed == LEAF.der:
            continue
        with pytest.raises(EvidenceError) as e:
            parse_certificate(changed, fault=EvidenceError)
        assert code(e) is Code.CERTIFICATE_MALFORMED


@given(st.integers(0, len(LEAF.der) - 1), st.integers(1, 255))
def test_a_changed_certificate_never_links(at: int, mask: int) -> None:
    changed = bytearray(LEAF.der)
    changed[at] ^= mask
    with pytest.raises(EvidenceError):
        require_issued_by(
            parse_certificate(bytes(changed), fault=EvidenceError),
            CA,
            cas_below=0,
            fault=EvidenceError,
        )


def test_roles_are_exact() -> None:
    signing = made(constrained(builder()))
    assert require_role(LEAF, Role.PCK, fault=EvidenceError) is Role.PCK
    assert require_role(CA, *Role, fault=EvidenceError) is Role.PLATFORM_CA
    for certificate, role in (
        (LEAF, Role.TCB_SIGNING),
        (signing, Role.PCK),
        (CA, Role.PROCESSOR_CA),
        (CA, Role.ROOT_CA),
        (ROOT, Role.TCB_SIGNING),
        (made(constrained(builder("Intel SGX TCB Signing 2"))), Role.TCB_SIGNING),
        (made(constrained(builder("intel sgx tcb signing"))), Role.TCB_SIGNING),
    ):
        with pytest.raises(EvidenceError) as e:
            require_role(certificate, role, fault=EvidenceError)
        assert code(e) is Code.CERTIFICATE_ROLE_MISMATCH


def test_a_name_without_the_flags_is_no_role() -> None:
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    ca = x509.BasicConstraints(ca=True, path_length=0)
    sgx = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.2.840.113741.1.13.1"), LEAF.sgx_extension or b""
    )
    leaf = constrained(builder())
    for build, role in (
        (builder().add_extension(ca, critical=True), Role.TCB_SIGNING),
        (constrained(builder(Role.PLATFORM_CA.value)), Role.PLATFORM_CA),
        (
            builder(Role.PLATFORM_CA.value).add_extension(ca, critical=True),
            Role.PLATFORM_CA,
        ),
        (
            leaf.add_extension(
                x509.KeyUsage(**{**usage, "crl_sign": True}), critical=True
            ),
            Role.TCB_SIGNING,
        ),
        (leaf.add_extension(sgx, critical=False), Role.TCB_SIGNING),
    ):
        with pytest.raises(EvidenceError) as e:
            require_role(made(build), role, fault=EvidenceError)
        assert code(e) is Code.CERTIFICATE_ROLE_MISMATCH


def test_links_need_name_path_length_and_signature() -> None:
    require_issued_by(LEAF, CA, cas_below=0, fault=EvidenceError)
    require_issued_by(CA, ROOT, cas_below=1, fault=EvidenceError)
    stranger = World.in_memory(b"other".ljust(32, b"\0")).intel.platform("one")
    _, twin, _ = decode_chain(stranger.pck_chain.encode(), fault=EvidenceError)
    other_ca = parse_certificate(twin, fault=EvidenceError)
    for child, issuer, below in (
        (LEAF, ROOT, 0),
        (LEAF, CA, 1),
        (LEAF, other_ca, 0),
        (CA, CA, 0),
    ):
        with pytest.raises(EvidenceError) as e:
            require_issued_by(child, issuer, cas_below=below, fault=EvidenceError)
        assert code(e) is Code.CERTIFICATE_CHAIN_INVALID


def test_both_ends_of_a_validity_period_belong_to_it() -> None:
    got = made(constrained(builder()))
    for now in (got.not_before, got.not_after):
        check_validity(got, now=now, fault=EvidenceError)
    for now, expected in (
        (got.not_before - 1, Code.CERTIFICATE_NOT_YET_VALID),
        (got.not_after + 1, Code.CERTIFICATE_EXPIRED),
    ):
        with pytest.raises(EvidenceError) as e:
            check_validity(got, now=now, fault=EvidenceError)
        assert code(e) is expected


# CRLs


def issuer() -> Certificate:
    return made(
        builder(Role.ROOT_CA.value)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), critical=False
        )
    )


NUMBER = x509.CRLNumber(5)
AUTHORITY = x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key())


def crl(
    *extensions: x509.ExtensionType,
    critical: bool = False,
    hash_: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    build = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(Role.ROOT_CA.value))
        .last_update(START)
        .next_update(END)
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(1234)
            .revocation_date(START)
            .build()
        )
    )
    for extension in extensions:
        build = build.add_extension(extension, critical=critical)
    return build.sign(KEY, hash_ or hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_plain_crl_is_read() -> None:
    got = verify_crl(crl(NUMBER, AUTHORITY), issuer())
    assert got.number == 5
    assert got.revoked == {1234}
    assert (got.this_update, got.next_update) == (START.timestamp(), END.timestamp())
    for now in (got.this_update, got.next_update - 1):
        check_crl_time(got, now=now)
    for now, expected in (
        (got.this_update - 1, Code.CRL_NOT_YET_VALID),
        (got.next_update, Code.CRL_EXPIRED),
    ):
        with pytest.raises(CollateralError) as e:
            check_crl_time(got, now=now)
        assert code(e) is expected


PARTIAL = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=True,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)
OTHER_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def flipped_at_end(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


CRL_DEFECTS: dict[str, tuple[Callable[[], bytes], Code]] = {
    "no_number": (lambda: crl(AUTHORITY), Code.CRL_MALFORMED),
    "no_authority_key_id": (lambda: crl(NUMBER), Code.CRL_MALFORMED),
    "no_extensions": (crl, Code.CRL_MALFORMED),
    "critical_extension": (
        lambda: crl(NUMBER, AUTHORITY, PARTIAL, critical=True),
        Code.CRL_MALFORMED,
    ),
    "sha384": (
        lambda: crl(NUMBER, AUTHORITY, hash_=hashes.SHA384()),
        Code.CRL_MALFORMED,
    ),
    "another_key_id": (
        lambda: crl(
            NUMBER, x509.AuthorityKeyIdentifier.from_issuer_public_key(OTHER_KEY)
        ),
        Code.CRL_ISSUER_MISMATCH,
    ),
    "signature": (
        lambda: flipped_at_end(crl(NUMBER, AUTHORITY)),
        Code.CRL_SIGNATURE_INVALID,
    ),
    "cut": (lambda: crl(NUMBER, AUTHORITY)[:-1], Code.CRL_MALFORMED),
    "empty": (lambda: b"", Code.CRL_MALFORMED),
    "too_large": (lambda: bytes((1 << 20) + 1), Code.COLLATERAL_TOO_LARGE),
    "a_certificate": (lambda: LEAF.der, Code.CRL_MALFORMED),
}


@pytest.mark.parametrize("defect", CRL_DEFECTS)
def test_a_defective_crl_is_refused(defect: str) -> None:
    make, expected = CRL_DEFECTS[defect]
    with pytest.raises(CollateralError) as e:
        verify_crl(make(), issuer())
    assert code(e) is expected


# the SGX extension


def test_the_extension_says_what_the_platform_is() -> None:
    assert LEAF.sgx_extension is not None
    got = parse_pck_extension(LEAF.sgx_extension, fault=EvidenceError)
    assert got.fmspc == PLATFORM.fmspc
    assert got.ppid == PLATFORM.ppid
    assert got.piid == PLATFORM.piid
    assert got.cpu_svn == PLATFORM.cpusvn
    assert got.components == bytes(PLATFORM.tcb.components)


@given(st.data())
def test_a_changed_extension_is_another_value_or_refused(data: st.DataObject) -> None:
    good = LEAF.sgx_extension
    assert good is not None
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))])
    changed += good[at + 1 :]
    same = parse_pck_extension(good, fault=EvidenceError)
    try:
        got = parse_pck_extension(changed, fault=EvidenceError)
    except EvidenceError as refused:
        got, name_ = None, refused.code
    if got is None:
        assert name_ is Code.PCK_EXTENSION_INVALID
    assert got != same


def tlv(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    size = len(body)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + body


def test_a_field_given_twice_or_not_at_all_is_refused() -> None:
    assert LEAF.sgx_extension is not None
    pairs = der.whole_children(der.single(LEAF.sgx_extension, der.SEQUENCE))
    again = parse_pck_extension(tlv(der.SEQUENCE, *pairs[::-1]), fault=EvidenceError)
    assert again.ppid == PLATFORM.ppid
    required = 5
    for i in range(required):
        for bad in ([*pairs, pairs[i]], pairs[:i] + pairs[i + 1 :]):
            with pytest.raises(EvidenceError) as e:
                parse_pck_extension(tlv(der.SEQUENCE, *bad), fault=EvidenceError)
            assert code(e) is Code.PCK_EXTENSION_INVALID


# signatures


def raw_signature(message: bytes) -> tuple[int, int]:
    return decode_dss_signature(KEY.sign(message, ec.ECDSA(hashes.SHA256())))


def packed(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def test_r_and_s_must_be_in_range() -> None:
    r, s = raw_signature(b"message")
    key = KEY.public_key()
    assert verifies_raw(key, packed(r, s), b"message")
    assert not verifies_raw(key, packed(r, s), b"other")
    for bad in ((0, s), (r, 0), (P256_ORDER, s), (r, P256_ORDER), (0, 0)):
        assert not verifies_raw(key, packed(*bad), b"message")
    assert not verifies_raw(key, packed(r, s)[:-1], b"message")
    assert not verifies_raw(key, packed(r, s) + b"\0", b"message")


def test_points_off_the_curve_are_no_keys() -> None:
    numbers = KEY.public_key().public_numbers()
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    assert public_key(x + y) is not None
    for bad in (bytes(64), x + x, x, b"\xff" * 64, b"\4" + x + y):
        assert public_key(bad) is None

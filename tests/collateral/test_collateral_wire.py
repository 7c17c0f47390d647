# SPDX-License-Identifier: Apache-2.0
"""The exact text, CRL encodings and chains; and that nothing else gets through."""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collateral_support import Recorded
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tightseal.collateral import wire
from tightseal.collateral.certificate import parse_certificate, public_key
from tightseal.collateral.origin import domain_of
from tightseal.collateral.parts import PartKind, PartName, make_part, split
from tightseal.errors import Code, CollateralError
from tightseal.evidence.roots import VENDOR_ROOTS

CODE = Code.TCB_INFO_MALFORMED
SIGNATURE = "ab" * 64


def read(text: str | bytes) -> wire.SignedText:
    body = text.encode() if isinstance(text, str) else text
    return wire.signed_text(body, name="tcbInfo", code=CODE)


def test_signature_verifies_over_the_text_cut_out(october: Recorded) -> None:
    found = october.collateral_
    body = (
        f'{{"tcbInfo":{found.tcb_info},"signature":"{found.tcb_info_signature.hex()}"}}'
    )
    signed = read(body)
    leaf = parse_certificate(wire.certificate_chain(found.tcb_info_issuer_chain)[0])
    key = public_key(leaf.spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = signed.signature[:32], signed.signature[32:]
    key.verify(
        encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")),
        signed.text.encode(),
        ec.ECDSA(hashes.SHA256()),
    )


values = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=5,
)


@given(
    value=values,
    indent=st.sampled_from([None, 0, 2]),
    order=st.sampled_from(["as documented", "reversed"]),
)
def test_text_comes_back_byte_for_byte(
    value: object, indent: int | None, order: str
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    members = [f'"tcbInfo" : {text}', f'"signature":\n"{SIGNATURE}"']
    if order == "reversed":
        members.reverse()
    signed = read("\t{" + " ,".join(members) + "}\r\n")
    assert signed.text == text
    assert signed.signature == bytes.fromhex(SIGNATURE)


@given(st.binary(max_size=200))
def test_any_bytes_give_the_code_or_a_text(data: bytes) -> None:
    code = None
    try:
        read(data)
    except CollateralError as error:
        code = error.code
    assert code in (CODE, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"tcbInfo":{}}',
        f'{{"tcbInfo":[],"signature":"{SIGNATURE}"}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}"}} x',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}","more":1}}',
        f'{{"tcbInfo":{{}},"tcbInfo":{{}},"signature":"{SIGNATURE}"}}',
        f'{{"tcbInfo":{{"a":1,"a":2}},"signature":"{SIGNATURE}"}}',
        f'{{"tcbInfo":{{"a":Infinity}},"signature":"{SIGNATURE}"}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE[:-2]}"}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE[:-2]}  "}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE[:-2]}zz"}}',
        '{"tcbInfo":{},"signature":7}',
        '{"tcbInfo":' + "[" * 100_000,
        f'{{["tcbInfo"]:{{}},"signature":"{SIGNATURE}"}}',
        b'\xff{"tcbInfo":{}}',
    ],
)
def test_answers_of_another_form_are_refused(text: Any) -> None:
    with pytest.raises(CollateralError) as caught:
        read(text)
    assert caught.value.code is CODE


def test_crl_is_the_same_from_der_pem_and_hex(october: Recorded) -> None:
    der = october.collateral_.pck_crl
    pem = (
        b"-----BEGIN X509 CRL-----\n"
        + base64.encodebytes(der)
        + b"-----END X509 CRL-----\n"
    )
    for form in (der, pem, der.hex().encode(), der.hex().upper().encode() + b"\n"):
        assert wire.crl_der(form) == der


@pytest.mark.parametrize(
    "spoil",
    [
        lambda der: der + b"\x00",
        lambda der: der[:-1],
        lambda _: b"",
        lambda der: der.hex().encode()[:-1],
        lambda _: b"-----BEGIN X509 CRL-----\nAAAA\n",
        lambda _: b"-----BEGIN X509 CRL-----\n!!\n-----END X509 CRL-----",
    ],
)
def test_other_crls_are_refused(october: Recorded, spoil: Callable[[Any], Any]) -> None:
    with pytest.raises(CollateralError) as caught:
        wire.crl_der(spoil(october.collateral_.root_ca_crl))
    assert caught.value.code is Code.CRL_MALFORMED


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda pem: "junk" + pem, Code.CERTIFICATE_MALFORMED),
        (lambda pem: pem + "junk", Code.CERTIFICATE_MALFORMED),
        (lambda pem: pem.replace("MII", "M!I", 1), Code.CERTIFICATE_MALFORMED),
        (lambda _: "", Code.CERTIFICATE_MALFORMED),
        (lambda pem: pem * 3, Code.CERTIFICATE_CHAIN_TOO_LONG),
        (lambda pem: pem + " " * 20_000, Code.CERTIFICATE_CHAIN_TOO_LONG),
    ],
)
def test_other_chains_are_refused(
    october: Recorded, spoil: Callable[[Any], Any], code: Code
) -> None:
    with pytest.raises(CollateralError) as caught:
        wire.certificate_chain(spoil(october.collateral_.tcb_info_issuer_chain))
    assert caught.value.code is code


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-08",
        "2026-13-08T00:00:00Z",
        "2026-10-08T00:00:00+00:00",
        7,
        None,
        "\u0662026-10-08T00:00:00Z",
    ],
)
def test_other_times_are_refused(text: Any) -> None:
    with pytest.raises(CollateralError):
        wire.parse_time(text, code=CODE)
    assert wire.parse_time("2026-10-08T00:09:46Z", code=CODE) == 1791418186


@given(
    name=st.sampled_from(["gramine-skp-tdx-v4", "phala-sgx-v3"]),
    field=st.sampled_from(["tcb_info", "qe_identity", "pck_crl", "root_ca_crl"]),
    flips=st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 255)), max_size=4),
    cut=st.integers(0, 60),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_collateral_raises_from_the_tree_only(
    recorded: Callable[[str], Recorded],
    name: str,
    field: str,
    flips: list[tuple[int, int]],
    cut: int,
) -> None:
    good = recorded(name).collateral_
    value = getattr(good, field)
    data = bytearray(value.encode() if isinstance(value, str) else value)
    for at, bits in flips:
        data[at % len(data)] ^= bits
    data = data[: len(data) - cut]
    spoilt = data.decode("latin-1") if isinstance(value, str) else bytes(data)
    try:
        parts = split(replace(good, **{field: spoilt}))
        for part in parts:
            domain_of(part, VENDOR_ROOTS)
    except CollateralError:
        return
    if field != "root_ca_crl":  # it comes without the certificate that signed it
        assert spoilt == value


@given(
    flips=st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 255)), max_size=4),
    kind=st.sampled_from(["vcek.der", "ask.der"]),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_certificates_raise_from_the_tree_only(
    vectors: Path, flips: list[tuple[int, int]], kind: str
) -> None:
    data = bytearray((vectors / "snp" / "snp-milan-trustee" / kind).read_bytes())
    for at, bits in flips:
        data[at % len(data)] ^= bits
    inner = base64.encodebytes(bytes(data)).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{inner}-----END CERTIFICATE-----\n"
    with suppress(CollateralError):
        make_part(PartName(PartKind.SNP_CHAIN, "vcek:Milan"), (pem * 2).encode())
    name = PartName(PartKind.SNP_SIGNER, f"vcek:Milan:{'00' * 64}:0.0.0.0")
    with suppress(CollateralError):
        make_part(name, bytes(data), chain=pem)

# SPDX-License-Identifier: Apache-2.0
"""Evidence in certificates: three forms as their makers write them, and each defect."""

import json
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from certificate_maker import (
    CCC,
    DSTACK,
    GRAMINE,
    NULL,
    Key,
    attestation,
    attestation_v0,
    ccc_report_data,
    certificate,
    claims_buffer,
    compact,
    dstack_report_data,
    packed,
    tagged,
    vector,
    wrapped,
)
from tightseal.errors import Code, EvidenceError
from tightseal.evidence.attested_certificate import (
    CertificateForm,
    certificate_evidence,
    check_report_data,
)
from tightseal.evidence.certificate import (
    MAX_CERTIFICATE_BYTES,
    check_own_signature,
    looks_like_certificate,
    pem_to_der,
    read_certificate,
)
from tightseal.evidence.dstack_certificate import MAX_LOG_BYTES
from tightseal.model.tagged_evidence import (
    claims_buffer_of,
    decode_tagged,
    encode_tagged,
    report_data_of,
)
from tightseal_sim.intel.eventlog import runtime_event

KEY = Key()
QUOTE = b"a quote, which nobody reads here"
BUFFER = claims_buffer(KEY.spki)
LOG = b'[{"imr":3}]'


def refusal(work: Callable[[], object]) -> Code:
    with pytest.raises(EvidenceError) as refused:
        work()
    return refused.value.code


def found(*extensions: tuple[str, bytes], **options: Any) -> Any:
    return certificate_evidence(read_certificate(certificate(extensions, **options)))


# -- the forms -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [("sha256", 1), ("sha384", 7), ("sha512", 8)]
)
def test_ccc(name: str, number: int) -> None:
    buffer = claims_buffer(KEY.spki, name=name, number=number)
    got = found((CCC, tagged(QUOTE, buffer)))
    assert (got.form, got.evidence) == (CertificateForm.CCC, QUOTE)
    assert got.report_data == ccc_report_data(buffer)
    assert got.nonce is None


def test_ccc_with_a_nonce_and_claims_of_the_makers_own_in_any_order() -> None:
    entry = cbor2.dumps([1, _sha256(KEY.spki)])
    buffer = cbor2.dumps({"pubkey-hash": entry, "nonce": b"\x07" * 40, "key_0": b"v"})
    got = found((CCC, tagged(QUOTE, buffer)))
    assert got.nonce == b"\x07" * 40
    assert got.report_data == ccc_report_data(buffer)


def test_what_we_encode_is_what_an_independent_encoder_writes() -> None:
    assert claims_buffer_of(KEY.spki) == BUFFER
    assert encode_tagged(QUOTE, BUFFER) == tagged(QUOTE, BUFFER)
    assert report_data_of(BUFFER) == ccc_report_data(BUFFER)


def test_gramine_writes_its_own_form_beside_the_ccc_s() -> None:
    own, both = (GRAMINE, b"older quote"), (CCC, tagged(QUOTE, BUFFER))
    old = found(own, parameters=NULL)
    assert (old.form, old.evidence) == (CertificateForm.GRAMINE, b"older quote")
    assert old.report_data == _sha256(KEY.spki) + bytes(32)
    assert found(own, both).form is CertificateForm.CCC


def test_dstack_quote_and_log_plain_and_packed() -> None:
    quote = (f"{DSTACK}1", wrapped(QUOTE))
    assert found(quote).event_log is None
    for log in (LOG, packed(LOG)):
        got = found(quote, (f"{DSTACK}2", wrapped(log)))
        assert (got.form, got.evidence) == (CertificateForm.DSTACK, QUOTE)
        assert got.event_log == LOG
        assert got.report_data == dstack_report_data(KEY.spki)


@pytest.mark.parametrize("write", [attestation, attestation_v0])
def test_dstack_attestation_is_preferred_to_the_quote_beside_it(
    write: Callable[..., bytes],
) -> None:
    event = runtime_event("app-id", b"\x42")
    got = found(
        (f"{DSTACK}8", wrapped(write(QUOTE, [event]))),
        (f"{DSTACK}1", wrapped(b"another quote")),
    )
    assert got.evidence == QUOTE
    (row,) = json.loads(got.event_log)
    assert (row["imr"], row["event"], row["event_payload"]) == (3, "app-id", "42")
    assert row["digest"] == event.digest.hex()


def test_pem_is_read_as_its_first_certificate() -> None:
    encoded = certificate([(CCC, tagged(QUOTE, BUFFER))])
    read = read_certificate(encoded)
    pem = _pem(encoded)
    assert looks_like_certificate(encoded)
    assert looks_like_certificate(pem)
    assert pem_to_der(b"\n" + pem + _pem(b"another")) == encoded
    assert read.key_hash == _sha256(KEY.spki)
    check_own_signature(read)


# -- defects of the form ---------------------------------------------------------------

GOOD = tagged(QUOTE, BUFFER)
TAGGED: dict[str, bytes] = {
    "another_tag": tagged(QUOTE, BUFFER, tag=60001),
    "no_tag": cbor2.dumps([QUOTE, BUFFER]),
    "tag_in_a_tag": cbor2.dumps(cbor2.CBORTag(60000, cbor2.CBORTag(60000, []))),
    "one_entry": cbor2.dumps(cbor2.CBORTag(60000, [QUOTE])),
    "three_entries": cbor2.dumps(cbor2.CBORTag(60000, [QUOTE, BUFFER, b""])),
    "quote_as_text": cbor2.dumps(cbor2.CBORTag(60000, ["quote", BUFFER])),
    "trailing_byte": GOOD + b"\0",
    "cut_short": GOOD[:-1],
    "empty": b"",
    "indefinite_array": b"\xd9\xea\x60\x9f" + GOOD[4:] + b"\xff",
    "length_not_the_shortest": b"\xda\x00\x00\xea\x60" + GOOD[3:],
    "length_beyond_the_end": b"\xd9\xea\x60\x82\x5b" + b"\xff" * 8,
    "claims_as_map": cbor2.dumps(cbor2.CBORTag(60000, [QUOTE, {"pubkey-hash": b""}])),
}
CLAIMS: dict[str, bytes] = {
    "no_key_hash": cbor2.dumps({"nonce": b"n"}),
    "no_claims": cbor2.dumps({}),
    "claim_twice": b"\xa2" + 2 * BUFFER[1:],
    "trailing_byte_of_claims": BUFFER + b"\0",
    "number_as_claim": cbor2.dumps({1: b"x"}),
    "too_many_claims": cbor2.dumps({f"c{n}": b"" for n in range(17)}),
    "claims_too_long": cbor2.dumps({"nonce": bytes(5000)}),
    "hash_of_another_length": cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(31)])}),
    "hash_entry_with_three": cbor2.dumps(
        {"pubkey-hash": cbor2.dumps([1, bytes(32), 0])}
    ),
    "hash_entry_trailing": cbor2.dumps(
        {"pubkey-hash": cbor2.dumps([1, bytes(32)]) + b"\0"}
    ),
    "name_too_long": cbor2.dumps({"n" * 65: b""}),
    "name_not_ascii": cbor2.dumps({"é": b""}),
}


@pytest.mark.parametrize("defect", TAGGED)
def test_tagged_evidence_of_another_form_is_refused(defect: str) -> None:
    assert refusal(lambda: decode_tagged(TAGGED[defect])) is Code.CERTIFICATE_MALFORMED


@pytest.mark.parametrize("defect", CLAIMS)
def test_claims_of_another_form_are_refused(defect: str) -> None:
    content = tagged(QUOTE, CLAIMS[defect])
    assert refusal(lambda: decode_tagged(content)) is Code.CERTIFICATE_MALFORMED


def test_hash_algorithm_that_is_not_known() -> None:
    content = tagged(QUOTE, claims_buffer(KEY.spki, number=2))
    assert refusal(lambda: decode_tagged(content)) is Code.EVIDENCE_KIND_UNSUPPORTED


def test_claims_about_another_key() -> None:
    content = tagged(QUOTE, claims_buffer(Key(2).spki))
    assert refusal(lambda: found((CCC, content))) is Code.REPORT_DATA_MISMATCH


def test_report_data_of_another_key() -> None:
    got = found((CCC, GOOD))
    check_report_data(got, ccc_report_data(BUFFER))
    other = ccc_report_data(claims_buffer(Key(2).spki))
    for wrong in (other, ccc_report_data(BUFFER)[:63] + b"\1"):
        code = refusal(partial(check_report_data, got, wrong))
        assert code is Code.REPORT_DATA_MISMATCH


def test_two_extensions_of_one_kind() -> None:
    twice = certificate([(CCC, GOOD), (CCC, GOOD)])
    assert refusal(lambda: read_certificate(twice)) is Code.CERTIFICATE_MALFORMED


def test_evidence_of_two_makers() -> None:
    both = (CCC, GOOD), (f"{DSTACK}1", wrapped(QUOTE))
    assert refusal(lambda: found(*both)) is Code.EVIDENCE_UNREADABLE


@pytest.mark.parametrize(
    "name", ["2.23.133.5.4.2", "1.2.840.113741.1.13.1", "1.2.840.113741.1337.6"]
)
def test_evidence_under_another_name_is_none(name: str) -> None:
    assert refusal(lambda: found((name, GOOD))) is Code.EVIDENCE_UNREADABLE


V0 = attestation_v0(b"quote", [runtime_event("a", b"")])


def test_dstack_report_of_an_snp_guest() -> None:
    event = runtime_event("certificate", b"DER")
    content = attestation_v0(b"report", [event], platform=3)
    got = found((f"{DSTACK}8", wrapped(content)))
    assert (got.evidence, got.event_log) == (b"report", None)


def _attested(**changes: Any) -> bytes:
    return attestation(QUOTE, [runtime_event("a", b"")], **changes)


DSTACK_DEFECTS: dict[str, tuple[str, bytes, Code]] = {
    "not_wrapped": ("1", QUOTE, Code.CERTIFICATE_MALFORMED),
    "wrapped_with_more": ("1", wrapped(QUOTE) + b"\0", Code.CERTIFICATE_MALFORMED),
    "v0_of_nitro": (
        "8",
        wrapped(attestation_v0(QUOTE, [], platform=2)),
        Code.EVIDENCE_KIND_UNSUPPORTED,
    ),
    "v0_trailing": ("8", wrapped(V0 + b"\0"), Code.CERTIFICATE_MALFORMED),
    "v0_cut_short": ("8", wrapped(V0[:-1]), Code.CERTIFICATE_MALFORMED),
    "v0_length_not_the_shortest": (
        "8",
        wrapped(b"\0\0" + b"\x15\0" + V0[3:]),
        Code.CERTIFICATE_MALFORMED,
    ),
    "v0_length_beyond_the_end": (
        "8",
        wrapped(b"\0\0\xfe\xff\xff\xff"),
        Code.CERTIFICATE_MALFORMED,
    ),
    "v0_length_of_many_bytes": ("8", wrapped(b"\0\0\x03"), Code.CERTIFICATE_MALFORMED),
    "v0_too_many_events": (
        "8",
        wrapped(b"\0\0\0" + compact(1025)),
        Code.CERTIFICATE_MALFORMED,
    ),
    "v0_name_not_utf8": (
        "8",
        wrapped(b"\0\0\0" + compact(1) + bytes(9) + vector(b"\xff")),
        Code.CERTIFICATE_MALFORMED,
    ),
    "version_2": ("8", wrapped(_attested(version=2)), Code.EVIDENCE_KIND_UNSUPPORTED),
    "nitro": (
        "8",
        wrapped(_attested(kind="nitro-enclave")),
        Code.EVIDENCE_KIND_UNSUPPORTED,
    ),
    "trailing": ("8", wrapped(_attested() + b"\0"), Code.CERTIFICATE_MALFORMED),
    "cut_short": ("8", wrapped(_attested()[:-1]), Code.CERTIFICATE_MALFORMED),
    "not_msgpack": ("8", wrapped(b"\xc1"), Code.CERTIFICATE_MALFORMED),
    "nested_deep": ("8", wrapped(b"\x91" * 5000), Code.CERTIFICATE_MALFORMED),
    "empty_attestation": ("8", wrapped(b""), Code.CERTIFICATE_MALFORMED),
}


@pytest.mark.parametrize("defect", DSTACK_DEFECTS)
def test_dstack_content_of_another_form(defect: str) -> None:
    suffix, content, code = DSTACK_DEFECTS[defect]
    assert refusal(lambda: found((f"{DSTACK}{suffix}", content))) is code


LOG_DEFECTS: dict[str, tuple[bytes, Code]] = {
    "bomb": (packed(bytes(50_000_000)), Code.EVENT_LOG_TOO_LARGE),
    "one_over": (packed(bytes(MAX_LOG_BYTES + 1)), Code.EVENT_LOG_TOO_LARGE),
    "no_gzip": (b"ELGZv1plain", Code.EVENT_LOG_MALFORMED),
    "cut_short": (packed(LOG)[:-1], Code.EVENT_LOG_MALFORMED),
    "bytes_after": (packed(LOG) + b"x", Code.EVENT_LOG_MALFORMED),
    "two_members": (packed(LOG) + packed(LOG)[6:], Code.EVENT_LOG_MALFORMED),
}


@pytest.mark.parametrize("defect", LOG_DEFECTS)
def test_packed_event_log_of_another_form(defect: str) -> None:
    log, code = LOG_DEFECTS[defect]
    rows = (f"{DSTACK}1", wrapped(QUOTE)), (f"{DSTACK}2", wrapped(log))
    assert refusal(lambda: found(*rows)) is code


def test_packed_event_log_at_its_bound() -> None:
    log = bytes(MAX_LOG_BYTES)
    rows = (f"{DSTACK}1", wrapped(QUOTE)), (f"{DSTACK}2", wrapped(packed(log)))
    assert found(*rows).event_log == log


# -- defects of the certificate -------------------------------------------------------


def test_certificate_signed_by_another_key() -> None:
    read = read_certificate(certificate([(CCC, GOOD)], signer=Key(2)))
    assert refusal(lambda: check_own_signature(read)) is Code.CERTIFICATE_CHAIN_INVALID


def test_certificate_on_another_curve() -> None:
    odd = Key()
    object.__setattr__(odd, "private", ec.generate_private_key(ec.SECP256K1()))
    read = read_certificate(certificate([], key=odd))
    assert refusal(lambda: check_own_signature(read)) is Code.CERTIFICATE_MALFORMED


def test_certificate_too_large_trailing_or_cut_short() -> None:
    encoded = certificate([(CCC, GOOD)])
    large = bytes(MAX_CERTIFICATE_BYTES + 1)
    assert refusal(lambda: read_certificate(large)) is Code.EVIDENCE_TOO_LARGE
    for wrong in (encoded + b"\0", encoded[:-1], b"", b"\x30\x80\0\0"):
        code = refusal(partial(read_certificate, wrong))
        assert code is Code.CERTIFICATE_MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN CERTIFICATE-----\nAAAA",
        b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----",
    ],
)
def test_pem_that_is_none(text: bytes) -> None:
    assert refusal(lambda: pem_to_der(text)) is Code.CERTIFICATE_MALFORMED


@given(at=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_no_bit_can_be_changed_unnoticed(at: int, bit: int) -> None:
    """A changed certificate is refused, or its own signature is."""
    changed = bytearray(CERTIFICATE)
    changed[at % len(changed)] ^= 1 << bit
    with pytest.raises(EvidenceError):
        check_own_signature(read_certificate(bytes(changed)))


CERTIFICATE = certificate([(CCC, GOOD)])


@given(nonce=st.binary(max_size=200), quote=st.binary(max_size=300))
def test_any_quote_and_nonce_come_back(nonce: bytes, quote: bytes) -> None:
    entry = cbor2.dumps([1, _sha256(KEY.spki)])
    buffer = cbor2.dumps({"pubkey-hash": entry, "nonce": nonce})
    got = decode_tagged(encode_tagged(quote, buffer))
    assert (got.quote, got.claims.nonce) == (quote, nonce)
    assert got.report_data() == ccc_report_data(buffer)


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def _pem(encoded: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(encoded).encode()

# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come in, only a named error comes out; and lengths must add up."""

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intel_support import NOW

from tightseal.errors import Code, EvidenceError, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.quote import (
    MAX_QUOTE_BYTES,
    UnverifiedQuote,
    parse_quote,
)
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.model.claims import Outcome, Tee
from tightseal.model.collateral import IntelCollateral
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.quote import QuoteForm, assemble
from tightseal_sim.intel.td import TdImage
from tightseal_sim.world import World

INTEL = World.in_memory(b"parsers".ljust(32, b"\0")).intel
PLATFORM = INTEL.platform("one")
TD = PLATFORM.launch_td(TdImage())
QUOTES = {
    "sgx_v3": PLATFORM.load_enclave(EnclaveImage("parsers")).evidence(bytes(64)),
    "td10_v4": TD.quote(bytes(64), form=QuoteForm.V4_TD10),
    "td10_v5": TD.quote(bytes(64), form=QuoteForm.V5_TD10),
    "td15_v5": TD.quote(bytes(64), form=QuoteForm.V5_TD15),
    "td15ex_v5": TD.quote(bytes(64), form=QuoteForm.V5_TD15EX),
}
COLLATERAL = {
    tee: INTEL.collateral(fmspc=PLATFORM.fmspc, ca="platform", tee=tee, now=NOW)
    for tee in (Tee.SGX, Tee.TDX)
}
ROOTS = (INTEL.trusted_root,)
FIELDS = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
    "pck_certificate_chain",
)


def collateral_for(name: str) -> IntelCollateral:
    return COLLATERAL[Tee.SGX if name.startswith("sgx") else Tee.TDX]


def code_of(data: bytes) -> Code:
    with pytest.raises(EvidenceError) as e:
        parse_quote(data)
    return e.value.code


def named_or_verified(name: str, data: bytes, given: IntelCollateral) -> bool:
    try:
        verify_quote(data, given, now=NOW, roots=ROOTS)
    except TightsealError as e:
        last = e.checks[-1]
        assert last.outcome is Outcome.FAILED  # type: ignore[attr-defined]
        return False
    assert name
    return True


@pytest.mark.parametrize("name", QUOTES)
def test_truncation_at_every_length_is_refused(name: str) -> None:
    data = QUOTES[name].rstrip(b"\0")
    length = parse_quote(data + bytes(8)).declared_length
    for size in range(length):
        assert code_of(data[:size]) is Code.QUOTE_TRUNCATED


@pytest.mark.parametrize("name", QUOTES)
def test_parts_account_for_every_byte(name: str) -> None:
    data = QUOTES[name]
    quote = parse_quote(data)
    assert quote.declared_length + quote.trailing_zeros == len(data)
    assert data.startswith(quote.signed_bytes)
    assert quote.signed_bytes.endswith(quote.body)
    end = len(quote.certification_data) + 6
    assert data[: quote.declared_length].endswith(quote.certification_data)
    assert quote.declared_length > len(quote.signed_bytes) + end


@given(st.sampled_from(sorted(QUOTES)), st.integers(0, 4096))
def test_zero_padding_is_counted_and_nothing_else(name: str, zeros: int) -> None:
    data = QUOTES[name]
    bare = parse_quote(data)
    padded = parse_quote(data[: bare.declared_length] + bytes(zeros))
    assert padded.trailing_zeros == zeros
    assert replace(padded, trailing_zeros=bare.trailing_zeros) == bare


@given(st.sampled_from(sorted(QUOTES)), st.binary(min_size=1, max_size=64))
def test_any_other_trailing_byte_is_refused(name: str, tail: bytes) -> None:
    if any(tail):
        declared = parse_quote(QUOTES[name]).declared_length
        data = QUOTES[name][:declared] + bytes(3) + tail
        assert code_of(data) is Code.QUOTE_TRAILING_BYTES


@given(st.binary(max_size=6000))
def test_random_bytes_raise_named_errors_only(data: bytes) -> None:
    code_of(data)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(QUOTES)),
    st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 255)), max_size=4),
)
def test_random_flips_raise_named_errors_only(
    name: str, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(QUOTES[name])
    for at, mask in flips:
        data[at % len(data)] ^= mask
    try:
        quote = parse_quote(bytes(data))
    except TightsealError:
        return
    assert isinstance(quote, UnverifiedQuote)
    with suppress(TightsealError):
        collateral_query(quote)
    accepted = named_or_verified(name, bytes(data), collateral_for(name))
    assert accepted == (bytes(data) == QUOTES[name])


@pytest.mark.parametrize("name", QUOTES)
def test_every_single_bit_of_a_quote_matters(name: str) -> None:
    data = QUOTES[name]
    declared = parse_quote(data).declared_length
    picks = random.Random(name).sample(range(declared), 250)
    cache = ResultCache(16)
    for at in picks:
        flipped = bytearray(data)
        flipped[at] ^= 1
        with pytest.raises(TightsealError):
            verify_quote(
                bytes(flipped),
                collateral_for(name),
                now=NOW,
                roots=ROOTS,
                cache=cache,
            )


def spoil(value: str | bytes, at: int, mask: int) -> str | bytes:
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    if raw:
        raw[at % len(raw)] ^= mask
    return raw.decode("latin-1") if isinstance(value, str) else bytes(raw)


@settings(max_examples=400)
@given(
    field=st.sampled_from(FIELDS),
    at=st.integers(0, 99_999),
    mask=st.integers(1, 255),
    cut=st.booleans(),
)
def test_spoiled_collateral_raises_named_errors_only(
    field: str, at: int, mask: int, *, cut: bool
) -> None:
    whole = replace_field(
        collateral_for("td15_v5"), "pck_certificate_chain", PLATFORM.pck_chain
    )
    value = getattr(whole, field)
    value = value[: at % (len(value) + 1)] if cut else spoil(value, at, mask)
    spoiled = replace_field(whole, field, value)
    if not named_or_verified("td15_v5", QUOTES["td15_v5"], spoiled):
        return
    # Only what is not needed, or a line end of a PEM chain, may change unnoticed.
    unchanged = value == getattr(whole, field)
    if unchanged or field == "pck_crl_issuer_chain" or not value:
        return
    assert isinstance(value, str)
    assert field.endswith("chain")
    assert "".join(value.split()) == "".join(getattr(whole, field).split())


def replace_field(
    collateral: IntelCollateral, field: str, value: str | bytes
) -> IntelCollateral:
    named = {name: getattr(collateral, name) for name in FIELDS}
    return IntelCollateral(**{**named, field: value})


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1000, 0xFFFF])
@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])
def test_every_length_of_qe_authentication_data_is_accepted(
    size: int, tee: Tee
) -> None:
    enclave = PLATFORM.load_enclave(EnclaveImage("parsers"))
    parts = (
        enclave.quote_parts(bytes(64)) if tee is Tee.SGX else TD.quote_parts(bytes(64))
    )
    data = assemble(replace(parts, auth_data=bytes(size)))
    claims = verify_quote(data, COLLATERAL[tee], now=NOW, roots=ROOTS)
    assert claims.tee is tee
    assert len(parse_quote(data).qe_auth_data) == size


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


V4, V5 = QUOTES["td10_v4"], QUOTES["td15_v5"]
SGX = QUOTES["sgx_v3"]
DECLARED = parse_quote(V4).declared_length
SIGNATURE_SIZE = int.from_bytes(V4[632:636], "little")
HEADER_DEFECTS = {
    "version_2": (put(V4, 0, b"\2\0"), Code.QUOTE_VERSION_UNSUPPORTED),
    "version_6": (put(V4, 0, b"\6\0"), Code.QUOTE_VERSION_UNSUPPORTED),
    "version_4_in_high_byte": (put(V4, 0, b"\4\1"), Code.QUOTE_VERSION_UNSUPPORTED),
    "key_type_3": (put(V4, 2, b"\3\0"), Code.ATTESTATION_KEY_TYPE_UNSUPPORTED),
    "sgx_as_tdx": (put(SGX, 4, b"\x81"), Code.QUOTE_TEE_TYPE_INVALID),
    "tdx_as_sgx": (put(V4, 4, b"\0"), Code.QUOTE_TEE_TYPE_INVALID),
    "v5_as_sgx": (put(V5, 4, b"\0"), Code.QUOTE_TEE_TYPE_INVALID),
    "v5_sgx_body": (
        put(V5, 48, b"\1\0\x80\1\0\0"),
        Code.QUOTE_BODY_TYPE_INVALID,
    ),
    "v5_body_0": (put(V5, 48, b"\0\0"), Code.QUOTE_BODY_TYPE_INVALID),
    "v5_body_5": (put(V5, 48, b"\5\0"), Code.QUOTE_BODY_TYPE_INVALID),
    "v5_body_of_another_size": (put(V5, 50, b"\x48"), Code.QUOTE_BODY_TYPE_INVALID),
    "signature_data_too_long": (
        put(V4[:DECLARED], 632, (SIGNATURE_SIZE + 1).to_bytes(4, "little")),
        Code.QUOTE_TRUNCATED,
    ),
    "signature_data_over_padding": (
        put(V4[:DECLARED] + bytes(8), 632, (SIGNATURE_SIZE + 8).to_bytes(4, "little")),
        Code.QUOTE_MALFORMED,
    ),
    "signature_data_too_short": (
        put(V4, 632, (SIGNATURE_SIZE - 1).to_bytes(4, "little")),
        Code.QUOTE_MALFORMED,
    ),
    "signature_data_empty": (put(V4, 632, bytes(4)), Code.QUOTE_MALFORMED),
    "signature_data_4_gib": (put(V4, 632, b"\xff" * 4), Code.QUOTE_TRUNCATED),
    "outer_type_5": (put(V4, 764, b"\5\0"), Code.CERTIFICATION_DATA_UNSUPPORTED),
    "outer_length": (put(V4, 766, b"\0\0\0\0"), Code.QUOTE_MALFORMED),
    "auth_data_too_long": (put(V4, 1218, b"\xff\xff"), Code.QUOTE_MALFORMED),
    "chain_too_long": (put(V4, 1254, b"\xff\xff\0\0"), Code.QUOTE_MALFORMED),
    "chain_too_short": (put(V4, 1254, b"\1\0\0\0"), Code.QUOTE_MALFORMED),
    "too_large": (V4 + bytes(MAX_QUOTE_BYTES), Code.EVIDENCE_TOO_LARGE),
}


@pytest.mark.parametrize("name", HEADER_DEFECTS)
def test_a_defect_of_form_has_its_code(name: str) -> None:
    data, code = HEADER_DEFECTS[name]
    assert code_of(data) is code

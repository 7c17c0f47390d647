# SPDX-License-Identifier: Apache-2.0
"""Spoiled quotes: header, body, signatures, structure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from tightseal.errors import Code
from tightseal.model.claims import Tee
from tightseal.model.verifiers import VerifierException
from tightseal_sim.defects.bench import Bench, Offsets, edit_identity, flip, put
from tightseal_sim.defects.case import ACCEPTED, Case, Expect
from tightseal_sim.intel.quote import QuoteForm, assemble
from tightseal_sim.intel.structures import AttributeFlags

__all__ = ["flips", "headers", "signers", "structure"]

_AT = Offsets()
_DECODE = "Failed to decode quote"
_BODY_SIGNATURE = "ISV enclave report signature is invalid"
_QE_SIGNATURE = "Signature is invalid for qe_report in quote"
_QE_HASH = "QE report hash mismatch"
_QE_DEBUG = ("QE report validation failed", "Debug mode is enabled")
_SHORT = "Not enough data to fill buffer"

_HEADERS = (
    # row, name, title, offset, bytes, code, message, cause
    (5, "quote_version", "header version 6", 0, b"\6\0",
     Code.QUOTE_VERSION_UNSUPPORTED, _DECODE, "version"),
    (6, "tee_type_unknown", "tee_type flipped", 4, b"\x80",
     Code.QUOTE_TEE_TYPE_INVALID, _DECODE, "Invalid TEE type"),
    (6, "tee_type_sgx_in_v4", "tee_type SGX in a version 4 quote", 4, b"\0",
     Code.QUOTE_TEE_TYPE_INVALID, _DECODE, "Data length exceeds maximum"),
    (7, "attestation_key_type", "attestation key type 3", 2, b"\3\0",
     Code.ATTESTATION_KEY_TYPE_UNSUPPORTED,
     "Unsupported DCAP attestation key type", ""),
    (8, "qe_vendor_id", "QE vendor id of another", 12, b"\x94",
     Code.QE_VENDOR_UNKNOWN, "Unknown QE vendor ID", ""),
)  # fmt: skip

_HEADER_BYTES = 48
_DESCRIPTOR_BYTES = 6
_SGX_BODY = {
    _AT.mrtd: _HEADER_BYTES + 64,  # MRENCLAVE in MRTD's place
    _AT.report_data: _HEADER_BYTES + 320,
}

_FLIPS = (
    (9, "header_user_data", _AT.user_data,
     Code.QUOTE_SIGNATURE_INVALID, _BODY_SIGNATURE),
    (10, "body_mrtd", _AT.mrtd, Code.QUOTE_SIGNATURE_INVALID, _BODY_SIGNATURE),
    (11, "body_report_data", _AT.report_data,
     Code.QUOTE_SIGNATURE_INVALID, _BODY_SIGNATURE),
    (12, "quote_signature", _AT.signature,
     Code.QUOTE_SIGNATURE_INVALID, _BODY_SIGNATURE),
    (13, "attestation_key", _AT.attestation_key,
     Code.QE_REPORT_DATA_MISMATCH, _QE_HASH),
    (14, "qe_report", _AT.qe_report, Code.QE_REPORT_SIGNATURE_INVALID, _QE_SIGNATURE),
    (15, "qe_report_signature", _AT.qe_signature,
     Code.QE_REPORT_SIGNATURE_INVALID, _QE_SIGNATURE),
    (16, "qe_auth_data", _AT.qe_auth, Code.QE_REPORT_DATA_MISMATCH, _QE_HASH),
    (None, "certification_type", _AT.cert_type,
     Code.CERTIFICATION_DATA_UNSUPPORTED, "Unsupported DCAP PCK cert format"),
)  # fmt: skip


def headers(bench: Bench) -> Iterator[Case]:
    """One header field put wrong."""
    quote = assemble(bench.td_parts())
    for number, name, title, at, value, code, message, cause in _HEADERS:
        yield bench.case(
            name,
            title,
            Expect.refuse(code, message, cause),
            number=number,
            evidence=put(quote, at, value),
        )
    v5 = put(assemble(bench.td_parts(QuoteForm.V5_TD10)), 4, b"\x80")
    yield bench.case(
        "tee_type_unknown_v5",
        "tee_type flipped in a version 5 quote",
        Expect.refuse(Code.QUOTE_TEE_TYPE_INVALID, "Unsupported TEE type"),
        number=6,
        evidence=v5,
    )


def flips(bench: Bench) -> Iterator[Case]:
    """One bit flipped, in quotes of every form."""
    for form in QuoteForm:
        sgx = form is QuoteForm.V3_SGX
        quote = assemble(bench.sgx_parts() if sgx else bench.td_parts(form))
        usual = form is QuoteForm.V4_TD10
        suffix = "" if usual else f"_{form.name.lower()}"
        for number, name, at, code, message in _FLIPS:
            yield bench.case(
                f"{name}_flipped{suffix}",
                f"{name.replace('_', ' ')} flipped ({form.name})",
                Expect.refuse(code, message),
                number=number,
                tee=Tee.SGX if sgx else Tee.TDX,
                evidence=flip(quote, _place(form, at)),
            )


def _place(form: QuoteForm, at: int) -> int:
    """Where the field at ``at`` in a version 4 quote stands in another form."""
    if at < _HEADER_BYTES:
        return at
    if form is QuoteForm.V3_SGX:
        if at in _SGX_BODY:
            return _SGX_BODY[at]
        # No outer certification data: six bytes less after the attestation key.
        return at - (200 if at <= _AT.attestation_key else 206)
    descriptor = _DESCRIPTOR_BYTES if form.body_type else 0
    if at < _AT.sig_len:
        return at + descriptor
    return at + descriptor + form.body_bytes - QuoteForm.V4_TD10.body_bytes


def structure(bench: Bench) -> Iterator[Case]:
    """Lengths that lie, and bytes that do not belong."""
    quote = assemble(bench.td_parts())
    body = Expect.refuse(Code.QUOTE_TRUNCATED, _DECODE, "TDReport10::tee_tcb_svn")
    # Nothing at all is no quote: told apart before a verifier is asked.
    version = replace(
        Expect.refuse(Code.QUOTE_TRUNCATED, _DECODE, "Header::version"),
        both=Code.EVIDENCE_UNREADABLE,
    )
    short = Expect.refuse(Code.QUOTE_TRUNCATED, _DECODE, _SHORT)
    for number, name, title, data, expect in (
        (17, "truncated", "truncated quote", quote[:-1], short),
        (18, "truncated_to_header", "truncated to the header", quote[:48], body),
        (19, "empty", "empty input", b"", version),
        (20, "trailing_zeros", "zero bytes appended", quote + bytes(70), ACCEPTED),
        (20, "trailing_zeros_page", "zero bytes up to 8000",
         quote.ljust(8000, b"\0"), ACCEPTED),
        (21, "trailing_garbage", "non-zero bytes appended", quote + b"\0garbage",
         Expect.refuse(Code.QUOTE_TRAILING_BYTES, None)),
        (22, "sig_len_too_large", "sig_len too large", _sig_len(quote, 1), short),
        (23, "sig_len_too_small", "sig_len too small", _sig_len(quote, -10),
         Expect.refuse(Code.QUOTE_MALFORMED, _DECODE, _SHORT)),
    ):  # fmt: skip
        yield bench.case(name, title, expect, number=number, evidence=data)
    sgx = assemble(bench.sgx_parts())
    for number, name, data, expect in (
        (20, "trailing_zeros_sgx", sgx + bytes(70), ACCEPTED),
        (21, "trailing_garbage_sgx", sgx + b"\0garbage",
         Expect.refuse(Code.QUOTE_TRAILING_BYTES, None)),
        (17, "truncated_sgx", sgx[:-1], short),
    ):  # fmt: skip
        title = f"{name.removesuffix('_sgx').replace('_', ' ')} (SGX)"
        yield bench.case(name, title, expect, number=number, tee=Tee.SGX, evidence=data)
    yield from _lengths(bench)


def _lengths(bench: Bench) -> Iterator[Case]:
    """Parts of other lengths and types than usual."""
    for length in (0, 64):
        parts = replace(bench.td_parts(), auth_data=bytes(length))
        expect = Expect(
            both=Code.VERIFIERS_DISAGREE,
            qvl="Invalid QE auth data length",
            exception=VerifierException.QE_AUTH_DATA_LENGTH,
        )
        yield bench.case(
            f"qe_auth_data_length_{length}",
            f"QE auth data of {length} bytes",
            expect,
            number=24 if length == 0 else 25,
            evidence=parts,
        )
    mismatch = replace(bench.td_parts(QuoteForm.V5_TD10), body_type=3)
    yield bench.case(
        "body_type_size_mismatch",
        "v5 body type does not match the size",
        Expect.refuse(Code.QUOTE_BODY_TYPE_INVALID, _DECODE, "Invalid body size"),
        number=84,
        evidence=mismatch,
    )
    yield bench.case(
        "pck_cert_type",
        "unknown inner certification type 9",
        Expect.refuse(
            Code.CERTIFICATION_DATA_UNSUPPORTED, "Unsupported DCAP PCK cert format: 9"
        ),
        number=88,
        evidence=replace(bench.td_parts(), pck_cert_type=9),
    )


def _sig_len(quote: bytes, by: int) -> bytes:
    (declared,) = struct.unpack_from("<I", quote, _AT.sig_len)
    return put(quote, _AT.sig_len, struct.pack("<I", declared + by))


def signers(bench: Bench) -> Iterator[Case]:
    """Right form, wrong signer or wrong quoting enclave."""
    parts = bench.td_parts()
    attacker = bench.attacker.platform("attacker")
    mallory = attacker.pck.key
    foreign = attacker.launch_td(bench.td.image).quote_parts(bytes(64))
    debug = replace(parts.qe, flags=parts.qe.flags | AttributeFlags.DEBUG)
    for number, name, title, spoiled, expect in (
        (26, "attestation_key_substituted", "attacker's attestation key signs the body",
         replace(parts, attestation_key=mallory, bound_key=parts.attestation_key),
         Expect.refuse(Code.QE_REPORT_DATA_MISMATCH, _QE_HASH)),
        (27, "qe_report_signed_by_wrong_pck", "QE report signed by a wrong PCK key",
         replace(parts, qe_signer=mallory),
         Expect.refuse(Code.QE_REPORT_SIGNATURE_INVALID, _QE_SIGNATURE)),
        (28, "quote_of_another_root", "quote of another root, genuine collateral",
         foreign,
         Expect.refuse(Code.ROOT_NOT_TRUSTED, "Failed to verify certificate chain",
                       "InvalidSignatureForPublicKey")),
        (None, "qe_debug", "quoting enclave with DEBUG", replace(parts, qe=debug),
         Expect.refuse(Code.QE_IDENTITY_MISMATCH, *_QE_DEBUG)),
        (None, "qe_report_data_tail", "second half of the QE report data not zero",
         replace(parts, qe_data_tail=b"\1" * 32),
         Expect.refuse(Code.QE_REPORT_DATA_MISMATCH, None)),
    ):  # fmt: skip
        yield bench.case(name, title, expect, number=number, evidence=spoiled)
    mask = {"attributesMask": "F9" + "FF" * 7 + "00" * 8}
    yield bench.case(
        "qe_debug_unmasked",
        "quoting enclave with DEBUG, which its identity leaves open",
        Expect.refuse(Code.QE_DEBUG, *_QE_DEBUG),
        evidence=replace(parts, qe=debug),
        collateral=edit_identity(bench.collateral(), lambda j: j.update(mask)),
    )
    yield bench.case(
        "untrusted_root",
        "quote and collateral of an untrusted root",
        Expect.refuse(
            Code.ROOT_NOT_TRUSTED,
            "Failed to parse root CA CRL",
            "InvalidCrlSignatureForPublicKey",
        ),
        number=4,
        evidence=foreign,
        collateral=bench.attacker.collateral(
            fmspc=attacker.fmspc, ca="platform", tee=Tee.TDX, now=bench.now
        ),
    )

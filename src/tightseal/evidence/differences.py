# SPDX-License-Identifier: Apache-2.0
"""Every rule in which the native verifier and dcap-qvl 0.7 differ on purpose.

A pair of answers that differ without a row here is a defect of one of them, and is
counted and logged as one. The documentation prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.model.verifiers import VerifierException

__all__ = [
    "DIFFERENCES",
    "Difference",
    "Stricter",
    "difference_by_error",
    "difference_of",
    "differences_markdown",
]


class Stricter(StrEnum):
    """Which verifier refuses what the other lets pass."""

    NATIVE = "native"
    DCAP_QVL = "dcap-qvl"


@dataclass(frozen=True, slots=True)
class Difference:
    """One rule.

    Attributes:
        rule: stable name, for metrics and logs.
        stricter: who refuses.
        what: what is refused, and what the other does with it.
        codes: the native error codes that show it; empty where dcap-qvl is stricter.
        family: only errors of this family show it.
        qvl_error: dcap-qvl's whole message, where dcap-qvl is stricter.
        exception: the release setting that overrules dcap-qvl, where there is one.
    """

    rule: str
    stricter: Stricter
    what: str
    codes: frozenset[Code] = frozenset()
    family: type[TightsealError] = TightsealError
    qvl_error: str | None = None
    exception: VerifierException | None = field(default=None)


def _native(
    rule: str, what: str, *codes: Code, family: type[TightsealError] = TightsealError
) -> Difference:
    return Difference(rule, Stricter.NATIVE, what, frozenset(codes), family)


def _qvl(
    rule: str, what: str, error: str, exception: VerifierException | None = None
) -> Difference:
    return Difference(
        rule, Stricter.DCAP_QVL, what, qvl_error=error, exception=exception
    )


DIFFERENCES: Final[tuple[Difference, ...]] = (
    _native(
        "tcb_signing_role",
        "TCB info or QE identity signed by any certificate but Intel's TCB signing "
        "certificate. dcap-qvl takes every leaf under the root, a PCK certificate too.",
        Code.CERTIFICATE_ROLE_MISMATCH,
        family=CollateralError,
    ),
    _native(
        "pck_certificate_names",
        "A PCK certificate or PCK CA under another name, or with flags of another "
        "role. dcap-qvl does not look at names.",
        Code.CERTIFICATE_ROLE_MISMATCH,
        family=EvidenceError,
    ),
    _native(
        "pceid",
        "TCB info for another PCEID than the PCK certificate's. dcap-qvl does not "
        "compare them.",
        Code.PCEID_MISMATCH,
    ),
    _native(
        "trailing_bytes",
        "Bytes other than zero after the quote's declared end. dcap-qvl accepts any.",
        Code.QUOTE_TRAILING_BYTES,
    ),
    _native(
        "embedded_chain",
        "A PCK chain in the quote that is not the one that the collateral delivers. "
        "Given a chain, dcap-qvl never reads the quote's; it is not given one here.",
        Code.EMBEDDED_CHAIN_MISMATCH,
    ),
    _native(
        "certification_data",
        "Certification data of another type than the PCK chain. dcap-qvl ignores the "
        "outer type, and the inner one where the collateral delivers a chain.",
        Code.CERTIFICATION_DATA_UNSUPPORTED,
    ),
    _native(
        "exact_lengths",
        "Lengths in the quote that do not account for every byte of it. dcap-qvl "
        "leaves the rest of a section unread.",
        Code.QUOTE_MALFORMED,
    ),
    _native(
        "qe_report_data",
        "QE report data whose second half is not zero. dcap-qvl compares the hash in "
        "the first half alone.",
        Code.QE_REPORT_DATA_MISMATCH,
    ),
    _native(
        "sgx_init",
        "An SGX report without INIT: not of a running enclave. dcap-qvl does not look.",
        Code.SGX_NOT_INITIALISED,
    ),
    _native(
        "sgx_mode64bit",
        "An SGX report without MODE64BIT. dcap-qvl does not look.",
        Code.SGX_NOT_64BIT,
    ),
    _native(
        "certificate_form",
        "Certificates outside Intel's profile: text around the PEM blocks, base64 that "
        "is not canonical or not in lines of 64 with line ends of one kind, more than "
        "three in a chain, key identifiers that do not match, unknown critical "
        "extensions. dcap-qvl searches a path among what it is given.",
        Code.CERTIFICATE_MALFORMED,
        Code.CERTIFICATE_CHAIN_INVALID,
        Code.CERTIFICATE_CHAIN_TOO_LONG,
        Code.ROOT_NOT_TRUSTED,
    ),
    _native(
        "root_validity",
        "A root certificate outside its validity period. dcap-qvl takes the root as an "
        "anchor without a period.",
        Code.CERTIFICATE_EXPIRED,
        Code.CERTIFICATE_NOT_YET_VALID,
    ),
    _native(
        "pck_extension",
        "An SGX extension that is not strict DER, with a field doubled, unknown or of "
        "the wrong size, or whose CPUSVN is not its components. dcap-qvl takes the "
        "first that it finds, and CPUSVN in place of the components.",
        Code.PCK_EXTENSION_INVALID,
    ),
    _native(
        "crl_form",
        "A CRL without number, next update or authority key identifier, with a "
        "critical extension, of another issuer, or issued after the time in question. "
        "dcap-qvl enforces signature and next update.",
        Code.CRL_MALFORMED,
        Code.CRL_ISSUER_MISMATCH,
        Code.CRL_NOT_YET_VALID,
    ),
    _native(
        "signed_json",
        "TCB info or QE identity with a key given twice anywhere, a date of another "
        "form, a value outside its own mask, or a type that Intel does not use. "
        "dcap-qvl reads the members it needs.",
        Code.TCB_INFO_MALFORMED,
        Code.QE_IDENTITY_MALFORMED,
        Code.TCB_INFO_TYPE_MISMATCH,
    ),
    _native(
        "bounds",
        "Evidence or collateral longer than the documented bounds.",
        Code.EVIDENCE_TOO_LARGE,
        Code.COLLATERAL_TOO_LARGE,
    ),
    _native(
        "collateral_rollback",
        "Collateral older than what was seen before, or than the floor built into the "
        "release. dcap-qvl keeps no memory.",
        Code.COLLATERAL_ROLLBACK,
    ),
    _qvl(
        "sept_ve_disable",
        "A TD without SEPT_VE_DISABLE, as on Azure. Ours refuses it too, unless the "
        "exception is named.",
        "SEPT_VE_DISABLE is not enabled",
        VerifierException.SEPT_VE_ENABLED,
    ),
    _qvl(
        "qe_auth_data_length",
        "QE authentication data of a length other than 32 bytes. Intel allows any, and "
        "so does ours.",
        "Invalid QE auth data length",
        VerifierException.QE_AUTH_DATA_LENGTH,
    ),
    _qvl(
        "root_crl_number",
        "A root CRL number above 32 bits, which RFC 5280 allows.",
        "Failed to parse root CA CRL for claims",
    ),
    _qvl(
        "pck_crl_number",
        "A PCK CRL number above 32 bits, which RFC 5280 allows.",
        "Failed to parse PCK CRL for claims",
    ),
    _qvl(
        "pce_svn",
        "A PCESVN from 32768 on, which takes three bytes in the PCK certificate.",
        "PceSvn length mismatch",
    ),
    _qvl(
        "pck_certificate_parts",
        "A PCK certificate with object identifiers or name attributes of an unusual "
        "form, which ours does not read.",
        "Failed to decode certificate",
    ),
    _qvl(
        "issuer_certificate_parts",
        "The same in a certificate of TCB info or QE identity.",
        "Failed to parse certificate for time window",
    ),
)
"""The table, native verifier's rules first."""


def difference_of(error: TightsealError) -> Difference | None:
    """The rule behind a refusal by the native verifier alone, where one explains it."""
    for difference in DIFFERENCES:
        if error.code in difference.codes and isinstance(error, difference.family):
            return difference
    return None


def difference_by_error(message: str) -> Difference | None:
    """The rule behind a refusal by dcap-qvl alone, by its whole message."""
    for difference in DIFFERENCES:
        if difference.qvl_error == message:
            return difference
    return None


def differences_markdown() -> str:
    """The table in Markdown, for the documentation and the command line."""
    lines = [
        "| Rule | Stricter | What is refused | Shown by | Exception |",
        "| --- | --- | --- | --- | --- |",
    ]
    for difference in DIFFERENCES:
        if difference.qvl_error is None:
            codes = sorted(code.value for code in difference.codes)
            shown = ", ".join(f"`{code}`" for code in codes)
        else:
            shown = f"dcap-qvl: {difference.qvl_error}"
        exception = difference.exception
        named = "none" if exception is None else f"`{exception.value}`"
        lines.append(
            f"| `{difference.rule}` | {difference.stricter.value} | {difference.what} "
            f"| {shown} | {named} |"
        )
    return "\n".join(lines) + "\n"

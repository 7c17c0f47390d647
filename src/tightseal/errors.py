# SPDX-License-Identifier: Apache-2.0
"""One tree of errors, by who is at fault.

Every error has a stable :class:`Code` and two texts. ``public`` is what an untrusted
caller may learn: a fixed sentence per code. ``detail`` is for the operator: what was
expected and what came. Neither ever holds key material.

The families say who has to act:

* :class:`EvidenceError`: the evidence, so whoever presented it.
* :class:`CollateralError`: the collateral, or the place it came from.
* :class:`PolicyError`: nobody; the evidence is authentic and the answer is no.
* :class:`KeyReleaseError`: the key material or the envelope.
* :class:`ServiceError`: the provider, its host, its settings, or the request's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

__all__ = [
    "CODES",
    "Code",
    "CodeInfo",
    "CollateralError",
    "EvidenceError",
    "Fault",
    "KeyReleaseError",
    "PlatformError",
    "PolicyError",
    "ProviderError",
    "RequestError",
    "ServiceError",
    "SettingsError",
    "TightsealError",
]

MAX_DETAIL_CHARS: Final = 1000
"""Longest operator text; evidence is attacker-chosen and ends up in logs."""


class Fault(Enum):
    """Who has to act on an error."""

    EVIDENCE = "evidence"
    COLLATERAL = "collateral"
    POLICY = "policy"
    KEY = "key"
    SERVICE = "service"


class Code(StrEnum):
    """Every stable code. Codes are added, never renamed or reused."""

    # How evidence is formed
    EVIDENCE_UNREADABLE = "evidence_unreadable"
    EVIDENCE_TOO_LARGE = "evidence_too_large"
    EVIDENCE_KIND_UNSUPPORTED = "evidence_kind_unsupported"
    QUOTE_TRUNCATED = "quote_truncated"
    QUOTE_MALFORMED = "quote_malformed"
    QUOTE_TRAILING_BYTES = "quote_trailing_bytes"
    QUOTE_VERSION_UNSUPPORTED = "quote_version_unsupported"
    QUOTE_TEE_TYPE_INVALID = "quote_tee_type_invalid"
    QUOTE_BODY_TYPE_INVALID = "quote_body_type_invalid"
    ATTESTATION_KEY_TYPE_UNSUPPORTED = "attestation_key_type_unsupported"
    QE_VENDOR_UNKNOWN = "qe_vendor_unknown"
    CERTIFICATION_DATA_UNSUPPORTED = "certification_data_unsupported"
    # Certificates in evidence and collateral
    CERTIFICATE_MALFORMED = "certificate_malformed"
    CERTIFICATE_CHAIN_INVALID = "certificate_chain_invalid"
    CERTIFICATE_CHAIN_TOO_LONG = "certificate_chain_too_long"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    CERTIFICATE_ROLE_MISMATCH = "certificate_role_mismatch"
    ROOT_NOT_TRUSTED = "root_not_trusted"
    EMBEDDED_CHAIN_MISMATCH = "embedded_chain_mismatch"
    PCK_EXTENSION_INVALID = "pck_extension_invalid"
    # Signatures and bindings of evidence
    QE_REPORT_SIGNATURE_INVALID = "qe_report_signature_invalid"
    QE_REPORT_DATA_MISMATCH = "qe_report_data_mismatch"
    QUOTE_SIGNATURE_INVALID = "quote_signature_invalid"
    QE_IDENTITY_MISMATCH = "qe_identity_mismatch"
    QE_DEBUG = "qe_debug"
    QE_TCB_UNKNOWN = "qe_tcb_unknown"
    TCB_LEVEL_UNKNOWN = "tcb_level_unknown"
    TCB_REVOKED = "tcb_revoked"
    TDX_MODULE_MISMATCH = "tdx_module_mismatch"
    TDX_MODULE_TCB_UNKNOWN = "tdx_module_tcb_unknown"
    # Attributes in evidence
    DEBUG_ENABLED = "debug_enabled"
    TD_ATTRIBUTES_RESERVED = "td_attributes_reserved"
    TD_PROFILING = "td_profiling"
    TD_MIGRATABLE = "td_migratable"
    TD_SERVICE_TD = "td_service_td"
    SEPT_VE_ENABLED = "sept_ve_enabled"
    SGX_NOT_INITIALISED = "sgx_not_initialised"
    SGX_NOT_64BIT = "sgx_not_64bit"
    # SEV-SNP evidence
    SNP_VERSION_UNSUPPORTED = "snp_version_unsupported"
    SNP_REPORT_MALFORMED = "snp_report_malformed"
    SNP_SIGNATURE_ALGORITHM = "snp_signature_algorithm_unsupported"
    SNP_SIGNATURE_INVALID = "snp_signature_invalid"
    SNP_SIGNING_KEY_MISMATCH = "snp_signing_key_mismatch"
    SNP_PRODUCT_UNKNOWN = "snp_product_unknown"
    SNP_TCB_MISMATCH = "snp_tcb_mismatch"
    SNP_CHIP_ID_MISMATCH = "snp_chip_id_mismatch"
    SNP_MIGRATABLE = "snp_migratable"
    SNP_PRODUCT_MISMATCH = "snp_product_mismatch"
    SNP_EXTENSION_INVALID = "snp_extension_invalid"
    SNP_CERTIFICATE_TABLE_MALFORMED = "snp_certificate_table_malformed"
    HCL_MALFORMED = "hcl_malformed"
    HCL_RUNTIME_DATA_MISMATCH = "hcl_runtime_data_mismatch"
    # two verifiers
    VERIFIERS_DISAGREE = "verifiers_disagree"
    # event logs
    EVENT_LOG_MALFORMED = "event_log_malformed"
    EVENT_LOG_TOO_LARGE = "event_log_too_large"
    EVENT_LOG_DIGEST_MISMATCH = "event_log_digest_mismatch"
    EVENT_LOG_MISMATCH = "event_log_mismatch"
    EVENT_LOG_DUPLICATE = "event_log_duplicate"
    EVENT_LOG_MISPLACED = "event_log_misplaced"
    # collateral
    COLLATERAL_UNREADABLE = "collateral_unreadable"
    COLLATERAL_UNAVAILABLE = "collateral_unavailable"
    COLLATERAL_NOT_FOUND = "collateral_not_found"
    COLLATERAL_GUARD_BROKEN = "collateral_guard_broken"
    COLLATERAL_TOO_LARGE = "collateral_too_large"
    COLLATERAL_ROLLBACK = "collateral_rollback"
    CRL_MALFORMED = "crl_malformed"
    CRL_SIGNATURE_INVALID = "crl_signature_invalid"
    CRL_EXPIRED = "crl_expired"
    CRL_NOT_YET_VALID = "crl_not_yet_valid"
    CRL_ISSUER_MISMATCH = "crl_issuer_mismatch"
    TCB_INFO_MALFORMED = "tcb_info_malformed"
    TCB_INFO_SIGNATURE_INVALID = "tcb_info_signature_invalid"
    TCB_INFO_EXPIRED = "tcb_info_expired"
    TCB_INFO_NOT_YET_VALID = "tcb_info_not_yet_valid"
    TCB_INFO_TYPE_MISMATCH = "tcb_info_type_mismatch"
    FMSPC_MISMATCH = "fmspc_mismatch"
    PCEID_MISMATCH = "pceid_mismatch"
    QE_IDENTITY_MALFORMED = "qe_identity_malformed"
    QE_IDENTITY_SIGNATURE_INVALID = "qe_identity_signature_invalid"
    QE_IDENTITY_EXPIRED = "qe_identity_expired"
    QE_IDENTITY_NOT_YET_VALID = "qe_identity_not_yet_valid"
    QE_IDENTITY_TYPE_MISMATCH = "qe_identity_type_mismatch"
    # policy
    TCB_STATUS_NOT_ACCEPTED = "tcb_status_not_accepted"
    IDENTITY_UNBOUND = "identity_unbound"
    MEASUREMENT_UNAVAILABLE = "measurement_unavailable"
    PLATFORM_MISMATCH = "platform_mismatch"
    PLATFORM_UNKNOWN = "platform_unknown"
    SIMULATED_NOT_ALLOWED = "simulated_not_allowed"
    TRUST_DOMAIN_MISMATCH = "trust_domain_mismatch"
    SINGLE_VERIFIER_NOT_ACCEPTED = "single_verifier_not_accepted"
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    MEASUREMENTS_NOT_ACCEPTED = "measurements_not_accepted"
    IMAGE_NOT_YET_VALID = "image_not_yet_valid"
    IMAGE_EXPIRED = "image_expired"
    WORKLOAD_AMBIGUOUS = "workload_ambiguous"
    TCB_ADVISORY_NOT_ACCEPTED = "tcb_advisory_not_accepted"
    TCB_EVALUATION_TOO_OLD = "tcb_evaluation_too_old"
    PLATFORM_OPTION_NOT_ACCEPTED = "platform_option_not_accepted"
    PROTOCOL_NOT_ALLOWED = "protocol_not_allowed"
    KEY_LENGTH_NOT_ALLOWED = "key_length_not_allowed"
    KEY_LABEL_NOT_ALLOWED = "key_label_not_allowed"
    # key
    RECIPIENT_KEY_INVALID = "recipient_key_invalid"
    KEM_UNSUPPORTED = "kem_unsupported"
    ENVELOPE_INVALID = "envelope_invalid"
    KEY_PATH_INVALID = "key_path_invalid"
    SEALING_KEY_UNAVAILABLE = "sealing_key_unavailable"
    # the exchange
    REPORT_DATA_MISMATCH = "report_data_mismatch"
    REPORT_DATA_UNBOUND = "report_data_unbound"
    NONCE_UNKNOWN = "nonce_unknown"
    NONCE_EXPIRED = "nonce_expired"
    NONCE_REPLAYED = "nonce_replayed"
    # service
    REQUEST_MALFORMED = "request_malformed"
    REQUEST_TOO_LARGE = "request_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    OVERLOADED = "overloaded"
    SETTINGS_INVALID = "settings_invalid"
    POLICY_INVALID = "policy_invalid"
    PLATFORM_FAILED = "platform_failed"
    PLATFORM_UNSUPPORTED = "platform_unsupported"
    PROVIDER_DEBUG = "provider_debug"
    PROVIDER_NOT_READY = "provider_not_ready"
    JOURNAL_FAILED = "journal_failed"
    STATE_MISSING = "state_missing"
    STATE_EXISTS = "state_exists"
    STATE_CONFLICT = "state_conflict"
    STATE_TAMPERED = "state_tampered"
    STATE_ROLLED_BACK = "state_rolled_back"
    STATE_UNAVAILABLE = "state_unavailable"
    STATE_SCHEMA_UNSUPPORTED = "state_schema_unsupported"
    STATE_TOO_LARGE = "state_too_large"
    CLOCK_BEHIND = "clock_behind"
    INTERNAL = "internal"
    # what a client refuses
    CHALLENGE_INVALID = "challenge_invalid"
    PROVIDER_IDENTITY_MISMATCH = "provider_identity_mismatch"
    PROVIDER_UNVERIFIED = "provider_unverified"
    PROVIDER_SIMULATED = "provider_simulated"
    RESPONSE_INVALID = "response_invalid"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    PROVIDER_REFUSED = "provider_refused"


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means.

    Attributes:
        fault: who has to act.
        status: HTTP status of the problem document.
        public: the only sentence an untrusted caller gets.
        remedy: what the operator should do next; empty where ``detail`` says it.
    """

    fault: Fault
    status: int
    public: str
    remedy: str = ""


_EVIDENCE_DEFAULT: Final = CodeInfo(Fault.EVIDENCE, 403, "The evidence was refused.")
_COLLATERAL_DEFAULT: Final = CodeInfo(
    Fault.COLLATERAL,
    503,
    "The evidence cannot be judged at the moment.",
    "Refresh the collateral: tightseal collateral fetch",
)
_POLICY_DEFAULT: Final = CodeInfo(Fault.POLICY, 403, "The policy does not allow this.")
_KEY_DEFAULT: Final = CodeInfo(Fault.KEY, 400, "The key cannot be delivered this way.")
_EXCHANGE_DEFAULT: Final = CodeInfo(
    Fault.EVIDENCE, 403, "The evidence does not answer this challenge."
)
_SERVICE_DEFAULT: Final = CodeInfo(
    Fault.SERVICE, 503, "The provider cannot serve this request."
)
_CLIENT_DEFAULT: Final = CodeInfo(
    Fault.SERVICE, 502, "The provider could not be trusted or reached."
)

_SPECIFIC: Final[dict[Code, CodeInfo]] = {
    Code.EVIDENCE_UNREADABLE: CodeInfo(
        Fault.EVIDENCE,
        400,
        "The evidence could not be read.",
        "Give the evidence as binary, hex or base64: tightseal inspect FILE",
    ),
    Code.EVIDENCE_TOO_LARGE: CodeInfo(
        Fault.EVIDENCE, 413, "The evidence is larger than the limit."
    ),
    Code.REQUEST_MALFORMED: CodeInfo(
        Fault.SERVICE, 400, "The request is not of the documented form."
    ),
    Code.REQUEST_TOO_LARGE: CodeInfo(
        Fault.SERVICE, 413, "The request is larger than the limit."
    ),
    Code.REQUEST_TIMEOUT: CodeInfo(
        Fault.SERVICE, 408, "The request did not arrive in time."
    ),
    Code.NOT_FOUND: CodeInfo(Fault.SERVICE, 404, "There is nothing at this address."),
    Code.METHOD_NOT_ALLOWED: CodeInfo(
        Fault.SERVICE, 405, "This address does not take this method."
    ),
    Code.OVERLOADED: CodeInfo(
        Fault.SERVICE, 503, "The provider is busy; try again shortly."
    ),
    Code.INTERNAL: CodeInfo(Fault.SERVICE, 500, "The provider met an internal error."),
    Code.SETTINGS_INVALID: CodeInfo(
        Fault.SERVICE,
        500,
        "The provider's settings are invalid.",
        "See every setting: tightseal config show",
    ),
    Code.POLICY_INVALID: CodeInfo(
        Fault.SERVICE,
        500,
        "The provider's policy is invalid.",
        "Check the document: tightseal policy lint FILE",
    ),
    Code.CLOCK_BEHIND: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Set the host's clock: it is behind collateral that was signed before.",
    ),
    Code.STATE_TAMPERED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "The state was changed from outside: restore it from a backup.",
    ),
    Code.STATE_ROLLED_BACK: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "An older state was put back: bring the newest one, or a newer backup.",
    ),
    Code.STATE_SCHEMA_UNSUPPORTED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Older state: tightseal state migrate. Newer state: run a newer version.",
    ),
    Code.NONCE_REPLAYED: CodeInfo(
        Fault.EVIDENCE, 409, "This challenge has been answered already."
    ),
    Code.NONCE_EXPIRED: CodeInfo(
        Fault.EVIDENCE, 403, "The challenge has expired; ask for a new one."
    ),
    Code.COLLATERAL_UNREADABLE: CodeInfo(
        Fault.COLLATERAL,
        503,
        "The collateral could not be read.",
        "Give the JSON of QuoteCollateralV3, or for SNP a folder of certificates.",
    ),
    Code.COLLATERAL_NOT_FOUND: CodeInfo(
        Fault.COLLATERAL,
        503,
        "The evidence cannot be judged at the moment.",
        "No configured PCCS or KDS knows this platform: is it registered there?",
    ),
    Code.COLLATERAL_ROLLBACK: CodeInfo(
        Fault.COLLATERAL,
        503,
        "The evidence cannot be judged at the moment.",
        "Newer collateral was seen before: refresh the PCCS, or name a newer one.",
    ),
    Code.COLLATERAL_GUARD_BROKEN: CodeInfo(
        Fault.COLLATERAL,
        503,
        "The evidence cannot be judged at the moment.",
        "Restore the guard's file from a backup, or move it away and create a new one.",
    ),
    Code.VERIFIERS_DISAGREE: CodeInfo(
        Fault.EVIDENCE,
        403,
        "The evidence was refused.",
        "Compare: tightseal verify --verifier native and --verifier dcap-qvl",
    ),
    Code.EVENT_LOG_MALFORMED: CodeInfo(
        Fault.EVIDENCE,
        400,
        "The event log could not be read.",
        "Send the CCEL table's data, or dstack's event log as a JSON array.",
    ),
    Code.EVENT_LOG_TOO_LARGE: CodeInfo(
        Fault.EVIDENCE, 413, "The event log is larger than the limit."
    ),
    Code.EVENT_LOG_MISMATCH: CodeInfo(
        Fault.EVIDENCE,
        403,
        "The evidence was refused.",
        "Read log and evidence with no event between them, and send the whole log.",
    ),
    Code.ROOT_NOT_TRUSTED: CodeInfo(
        Fault.EVIDENCE,
        403,
        "The evidence was refused.",
        "Evidence of a simulated world needs --root-ca, or its root in the settings.",
    ),
}


def _describe(code: Code) -> CodeInfo:
    """Look up a code, falling back to the default of its block in the enumeration."""
    order = list(Code)
    at = order.index(code)
    blocks = (
        (Code.EVIDENCE_UNREADABLE, _EVIDENCE_DEFAULT),
        (Code.COLLATERAL_UNREADABLE, _COLLATERAL_DEFAULT),
        (Code.TCB_STATUS_NOT_ACCEPTED, _POLICY_DEFAULT),
        (Code.RECIPIENT_KEY_INVALID, _KEY_DEFAULT),
        (Code.REPORT_DATA_MISMATCH, _EXCHANGE_DEFAULT),
        (Code.REQUEST_MALFORMED, _SERVICE_DEFAULT),
        (Code.CHALLENGE_INVALID, _CLIENT_DEFAULT),
    )
    default = _EVIDENCE_DEFAULT
    for first, info in blocks:
        if at >= order.index(first):
            default = info
    return _SPECIFIC.get(code, default)


CODES: Final[dict[Code, CodeInfo]] = {code: _describe(code) for code in Code}
"""Every code with its meaning; the documentation's table is printed from this."""


class TightsealError(Exception):
    """Base of every error that Tightseal raises.

    Args:
        code: the stable code.
        detail: for the operator: what was expected and what came. Cut at
            ``MAX_DETAIL_CHARS``; control characters are replaced, since parts of it
            may come from an attacker and end up in a terminal or a log.

    Attributes:
        checks: the verifier's named checks up to the one that failed; empty where the
            error did not come from a verifier.
    """

    checks: tuple[object, ...] = ()

    def __init__(self, code: Code, detail: str) -> None:
        cut = detail[:MAX_DETAIL_CHARS]
        self.code = code
        self.detail = "".join(
            c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut
        )
        super().__init__(f"{code.value}: {self.detail}")

    def __reduce__(self) -> tuple[type[TightsealError], tuple[Code, str]]:
        """Rebuild from code and detail, so that errors cross process borders."""
        return type(self), (self.code, self.detail)

    @property
    def info(self) -> CodeInfo:
        """The code's meaning: who is at fault, status, public text, remedy."""
        return CODES[self.code]

    @property
    def public(self) -> str:
        """The sentence that an untrusted caller may see."""
        return self.info.public


class EvidenceError(TightsealError):
    """The evidence is not authentic, or not an answer to the challenge."""


class CollateralError(TightsealError):
    """The collateral is missing, malformed, out of date or older than seen before."""


class PolicyError(TightsealError):
    """The evidence is authentic, and the policy says no.

    Attributes:
        reasons: every rule judged, the last one being the one that said no.
    """

    reasons: tuple[object, ...] = ()


class KeyReleaseError(TightsealError):
    """A key cannot be derived, sealed or opened."""


class ServiceError(TightsealError):
    """The provider, its host, its settings or the form of the request is at fault."""


class RequestError(ServiceError):
    """The request does not have the documented form."""


class SettingsError(ServiceError):
    """The settings cannot be used."""


class PlatformError(ServiceError):
    """The platform that the provider or workload stands on did not do its part."""


class ProviderError(ServiceError):
    """Raised by a client: the provider cannot be trusted, reached, or refused."""

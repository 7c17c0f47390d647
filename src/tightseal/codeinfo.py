# SPDX-License-Identifier: Apache-2.0
"""What each code means: HTTP status, the public sentence, and what to do next."""

from __future__ import annotations

from typing import Final

from tightseal.codeinfo_service import SERVICE_CODES
from tightseal.codes import Code, CodeInfo, Fault

__all__ = ["CODES", "CodeInfo"]


_EVIDENCE_DEFAULT: Final = CodeInfo(Fault.EVIDENCE, 403, "The evidence was refused.")
_COLLATERAL_DEFAULT: Final = CodeInfo(
    Fault.COLLATERAL,
    503,
    "The evidence cannot be judged at the moment.",
    "Refresh the collateral: tightseal collateral fetch FILE --pccs URL",
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

_SPECIFIC: Final[dict[Code, CodeInfo]] = SERVICE_CODES | {
    Code.EVIDENCE_UNREADABLE: CodeInfo(
        Fault.EVIDENCE,
        400,
        "The evidence could not be read.",
        "Give the evidence as binary, hex or base64: tightseal inspect FILE",
    ),
    Code.EVIDENCE_TOO_LARGE: CodeInfo(
        Fault.EVIDENCE, 413, "The evidence is larger than the limit."
    ),
    Code.PROVIDER_NOT_ALLOWED: CodeInfo(
        Fault.POLICY,
        403,
        "The handoff was refused.",
        "Name its measurement in a [[provider]] of the policy, and publish that.",
    ),
    Code.PEER_IDENTITY_MISMATCH: CodeInfo(
        Fault.POLICY,
        403,
        "The handoff was refused.",
        "Invite the provider that it is: tightseal provider identity, then invite.",
    ),
    Code.INVITATION_USED: CodeInfo(
        Fault.POLICY,
        409,
        "The invitation was used before.",
        "Make and sign another one: tightseal provider invite",
    ),
    Code.PROVIDER_REVOKED: CodeInfo(
        Fault.POLICY,
        403,
        "The handoff was refused.",
        "Its invitation was revoked; make another one, if it shall come back.",
    ),
    Code.KEY_NOT_IN_BRANCH: CodeInfo(
        Fault.KEY,
        403,
        "This provider has no such key.",
        "It has one tenant's branch of the keys, of chains by hkdf-sha256; ask the"
        " provider of the whole.",
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
    Code.KEY_MISSING: CodeInfo(
        Fault.KEY,
        404,
        "There is no such key yet.",
        "Create it, once: tightseal key --create. Was it created before, then the"
        " state store is another or an older one: restore that first.",
    ),
    Code.USE_INPUT_INVALID: CodeInfo(
        Fault.KEY,
        400,
        "The input of this use cannot be used.",
        "Give the public key of an honest peer, of the type of the key.",
    ),
    Code.IMPORT_INVALID: CodeInfo(
        Fault.KEY,
        400,
        "The key that was handed over cannot be kept.",
        "Import again, in a new exchange, a key of the type and length that the policy"
        " says.",
    ),
    Code.KEY_EXISTS: CodeInfo(
        Fault.KEY,
        409,
        "There is such a key already.",
        "Open it: ask without create.",
    ),
    Code.KEY_TERMS_CHANGED: CodeInfo(
        Fault.KEY,
        409,
        "The key was created on other terms than the policy has now.",
        "Put the terms that the detail names back into the policy, or take another"
        " purpose for a new key.",
    ),
    Code.LOG_CLASS_TOO_LOW: CodeInfo(
        Fault.SERVICE,
        502,
        "The release was seen by fewer than this workload asks for.",
        "Let the provider's policy ask for that class, under the same witness keys.",
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

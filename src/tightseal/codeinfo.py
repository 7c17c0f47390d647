# SPDX-License-Identifier: Apache-2.0
"""What each code means: HTTP status, the public sentence, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.codes import Code, Fault

__all__ = ["CODES", "CodeInfo"]


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
        Fault.SERVICE,
        503,
        "The provider is busy; try again shortly.",
        "Raise host.workers or host.threads, add a provider, or have fewer clients.",
    ),
    Code.RATE_LIMITED: CodeInfo(
        Fault.SERVICE,
        429,
        "This was asked too often; try again later.",
        "The detail names the limit; see docs/operations/limits.md.",
    ),
    Code.INTERNAL: CodeInfo(
        Fault.SERVICE,
        500,
        "The provider met an internal error.",
        "This is a defect: report it with the log line internal_error or probe_failed.",
    ),
    Code.SETTINGS_INVALID: CodeInfo(
        Fault.SERVICE,
        500,
        "The provider's settings are invalid.",
        "Change the setting, file or option that is named.",
    ),
    Code.POLICY_INVALID: CodeInfo(
        Fault.SERVICE,
        500,
        "The provider's policy is invalid.",
        "Check the document: tightseal policy lint FILE",
    ),
    Code.POLICY_MISSING: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Give the provider its first bundle: tightseal policy publish",
    ),
    Code.POLICY_EXPIRED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Sign the policy anew and publish it: tightseal policy sign",
    ),
    Code.BUNDLE_MALFORMED: CodeInfo(
        Fault.SERVICE,
        400,
        "The bundle is not of the documented form.",
        "Make it anew: tightseal policy publish --out FILE",
    ),
    Code.BUNDLE_ROOT_MISMATCH: CodeInfo(
        Fault.SERVICE,
        403,
        "The bundle was refused.",
        "Its first root is not the pinned one: compare with tightseal policy show",
    ),
    Code.BUNDLE_UNDERSIGNED: CodeInfo(
        Fault.SERVICE,
        403,
        "The bundle was refused.",
        "Let more of the approvers sign: tightseal policy sign",
    ),
    Code.BUNDLE_EXPIRED: CodeInfo(
        Fault.SERVICE,
        403,
        "The bundle was refused.",
        "Sign it anew, with a later end: tightseal policy sign",
    ),
    Code.BUNDLE_ROLLED_BACK: CodeInfo(
        Fault.SERVICE,
        409,
        "The bundle was refused.",
        "A newer one was accepted before: publish that one, or sign a newer one.",
    ),
    Code.BUNDLE_INCOMPLETE: CodeInfo(
        Fault.SERVICE,
        400,
        "The bundle was refused.",
        "A file is missing or is not the one that was signed: sign, then publish.",
    ),
    Code.ACTION_MALFORMED: CodeInfo(
        Fault.SERVICE,
        400,
        "The action is not of the documented form.",
        "Make it anew: tightseal action sign",
    ),
    Code.ACTION_UNDERSIGNED: CodeInfo(
        Fault.SERVICE,
        403,
        "The action was refused.",
        "Let more holders of the role sign: tightseal action sign FILE",
    ),
    Code.ACTION_NOT_ALLOWED: CodeInfo(
        Fault.SERVICE,
        403,
        "The action was refused.",
        "No role of the policy allows it: see [[role]] in tightseal policy show",
    ),
    Code.ACTION_EXPIRED: CodeInfo(
        Fault.SERVICE,
        403,
        "The action was refused.",
        "Make and sign it anew: tightseal action sign",
    ),
    Code.ACTION_REPLAYED: CodeInfo(
        Fault.SERVICE,
        409,
        "The action was refused.",
        "It was done before; to do it again, make and sign another one.",
    ),
    Code.ACTION_PROVIDER_MISMATCH: CodeInfo(
        Fault.SERVICE,
        403,
        "The action was refused.",
        "It was signed for a provider of another policy root or keyring.",
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
    Code.HANDOFF_UNKNOWN: CodeInfo(
        Fault.SERVICE,
        404,
        "There is no such handoff.",
        "Join anew: tightseal provider join",
    ),
    Code.SUCCESSOR_MISSING: CodeInfo(
        Fault.SERVICE,
        409,
        "No other provider has confirmed that it opens this keyring.",
        "Let one join first: tightseal provider upgrade",
    ),
    Code.HANDOFF_INVALID: CodeInfo(
        Fault.SERVICE,
        502,
        "The handoff is not what was agreed.",
        "Nothing was written. Try again; if it stays, the other provider or the way"
        " to it is not what it says.",
    ),
    Code.KEY_NOT_IN_BRANCH: CodeInfo(
        Fault.KEY,
        403,
        "This provider has no such key.",
        "It has one tenant's branch of the keys, of chains by hkdf-sha256; ask the"
        " provider of the whole.",
    ),
    Code.KEYRING_MISSING: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Restore the keyring's file, or make one: tightseal keyring init",
    ),
    Code.KEYRING_MALFORMED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "The keyring is damaged: restore its newest copy.",
    ),
    Code.KEYRING_TAMPERED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "The keyring was changed or mixed: restore its newest copy.",
    ),
    Code.KEYRING_ROLLED_BACK: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "This is an older keyring: bring the newest one.",
    ),
    Code.KEYRING_MISMATCH: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "The keyring is for another provider; the detail has both values.",
    ),
    Code.SLOT_UNAVAILABLE: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Start where one of the listed slots opens, then mend the others.",
    ),
    Code.KEYRING_EXISTS: CodeInfo(
        Fault.SERVICE,
        409,
        "The provider cannot serve this request.",
        "Look at it: tightseal keyring status",
    ),
    Code.SLOT_NOT_ALLOWED: CodeInfo(
        Fault.SERVICE,
        403,
        "The provider cannot serve this request.",
        "Add it beside a first factor: --class sgx --with tpm2",
    ),
    Code.SLOT_LAST: CodeInfo(
        Fault.SERVICE,
        409,
        "The provider cannot serve this request.",
        "Add a slot, test it, then remove this one.",
    ),
    Code.STATE_CONFLICT: CodeInfo(
        Fault.SERVICE,
        409,
        "The provider cannot serve this request.",
        "Somebody else wrote: look again, and repeat.",
    ),
    Code.STATE_EXISTS: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "There is one already: look at it with tightseal state check, or move it away.",
    ),
    Code.STATE_MISSING: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Bring the state back: tightseal state restore, or mend host.state.",
    ),
    Code.STATE_UNAVAILABLE: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Mend the state's database or disk; the log says what it answered.",
    ),
    Code.STATE_TOO_LARGE: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "What was to be kept is above a bound of the state: the log says which.",
    ),
    Code.JOURNAL_FAILED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Make room on the journal's disk, or restore its file; the log says which.",
    ),
    Code.PLATFORM_FAILED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Gramine, configfs or the device did not do its part: the log says which.",
    ),
    Code.PLATFORM_UNSUPPORTED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Name the platform that this machine has: host.platform.kind, or --platform",
    ),
    Code.PROVIDER_DEBUG: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Build the provider's own enclave or guest without debug.",
    ),
    Code.PROVIDER_NOT_READY: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "Ask again shortly; where it stays, /readyz names the part that is missing.",
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
    Code.LOG_MALFORMED: CodeInfo(
        Fault.SERVICE,
        400,
        "The log's text is not of the documented form.",
        "Fetch it again, whole and unchanged, from whoever keeps the log.",
    ),
    Code.LOG_TAMPERED: CodeInfo(
        Fault.SERVICE,
        503,
        "The provider cannot serve this request.",
        "The log was changed or cut: keep it as it is, and bring the newest backup.",
    ),
    Code.LOG_UNDERSIGNED: CodeInfo(
        Fault.SERVICE,
        403,
        "The log's checkpoint was refused.",
        "Give the log's own key and its witnesses' keys, as they were published.",
    ),
    Code.LOG_PROOF_INVALID: CodeInfo(
        Fault.SERVICE,
        422,
        "The log's proof was refused.",
        "Proof and checkpoint are not of one tree: make both anew.",
    ),
    Code.LOG_FORKED: CodeInfo(
        Fault.SERVICE,
        422,
        "The log's checkpoint was refused.",
        "Two trees are signed for one log: keep both checkpoints, they prove it.",
    ),
    Code.LOG_MISSING: CodeInfo(
        Fault.SERVICE,
        404,
        "There is no such log here.",
        "Write it: tightseal audit export --tiles FOLDER",
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

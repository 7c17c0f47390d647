# SPDX-License-Identifier: Apache-2.0
"""What the codes mean that are a provider's or its operator's to mend."""

from __future__ import annotations

from typing import Final

from tightseal.codes import Code, CodeInfo, Fault

__all__ = ["SERVICE_CODES"]

SERVICE_CODES: Final[dict[Code, CodeInfo]] = {
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
    Code.LOG_UNREACHABLE: CodeInfo(
        Fault.SERVICE,
        503,
        "The log cannot be read just now.",
        "Look at the address, the network and the rights there; nothing was judged.",
    ),
    Code.LOG_NOT_WITNESSED: CodeInfo(
        Fault.SERVICE,
        503,
        "The release is not witnessed yet; send the very same request again.",
        "Let the witnesses that the policy names answer: host.witnesses, and the log.",
    ),
    Code.LOG_NOT_ANCHORED: CodeInfo(
        Fault.SERVICE,
        503,
        "The release is not anchored yet; send the very same request again.",
        "Let the state store take the log's head; the log says what it answers.",
    ),
}
"""Codes whose fault is the service; :mod:`tightseal.codeinfo` has the others."""

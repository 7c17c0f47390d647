# SPDX-License-Identifier: Apache-2.0
"""What the journal gets to know of a decision, and what it keeps for a retry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from tightseal.errors import Code, PolicyError, ServiceError
from tightseal.model.canonical import Value, digest
from tightseal.model.claims import Claims
from tightseal.model.grant import Grant, Reason, WrappedUse
from tightseal.model.keypath import KeyRequest
from tightseal.model.keyuse import KeyUse
from tightseal.model.labels import Label
from tightseal.model.logclass import LogNeed
from tightseal.model.ports import Completion, JournalEntry
from tightseal.model.wire import KeysResponse, ParsedKeysResponse, encode_json
from tightseal.release.policy import InForce

__all__ = [
    "ENTRY_ID_BYTES",
    "Decision",
    "keep_denial",
    "keep_response",
    "kept_answer",
    "kept_with_proof",
    "uses_of",
]

ENTRY_ID_BYTES: Final = 16

MAX_REASONS_CHARS: Final = 1 << 17
"""Longest text of all reasons in one entry; longer ones are each cut.

A document may list so much that the rules of one request outgrow an entry: then each
release would be counted, and fail at the journal.
"""

CUT_CHARS: Final = 128
"""What is left of a long text then: room for the longest name."""

_KEPT_RESPONSE: Final = b"R"
_KEPT_DENIAL: Final = b"D"
"""First byte of what the journal keeps for a retry: a response, or a denial's code."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision on its way into the journal.

    Attributes:
        claims: that were judged.
        in_force: the policy that judged them.
        protocol_class: ``v1`` or ``legacy``.
        event_log_hash: SHA-256 of the event log sent along, or ``None``.
        uses: of :func:`uses_of`; empty where every request is for a key.
    """

    claims: Claims
    in_force: InForce
    protocol_class: str
    event_log_hash: bytes | None = None
    uses: tuple[Value, ...] = ()

    def granted(
        self,
        grant: Grant,
        *,
        entry_id: bytes,
        now: int,
        need: LogNeed | None = None,
    ) -> JournalEntry:
        """The entry of a grant: everything but the keys.

        ``need`` is in it where others have to see the entry before the keys leave. So
        such an entry alone does not say that they left.
        """
        body: dict[str, Value] = {
            "keys": [path.as_value() for path in grant.paths],
            "workload": grant.workload,
            "image": grant.image,
        }
        if need is not None and need.waits:
            body["log"] = need.as_value()
        if any(grant.wrapped):
            body["wrapped"] = [_wrapped(use) for use in grant.wrapped]
        return self.entry("granted", body, grant.reasons, entry_id=entry_id, now=now)

    def denied(self, denial: PolicyError, *, entry_id: bytes, now: int) -> JournalEntry:
        """The entry of a denial, with every rule that was judged."""
        reasons = tuple(r for r in denial.reasons if isinstance(r, Reason))
        body: dict[str, Value] = {"keys": [], "detail": denial.detail}
        return self.entry(denial.code.value, body, reasons, entry_id=entry_id, now=now)

    def entry(
        self,
        code: str,
        body: dict[str, Value],
        reasons: tuple[Reason, ...],
        *,
        entry_id: bytes,
        now: int,
    ) -> JournalEntry:
        """An entry with what all decisions have in common.

        Args:
            code: ``granted``, or the stable code of the refusal.
            body: what is this kind of decision's own.
            reasons: every rule that was judged.
            entry_id: 16 random bytes.
            now: Unix seconds.
        """
        claims, in_force = self.claims, self.in_force
        shared: dict[str, Value] = {
            "evidence_hash": claims.evidence_hash,
            "claims_digest": digest(Label.CLAIMS, claims.as_value()),
            "event_log_hash": self.event_log_hash,
            "settings_digest": in_force.settings_digest,
            "policy": [in_force.version, in_force.digest],
            "single_verifier": claims.single_verifier,
            "reasons": _fitting(reasons),
        }
        if self.uses:
            shared["uses"] = self.uses
        return JournalEntry(
            entry_id=entry_id,
            time=now,
            granted=code == "granted",
            protocol_class=self.protocol_class,
            code=code,
            body=body | shared,
        )


def uses_of(keys: tuple[KeyRequest, ...]) -> tuple[Value, ...]:
    """Of each request its operation with SHA-256 of input and context, or ``None``.

    Inputs and results are never in the journal: it lies outside the TEE. A short or
    guessable input can be found from its hash all the same.
    """
    if not any(key.use for key in keys):
        return ()
    return tuple(None if key.use is None else _use(key.use) for key in keys)


def _use(use: KeyUse) -> Value:
    hashes = (hashlib.sha256(use.data).digest(), hashlib.sha256(use.context).digest())
    return [use.operation.value, *hashes]


def _wrapped(use: WrappedUse | None) -> Value:
    """Of each key whether it was created, imported or opened; of a derived one none."""
    if use is None:
        return None
    if use.imported:
        return "imported"
    return "created" if use.create else "opened"


def _fitting(reasons: tuple[Reason, ...]) -> list[Value]:
    """The reasons as an entry can hold them; none is left out."""
    texts = [(r.rule, r.expected, r.got, r.satisfied) for r in reasons]
    total = sum(len(text) for *said, _ in texts for text in said)
    if total <= MAX_REASONS_CHARS:
        return [list(reason) for reason in texts]
    return [[_cut(rule), _cut(a), _cut(b), holds] for rule, a, b, holds in texts]


def _cut(text: str) -> str:
    if len(text) <= CUT_CHARS:
        return text
    return f"{text[: CUT_CHARS - 1]}…"


def keep_response(response: bytes) -> bytes:
    """What is kept of an answer."""
    return _KEPT_RESPONSE + response


def kept_with_proof(response: ParsedKeysResponse) -> bytes | Completion:
    """What is kept of a signed response: with its proof, where a log was promised."""

    def complete(proof: bytes) -> bytes:
        proved = replace(response, log_proof=proof)
        return keep_response(encode_json(KeysResponse.of(proved)))

    return complete if response.logged is not None else complete(b"")


def keep_denial(denial: PolicyError) -> bytes:
    """What is kept of a denial."""
    return _KEPT_DENIAL + denial.code.value.encode()


def kept_answer(kept: bytes) -> bytes:
    """Give what the journal keeps: the response, or the denial once more.

    Raises:
        PolicyError: the denial.
        ServiceError: ``journal_failed``, where it keeps no answer of ours.
    """
    if kept[:1] == _KEPT_RESPONSE:
        return kept[1:]
    # An answer that waits is opened by its holder alone, and is none here.
    try:
        code = Code(kept.removeprefix(_KEPT_DENIAL).decode())
    except ValueError as e:
        # The journal lies outside the TEE.
        detail = "what is kept for this nonce is no answer of ours"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e
    raise PolicyError(code, "denied before, in answer to this very request")

# SPDX-License-Identifier: Apache-2.0
"""What the journal keeps of an answer, and what may leave of what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tightseal.errors import Code, PolicyError
from tightseal.model.exchange import LogPromise
from tightseal.model.grant import Reason
from tightseal.model.logclass import (
    WITHOUT_ANCHOR,
    LogClass,
    LogCover,
    LogNeed,
    SignedCover,
)
from tightseal.model.ports import Completion, NonceRedemption
from tightseal.model.wire import (
    KeysResponse,
    ParsedKeysResponse,
    decode_json,
    encode_json,
)
from tightseal.platform.attested import AttestedKey
from tightseal.release.begun import Finished
from tightseal.release.hold import (
    Held,
    Holder,
    Kept,
    index_of,
    is_held,
    not_covered,
)
from tightseal.release.journal import keep_response, kept_answer, kept_with_proof
from tightseal.release.memory import Memory

__all__ = ["Answers", "as_it_is", "held_apart", "require_log_anchor"]


@dataclass(frozen=True, slots=True)
class Answers:
    """Keeps answers in the journal, and gives back what may leave.

    Attributes:
        holder: seals those that wait.
    """

    holder: Holder

    def keep(
        self,
        response: ParsedKeysResponse,
        need: LogNeed,
        redemption: NonceRedemption,
    ) -> bytes | Completion:
        """What the journal keeps of a signed response.

        Raises:
            ServiceError: where it waits, and there is no log that others could see.
        """
        if not need.waits:
            return kept_with_proof(response)
        promise = _promised(need, response.logged)

        def complete(proof: bytes) -> bytes:
            proved = replace(response, log_proof=proof)
            body = encode_json(KeysResponse.of(proved))
            kept = Kept(need, promise, index_of(proof), body)
            return self.holder.seal(kept, redemption)

        return complete

    def keep_as_it_is(
        self,
        response: bytes,
        need: LogNeed,
        promise: LogPromise | None,
        redemption: NonceRedemption,
    ) -> bytes | Completion:
        """The same of an answer that says nothing of the log, such as a keyring's."""
        if not need.waits:
            return keep_response(response)
        known = _promised(need, promise)

        def complete(proof: bytes) -> bytes:
            kept = Kept(need, known, index_of(proof), response)
            return self.holder.seal(kept, redemption)

        return complete

    def give(
        self,
        kept: bytes,
        redemption: NonceRedemption,
        key: AttestedKey,
        *,
        tenant: str | None = None,
    ) -> Finished:
        """The answer that the journal keeps, or what it waits for.

        Args:
            kept: by the journal, which lies with the host.
            redemption: of this very request.
            key: that signed the challenge of this exchange.
            tenant: that was released to; ``None`` for a retry.

        Raises:
            PolicyError: a denial was kept.
            ServiceError: ``journal_failed``, where it keeps no answer of ours.
        """
        if not is_held(kept):
            return Finished(kept_answer(kept), tenant)
        opened = self.holder.open(kept, redemption)

        def complete(cover: LogCover, proof: bytes) -> bytes:
            return _covered(opened, key, cover, proof)

        held = Held(opened.need, opened.promise, opened.index, complete)
        return Finished(b"", tenant, held)

    def give_as_it_is(self, kept: bytes, redemption: NonceRedemption) -> Finished:
        """The answer of :meth:`keep_as_it_is`; raises as :meth:`give`."""
        if not is_held(kept):
            return Finished(kept_answer(kept))
        opened = self.holder.open(kept, redemption)

        def complete(_cover: LogCover, _proof: bytes) -> bytes:
            return opened.response

        held = Held(opened.need, opened.promise, opened.index, complete)
        return Finished(b"", held=held)


def as_it_is(proof: bytes) -> bytes:
    """Keeps nothing but the proof: for an answer that is in no journal."""
    return proof


def held_apart(
    answer: bytes, need: LogNeed, promise: LogPromise | None, proof: bytes
) -> Held:
    """An answer without a receipt of its own, which is in no journal.

    Raises:
        ServiceError: where there is no log that others could see.
    """
    known = _promised(need, promise)
    return Held(need, known, index_of(proof), lambda _cover, _proof: answer)


def _promised(need: LogNeed, promise: LogPromise | None) -> LogPromise:
    """The promise of an answer that waits.

    Raises:
        ServiceError: ``log_not_anchored`` or ``log_not_witnessed``, where the log is
            kept without a key: nobody could see it.
    """
    if promise is None:
        raise not_covered(need, "the log is kept without a key")
    return promise


def require_log_anchor(need: LogNeed, memory: Memory | None) -> None:
    """Deny what waits for an anchor that there is not.

    Raises:
        PolicyError: ``anchor_required``.
    """
    if need.log_class is not LogClass.ANCHORED:
        return
    anchor = None if memory is None else memory.anchor
    if anchor is not None and (need.without_anchor or anchor not in WITHOUT_ANCHOR):
        return
    got = "no state" if anchor is None else f"state with anchor {anchor.value}"
    expected = "a state with an anchor that outlives the process"
    detail = f"log class {need.log_class.value}: expected {expected}, got {got}"
    denial = PolicyError(Code.ANCHOR_REQUIRED, detail)
    denial.reasons = (Reason("log anchor", expected, got, satisfied=False),)
    raise denial


def _covered(kept: Kept, key: AttestedKey, cover: LogCover, proof: bytes) -> bytes:
    """The answer with its cover, signed for this release alone."""
    response = decode_json(kept.response, KeysResponse).parsed()
    signature = key.sign(cover.to_sign(response.transcript_hash, kept.promise))
    whole = replace(
        response,
        log_proof=proof or response.log_proof,
        log_cover=SignedCover(cover, signature),
    )
    return encode_json(KeysResponse.of(whole))

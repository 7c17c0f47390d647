# SPDX-License-Identifier: Apache-2.0
"""Answers that wait for others to see their entry in the log.

The journal keeps every answer for a retry, and it lies with the host. Where an answer
may leave only once its entry is anchored or cosigned, the host must not find it there
before: so it is kept sealed, under a key that only workers of this start have. What is
sealed says itself what it waits for, and belongs to one request alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tightseal.audit.proof import LogProof
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import decode, encode, labelled
from tightseal.model.exchange import LogPromise
from tightseal.model.labels import Label
from tightseal.model.logclass import LogClass, LogCover, LogNeed
from tightseal.model.ports import NonceRedemption
from tightseal.model.secret import Secret

__all__ = ["HELD", "Held", "Holder", "Kept", "index_of", "is_held", "not_covered"]

HELD: Final = b"H"
"""First byte of what the journal keeps of an answer that waits."""

MAX_HELD_BYTES: Final = 6 << 20
"""Longest answer that is held: what the journal takes."""

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_REFUSED: Final = {
    LogClass.ANCHORED: Code.LOG_NOT_ANCHORED,
    LogClass.COSIGNED: Code.LOG_NOT_WITNESSED,
}


@dataclass(frozen=True, slots=True)
class Held:
    """An answer that waits; nothing of it is for anybody yet.

    Attributes:
        need: what must have seen the entry.
        promise: the log's key and the entry's leaf.
        index: of the entry in the log.
        complete: makes the answer of what covers it, and of a C2SP ``tlog-proof`` to
            the covering checkpoint where there is a new one; else of empty bytes.
    """

    need: LogNeed
    promise: LogPromise
    index: int
    complete: Callable[[LogCover, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of an answer that waits.

    Attributes:
        need: what must have seen the entry.
        promise: the log's key and the entry's leaf.
        index: of the entry in the log.
        response: the answer.
    """

    need: LogNeed
    promise: LogPromise
    index: int
    response: bytes


class Holder:
    """Seals answers for the journal, and opens them again.

    Args:
        key: 32 bytes, shared by the workers of one start, and by nobody else. Random
            nonces: good for 2³² answers.
    """

    def __init__(self, key: Secret) -> None:
        self._box = AESGCM(key.reveal())

    @classmethod
    def alone(cls) -> Holder:
        """One with a key of its own, which nobody shares."""
        return cls(Secret(secrets.token_bytes(KEY_BYTES)))

    def seal(self, kept: Kept, redemption: NonceRedemption) -> bytes:
        """What the journal keeps of an answer to one request."""
        promise = kept.promise.as_value()
        content = [kept.need.as_value(), promise, kept.index, kept.response]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._box.encrypt(nonce, encode(content), _data(redemption))
        return HELD + nonce + sealed

    def open(self, data: bytes, redemption: NonceRedemption) -> Kept:
        """The answer again.

        Raises:
            ServiceError: ``journal_failed``, where it is not what was sealed for this
                very request since this start.
        """
        nonce = data[len(HELD) : len(HELD) + _NONCE_BYTES]
        sealed = data[len(HELD) + _NONCE_BYTES :]
        try:
            plain = self._box.decrypt(nonce, sealed, _data(redemption))
            match decode(plain, max_bytes=MAX_HELD_BYTES):
                case [
                    [str(log_class), [*keys], int(threshold), bool(without)],
                    [str(key), bytes(leaf)],
                    int(index),
                    bytes(response),
                ]:
                    named = tuple(str(one) for one in keys)
                    need = LogNeed(LogClass(log_class), named, threshold, without)
                    return Kept(need, LogPromise(key, leaf), index, response)
        except (InvalidTag, RequestError, ValueError) as e:
            raise _strange() from e
        raise _strange()


def is_held(data: bytes) -> bool:
    """Whether the journal keeps an answer that waits, and not one that may leave."""
    return data[:1] == HELD


def index_of(proof: bytes) -> int:
    """The index of an entry, out of the proof that the journal made in its commit."""
    return LogProof.parse(proof).index


def not_covered(need: LogNeed, why: str) -> ServiceError:
    """The refusal of an answer whose entry others have not seen yet.

    The same request may be sent again: it gets the answer once they have.
    """
    return ServiceError(_REFUSED[need.log_class], f"{need.log_class.value}: {why}")


def _data(redemption: NonceRedemption) -> bytes:
    asked = [redemption.nonce, redemption.request_hash]
    return labelled(Label.SEAL_HELD_RESPONSE, asked)


def _strange() -> ServiceError:
    detail = "what is kept for this nonce is no answer of ours since this start"
    return ServiceError(Code.JOURNAL_FAILED, detail)

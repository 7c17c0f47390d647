# SPDX-License-Identifier: Apache-2.0
"""What a receipt says of policy and log, on the wire."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import LogPromise, PolicyInForce
from tightseal.model.logclass import (
    MAX_WITNESS_KEY_CHARS,
    MAX_WITNESSES,
    LogClass,
    LogCover,
    SignedCover,
)
from tightseal.model.state import AnchorClass
from tightseal.model.wire_fields import (
    HASH_BYTES,
    MAX_POLICY_VERSION,
    SIGNATURE_BYTES,
    BoundedText,
    LogProofText,
    ShortText,
    exactly,
)

__all__ = ["LogCoverJson", "LogRulesJson", "PolicyJson", "ReceiptLogJson"]

MAX_LOG_ENTRIES = 1 << 40
"""Most entries of a log that is believed."""

_WitnessKeyText = Annotated[str, msgspec.Meta(max_length=MAX_WITNESS_KEY_CHARS)]
_WitnessKeys = Annotated[list[_WitnessKeyText], msgspec.Meta(max_length=MAX_WITNESSES)]


class PolicyJson(msgspec.Struct, frozen=True):
    """``PolicyInForce`` on the wire."""

    version: Annotated[int, msgspec.Meta(ge=0, le=MAX_POLICY_VERSION)]
    digest: ShortText

    @classmethod
    def of(cls, policy: PolicyInForce) -> PolicyJson:
        """Encode version and digest."""
        return cls(policy.version, encode_base64url(policy.digest))

    def parsed(self) -> PolicyInForce:
        """Decode both; raises ``request_malformed``."""
        return PolicyInForce(
            self.version, exactly(self.digest, "policy digest", HASH_BYTES)
        )


class LogRulesJson(msgspec.Struct, frozen=True):
    """What the release settings ask of the log, for ``GET /v1/info``.

    Attributes:
        least: least class of every release; purposes may ask for more.
        witnesses: verifier keys of the witnesses that count.
        threshold: how many of them must have cosigned.
    """

    least: LogClass
    witnesses: list[str]
    threshold: int


class LogCoverJson(msgspec.Struct, frozen=True, rename={"log_class": "class"}):
    """``SignedCover`` on the wire.

    Attributes:
        log_class: ``anchored`` or ``cosigned``, under the key ``class``.
        size, root: of the head that has the entry.
        anchor: ``anchored``: what notices that the state goes back.
        witnesses: ``cosigned``: verifier keys that policy named and that cosigned.
        signature: by the attested key over ``LogCover.to_sign``.
    """

    log_class: LogClass
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_LOG_ENTRIES)]
    root: ShortText
    anchor: AnchorClass | None
    witnesses: _WitnessKeys
    signature: ShortText

    @classmethod
    def of(cls, signed: SignedCover) -> LogCoverJson:
        """Encode a cover."""
        cover = signed.cover
        return cls(
            log_class=cover.log_class,
            size=cover.size,
            root=encode_base64url(cover.root),
            anchor=cover.anchor,
            witnesses=list(cover.witnesses),
            signature=encode_base64url(signed.signature),
        )

    def parsed(self) -> SignedCover:
        """Decode every field; raises ``request_malformed``."""
        cover = LogCover(
            log_class=self.log_class,
            size=self.size,
            root=exactly(self.root, "log root", HASH_BYTES),
            anchor=self.anchor,
            witnesses=tuple(self.witnesses),
        )
        signature = exactly(self.signature, "log cover", SIGNATURE_BYTES)
        return SignedCover(cover, signature)


class ReceiptLogJson(msgspec.Struct, frozen=True):
    """``LogPromise`` on the wire, and the proof that it was kept.

    Attributes:
        key: the verifier key of the provider's log.
        leaf: hash of the release's entry, 32 bytes; key and leaf are signed.
        proof: C2SP ``tlog-proof`` of that leaf, with a checkpoint that the log's key
            signed; not covered by the receipt's signature.
        cover: who else has seen the entry, under a signature of its own; left out where
            the log class is ``signed``.
    """

    key: BoundedText
    leaf: ShortText
    proof: LogProofText
    cover: LogCoverJson | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(
        cls, promise: LogPromise, proof: bytes, cover: SignedCover | None = None
    ) -> ReceiptLogJson:
        """Encode promise, proof and cover."""
        said = msgspec.UNSET if cover is None else LogCoverJson.of(cover)
        leaf = encode_base64url(promise.leaf)
        return cls(promise.key, leaf, proof.decode(), said)

    def covered(self) -> SignedCover | None:
        """Decode the cover; raises ``request_malformed``."""
        return None if self.cover is msgspec.UNSET else self.cover.parsed()

    def promise(self) -> LogPromise:
        """Decode the promise; raises ``request_malformed``."""
        return LogPromise(self.key, exactly(self.leaf, "leaf", HASH_BYTES))

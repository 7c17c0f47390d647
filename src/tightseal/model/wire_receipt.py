# SPDX-License-Identifier: Apache-2.0
"""What a receipt says of policy and log, on the wire."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import LogPromise, PolicyInForce
from tightseal.model.wire_fields import (
    HASH_BYTES,
    MAX_POLICY_VERSION,
    BoundedText,
    LogProofText,
    ShortText,
    exactly,
)

__all__ = ["PolicyJson", "ReceiptLogJson"]


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


class ReceiptLogJson(msgspec.Struct, frozen=True):
    """``LogPromise`` on the wire, and the proof that it was kept.

    Attributes:
        key: the verifier key of the provider's log.
        leaf: hash of the release's entry, 32 bytes; key and leaf are signed.
        proof: C2SP ``tlog-proof`` of that leaf, with a checkpoint that the log's key
            signed; not covered by the receipt's signature.
    """

    key: BoundedText
    leaf: ShortText
    proof: LogProofText

    @classmethod
    def of(cls, promise: LogPromise, proof: bytes) -> ReceiptLogJson:
        """Encode promise and proof."""
        return cls(promise.key, encode_base64url(promise.leaf), proof.decode())

    def promise(self) -> LogPromise:
        """Decode the promise; raises ``request_malformed``."""
        return LogPromise(self.key, exactly(self.leaf, "leaf", HASH_BYTES))

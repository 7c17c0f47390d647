# SPDX-License-Identifier: Apache-2.0
"""Use without export: what a provider does with a private half in place of giving it.

=========  ============================  ===========================  =================
operation  input                         context                      result, bytes
=========  ============================  ===========================  =================
``sign``   the message                   none                         signature, 64
``agree``  the peer's public key         none                         shared secret, 32
``unwrap`` an HPKE envelope (X25519)     goes into the HPKE ``info``  plaintext, 16-64
=========  ============================  ===========================  =================

Input and context are part of the key request, so the workload's evidence commits to
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, RequestError
from tightseal.model.canonical import labelled
from tightseal.model.labels import Label

if TYPE_CHECKING:
    from tightseal.model.canonical import Value

__all__ = [
    "MAX_USE_CONTEXT_BYTES",
    "MAX_USE_INPUT_BYTES",
    "SHARED_SECRET_BYTES",
    "SIGNATURE_BYTES",
    "KeyUse",
    "Operation",
    "unwrap_info",
]

MAX_USE_INPUT_BYTES: Final = 8192
"""Longest input of a use, in bytes; of more than this, sign a digest."""

MAX_USE_CONTEXT_BYTES: Final = 512
"""Longest context, in bytes."""

SIGNATURE_BYTES: Final = 64
SHARED_SECRET_BYTES: Final = 32
"""Lengths of results."""

_PEER_BYTES: Final = frozenset({32, 33, 65})
"""X25519; SEC 1 compressed; SEC 1 uncompressed."""

_MIN_ENVELOPE_BYTES: Final = 64
_MAX_ENVELOPE_BYTES: Final = 112
"""An X25519 envelope of 16 to 64 bytes: 32 of key, the ciphertext, 16 of tag."""

_OWN_WORDS: Final = b"tightseal/"
"""How every label begins; what Tightseal signs is CBOR ``[label, value]``."""

_PAIR_HEAD: Final = 0x82
_TEXT_HEADS: Final = (0x60, 0x78)
"""First bytes of a CBOR array of two, and of texts up to 23 and up to 255 bytes."""


class Operation(StrEnum):
    """What a provider can do with the private half of a pair."""

    SIGN = "sign"
    """Ed25519; or ECDSA over SHA-256, deterministic (RFC 6979)."""

    AGREE = "agree"
    """Diffie-Hellman with a peer's public key: the raw shared secret."""

    UNWRAP = "unwrap"
    """Open an HPKE envelope that was sealed to the public half."""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One use of a key.

    Attributes:
        operation: what is done.
        data: the input, at most ``MAX_USE_INPUT_BYTES``.
        context: of ``unwrap``, at most ``MAX_USE_CONTEXT_BYTES``; empty for others.
    """

    operation: Operation
    data: bytes = field(default=b"", repr=False)
    context: bytes = field(default=b"", repr=False)

    def as_value(self) -> Value:
        """The use as a canonical value."""
        return [self.operation.value, self.data, self.context]

    def check(self) -> None:
        """Check the form, as far as it does not depend on the type of the key.

        Raises:
            RequestError: ``request_malformed``.
        """
        if len(self.data) > MAX_USE_INPUT_BYTES:
            got, most = len(self.data), MAX_USE_INPUT_BYTES
            raise self._malformed(f"input of {got} bytes, at most {most}")
        if len(self.context) > MAX_USE_CONTEXT_BYTES:
            got, most = len(self.context), MAX_USE_CONTEXT_BYTES
            raise self._malformed(f"context of {got} bytes, at most {most}")
        if self.context and self.operation is not Operation.UNWRAP:
            raise self._malformed("only unwrap takes a context")
        if self.operation is Operation.SIGN:
            self._check_message()
        elif self.operation is Operation.AGREE:
            if len(self.data) not in _PEER_BYTES:
                detail = f"public key of {len(self.data)} bytes, expected 32, 33 or 65"
                raise self._malformed(detail)
        elif not _MIN_ENVELOPE_BYTES <= len(self.data) <= _MAX_ENVELOPE_BYTES:
            bounds = f"{_MIN_ENVELOPE_BYTES} to {_MAX_ENVELOPE_BYTES}"
            detail = f"envelope of {len(self.data)} bytes, expected {bounds}"
            raise self._malformed(detail)

    def _check_message(self) -> None:
        """No use signs what Tightseal signs, whoever took the key for one of its own.

        Else a policy that names a workload's public half as an operator's key would
        let the workload sign actions.
        """
        head, data = self.data[:3], self.data
        if len(head) < 3 or head[0] != _PAIR_HEAD:  # noqa: PLR2004 (three heads)
            return
        short, long = _TEXT_HEADS
        at = 3 if head[1] == long else 2
        is_text = head[1] == long or short <= head[1] < long
        if is_text and data[at:].startswith(_OWN_WORDS):
            raise self._malformed("the message stands under a label of Tightseal's own")

    def _malformed(self, detail: str) -> RequestError:
        return RequestError(
            Code.REQUEST_MALFORMED, f"use {self.operation.value}: {detail}"
        )


def unwrap_info(context: bytes) -> bytes:
    """HPKE ``info`` of an envelope that a provider may unwrap.

    Under a label of its own, so that no envelope of an exchange opens this way.
    """
    return labelled(Label.HPKE_UNWRAP, context)

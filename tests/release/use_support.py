# SPDX-License-Identifier: Apache-2.0
"""Purposes whose private halves never leave, and requests for their use."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from rooted_rig import Rooted

from tightseal.errors import Code, KeyReleaseError, TightsealError
from tightseal.model.generation import Generations
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.provider import sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal_sim.intel.td import SimTd

SIGN, AGREE, UNWRAP = Operation.SIGN, Operation.AGREE, Operation.UNWRAP
MESSAGE = b"a message for everybody"


@dataclass
class Roots:
    """Two generations, and more at a word."""

    current: int = 3
    keyring_id: bytes = sidecar_keyring_id()
    simulated: bool = True

    def generations(self) -> Generations:
        opened = frozenset(range(2, self.current + 1))
        return Generations(self.current, self.current - 1, opened)

    def root(self, generation: int) -> Secret:
        if generation not in self.generations().open:
            raise KeyReleaseError(Code.GENERATION_UNKNOWN, str(generation))
        return Secret(bytes([generation]) * 32)


def kept(kind: KeyType, *uses: Operation, **rules: Any) -> dict[str, Any]:
    """A purpose, named as its type, whose private half never leaves."""
    named = {"purpose": kind.value, "type": kind.value, "parts": ["public"]}
    return {**named, "uses": [use.value for use in uses], **rules}


KEYS = [
    kept(KeyType.ED25519, SIGN),
    kept(KeyType.P256, SIGN),
    kept(KeyType.SECP256K1, SIGN),
    kept(KeyType.X25519, AGREE, purpose="meet"),
    kept(KeyType.P256, AGREE, purpose="meet-p256"),
    kept(KeyType.SECP256K1, AGREE, purpose="meet-secp256k1"),
    kept(KeyType.X25519, UNWRAP, purpose="inbox"),
    {"purpose": "disk"},
]


def used(purpose: str, operation: Operation, data: bytes, **more: Any) -> KeyRequest:
    context = more.pop("context", b"")
    return KeyRequest(purpose, use=KeyUse(operation, data, context), **more)


def signing(purpose: str = "ed25519", message: bytes = MESSAGE) -> KeyRequest:
    return used(purpose, SIGN, message)


def half(found: Rooted, td: SimTd, purpose: str, **more: Any) -> bytes:
    asked = KeyRequest(purpose, part=KeyPart.PUBLIC, **more)
    return found.ask(td, asked).keys[0].public_half()


def refusal(attempt: Callable[[], object]) -> TightsealError:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value


def said(found: Rooted) -> Any:
    """The body of the newest entry."""
    return found.journal.entries()[-1].entry.body


def changed(body: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    value = json.loads(body)
    change(value)
    return json.dumps(value).encode()


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def once() -> dict[str, Any]:
    return {"total": 1, "without_anchor": "accept"}

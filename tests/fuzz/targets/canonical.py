# SPDX-License-Identifier: Apache-2.0
"""Deterministic CBOR: one value, one encoding."""

from tightseal.model.canonical import decode, encode
from tightseal.model.exchange import Kem, Transcript
from tightseal.model.keypath import KeyRequest
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity

BINDING = AttestedKeyBinding(
    identity=ProviderIdentity("sgx", b"m" * 32, b"k" * 32, None, b"s" * 64),
    public_key=b"p" * 32,
    not_before=1_800_000_000,
    not_after=1_800_086_400,
)
TRANSCRIPT = Transcript(
    binding=BINDING,
    nonce=b"n" * 56,
    kem=Kem.X25519,
    recipient_key=b"r" * 32,
    keys=(KeyRequest("disk"), KeyRequest("signing", "a", 64)),
)


def seeds() -> list[bytes]:
    values = (
        None,
        True,
        -1,
        (1 << 64) - 1,
        b"bytes",
        "text",
        [1, [2, [3]]],
        {"a": 1, "bb": {"c": [b"", ""]}},
        {"nonce": TRANSCRIPT.nonce, "key": BINDING.public_key, "tee": "sgx"},
    )
    return [encode(value) for value in values]  # type: ignore[arg-type]


def one(data: bytes) -> None:
    assert encode(decode(data)) == data

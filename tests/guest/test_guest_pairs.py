# SPDX-License-Identifier: Apache-2.0
"""Key pairs as a workload gets them: types, parts, and what the receipt says."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripted_provider import (
    NOW,
    POLICY,
    PUBLIC_HALF,
    URL,
    Provider,
    Workload,
    terms,
)

from tightseal.errors import Code, KeyReleaseError, PlatformError, ProviderError
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.released import ReleasedKeys
from tightseal.keys.pairs import PRIVATE_BYTES, public_half
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.secret import Secret
from tightseal.model.state import AnchorClass
from tightseal.model.wire import ParsedKeysResponse

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
ID = ("id", "")
PRIVATE = KeyRequest("id")
PUBLIC = KeyRequest("id", part=KeyPart.PUBLIC)
PAIRS = [k for k in KeyType if k is not KeyType.RAW]
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def released(
    provider: Provider, *keys: KeyRequest, asynchronous: bool = False
) -> ReleasedKeys:
    options: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
    }
    if not asynchronous:
        with Client(URL, transport=httpx.MockTransport(provider), **options) as client:
            return client.keys(*keys)

    async def serve(request: httpx.Request) -> httpx.Response:
        return provider(request)

    async def whole() -> ReleasedKeys:
        transport = httpx.MockTransport(serve)
        async with AsyncClient(URL, transport=transport, **options) as client:
            return await client.keys(*keys)

    return asyncio.run(whole())


def pair(kind: KeyType, value: bytes, **changes: Any) -> Provider:
    return Provider(types={ID: kind}, keys={ID: value}, **changes)


@both
def test_a_private_half_signs(asynchronous: bool) -> None:  # noqa: FBT001
    provider = pair(KeyType.ED25519, SEED)
    with released(provider, PRIVATE, asynchronous=asynchronous) as keys:
        key = keys.key("id")
        assert (key.type, key.part) == (KeyType.ED25519, KeyPart.PRIVATE)
        assert key.generation == 0
        assert key.public_half() == PUBLIC_HALF
        signing = Ed25519PrivateKey.from_private_bytes(key.secret.reveal())
        assert signing.public_key().public_bytes_raw() == PUBLIC_HALF
    assert key.secret.reveal() == bytes(32)


@both
@pytest.mark.parametrize("kind", PAIRS)
def test_a_public_half_comes_alone(kind: KeyType, asynchronous: bool) -> None:  # noqa: FBT001
    half = public_half(Secret(SEED), kind)
    keys = released(pair(kind, half), PUBLIC, asynchronous=asynchronous)
    key = keys.key("id")
    assert (key.type, key.part) == (kind, KeyPart.PUBLIC)
    assert key.public_half() == key.secret.reveal() == half
    assert keys.get("id") is key.secret


def test_pairs_and_raw_keys_in_one_exchange() -> None:
    provider = pair(KeyType.P256, bytes(31) + b"\1")
    keys = released(provider, KeyRequest("disk", "", 64), PRIVATE)
    assert [k.type for k in keys.keys] == [KeyType.RAW, KeyType.P256]
    assert [len(k.secret) for k in keys.keys] == [64, PRIVATE_BYTES]
    with pytest.raises(KeyReleaseError) as caught:
        keys.key("disk").public_half()
    assert caught.value.code is Code.KEY_PATH_INVALID
    with pytest.raises(KeyReleaseError):
        keys.key("disk", "other")


def test_one_public_half_the_short_way() -> None:
    provider = pair(KeyType.ED25519, PUBLIC_HALF)
    options: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
    }
    with Client(URL, transport=httpx.MockTransport(provider), **options) as client:
        assert client.key("id", part=KeyPart.PUBLIC).reveal() == PUBLIC_HALF


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(
    "value", [b"\2" * 16, b"\2" * 31, b"\2" * 34, b"\2" * 64], ids=lambda v: str(len(v))
)
def test_a_public_half_of_another_length_is_refused(
    kind: KeyType, value: bytes
) -> None:
    with pytest.raises(ProviderError) as caught:
        released(pair(kind, value), PUBLIC)
    assert caught.value.code is Code.RESPONSE_INVALID


@pytest.mark.parametrize("kind", [KeyType.P256, KeyType.SECP256K1])
def test_a_public_half_off_the_curve_is_refused(kind: KeyType) -> None:
    with pytest.raises(ProviderError, match="no point") as caught:
        released(pair(kind, b"\2" + b"\xff" * 32), PUBLIC)
    assert caught.value.code is Code.RESPONSE_INVALID


def test_a_raw_public_half_of_a_curve_is_refused() -> None:
    """The 32 bytes of another type, or a private half sent for the public one."""
    with pytest.raises(ProviderError):
        released(pair(KeyType.P256, SEED), PUBLIC)


@pytest.mark.parametrize("size", [31, 33, 64])
def test_a_private_half_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProviderError) as caught:
        released(pair(KeyType.X25519, b"k" * size), PRIVATE)
    assert caught.value.code is Code.RESPONSE_INVALID


def test_the_receipt_says_policy_and_anchor() -> None:
    receipt = released(pair(KeyType.ED25519, SEED), PRIVATE).receipt
    assert receipt.policy == POLICY
    assert receipt.anchor is AnchorClass.NONE
    assert "put back" in receipt.anchor.not_noticed


def test_a_provider_without_signed_policy_or_state_says_so() -> None:
    def bare(response: ParsedKeysResponse) -> ParsedKeysResponse:
        return replace(response, policy=None, anchor=None)

    provider = pair(KeyType.ED25519, SEED, response_before=bare)
    receipt = released(provider, PRIVATE).receipt
    assert receipt.policy is None
    assert receipt.anchor is None


def test_private_halves_are_not_shown() -> None:
    keys = released(pair(KeyType.ED25519, SEED), PRIVATE)
    for text in (repr(keys), repr(keys.key("id")), repr(keys.keys)):
        assert SEED.hex()[:8] not in text
        assert repr(SEED)[2:10] not in text


@both
def test_a_client_without_platform_makes_no_evidence(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider()
    options: dict[str, Any] = {"terms": terms(provider), "clock": lambda: NOW}

    async def whole() -> None:
        async with AsyncClient(URL, **options) as client:
            await client.keys(PRIVATE)

    def ask() -> None:
        with Client(URL, **options) as client:
            client.keys(PRIVATE)

    with pytest.raises(PlatformError) as caught:
        asyncio.run(whole()) if asynchronous else ask()
    assert caught.value.code is Code.PLATFORM_UNSUPPORTED
    assert provider.requests == []

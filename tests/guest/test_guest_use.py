# SPDX-License-Identifier: Apache-2.0
"""Uses as a workload asks for them: what it sends, checks, and never shows."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scripted_provider import NOW, PUBLIC_HALF, URL, Provider, Workload, terms

from tightseal.cli import main
from tightseal.envelope.hpke import open_with
from tightseal.errors import (
    Code,
    KeyReleaseError,
    ProviderError,
    RequestError,
    TightsealError,
)
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.using import seal_for, use_request
from tightseal.keys.using import sign
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import (
    MAX_USE_CONTEXT_BYTES,
    MAX_USE_INPUT_BYTES,
    KeyUse,
    Operation,
    unwrap_info,
)
from tightseal.model.secret import Secret
from tightseal.model.wire import KeysRequest, decode_json

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
MESSAGE = b"a message"
SIGNATURE = sign(Secret(SEED), KeyType.ED25519, MESSAGE)
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def answering(kind: KeyType, result: bytes) -> Provider:
    return Provider(types={("id", ""): kind}, keys={("id", ""): result})


def call(provider: Provider, method: str, *args: Any, **more: Any) -> Any:
    """A method of the blocking client, or with ``asynchronous`` of the other."""
    options: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
    }
    if not more.pop("asynchronous", False):
        with Client(URL, transport=httpx.MockTransport(provider), **options) as client:
            return getattr(client, method)(*args, **more)

    async def serve(request: httpx.Request) -> httpx.Response:
        return provider(request)

    async def whole() -> Any:
        transport = httpx.MockTransport(serve)
        async with AsyncClient(URL, transport=transport, **options) as client:
            return await getattr(client, method)(*args, **more)

    return asyncio.run(whole())


def sent(provider: Provider) -> KeyRequest:
    (request,) = decode_json(provider.requests[-1][1], KeysRequest).parsed().keys
    return request


# -- the clients ------------------------------------------------------------------


@both
def test_a_message_is_signed_and_the_signature_checked(asynchronous: bool) -> None:  # noqa: FBT001
    provider = answering(KeyType.ED25519, SIGNATURE)
    signature = call(
        provider, "sign", "id", MESSAGE, public=PUBLIC_HALF, asynchronous=asynchronous
    )
    assert signature == SIGNATURE
    expected = KeyRequest("id", use=KeyUse(Operation.SIGN, MESSAGE))
    assert sent(provider) == expected


@both
def test_a_signature_by_another_key_is_refused(asynchronous: bool) -> None:  # noqa: FBT001
    provider = answering(KeyType.ED25519, SIGNATURE[::-1])
    more: dict[str, Any] = {"asynchronous": asynchronous}
    assert call(provider, "sign", "id", MESSAGE, **more) == SIGNATURE[::-1]
    with pytest.raises(ProviderError) as caught:
        call(provider, "sign", "id", MESSAGE, public=PUBLIC_HALF, **more)
    assert caught.value.code is Code.RESPONSE_INVALID


@both
def test_a_key_agrees_with_a_peer(asynchronous: bool) -> None:  # noqa: FBT001
    provider = answering(KeyType.X25519, b"s" * 32)
    peer = b"\x09".ljust(32, b"\0")
    shared = call(provider, "agree", "id", peer, asynchronous=asynchronous)
    assert shared.reveal() == b"s" * 32
    assert sent(provider).use == KeyUse(Operation.AGREE, peer)


@both
def test_an_envelope_is_unwrapped(asynchronous: bool) -> None:  # noqa: FBT001
    provider = answering(KeyType.X25519, b"plain text of 23 bytes.")
    plain = call(
        provider,
        "unwrap",
        "id",
        b"e" * 80,
        context=b"ctx",
        generation=GenerationName.PREVIOUS,
        asynchronous=asynchronous,
    )
    assert plain.reveal() == b"plain text of 23 bytes."
    asked = sent(provider)
    assert asked.use == KeyUse(Operation.UNWRAP, b"e" * 80, b"ctx")
    assert asked.generation is GenerationName.PREVIOUS


@both
@pytest.mark.parametrize("method", ["sign", "agree"])
def test_a_first_use_may_create_the_key(method: str, asynchronous: bool) -> None:  # noqa: FBT001
    kind = KeyType.P256
    provider = answering(kind, bytes(64 if method == "sign" else 32))
    data = b"\2" + bytes(32)
    call(provider, method, "id", data, "", create=True, asynchronous=asynchronous)
    assert sent(provider).create


# -- what is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("sign", bytes(MAX_USE_INPUT_BYTES + 1)),
        ("sign", b"\x82\x78\x26tightseal/v1/signature/operator-action"),
        ("agree", bytes(31)),
        ("agree", bytes(64)),
        ("unwrap", bytes(63)),
        ("unwrap", bytes(113)),
    ],
)
def test_what_is_of_no_form_is_not_even_asked(method: str, data: bytes) -> None:
    provider = answering(KeyType.P256, bytes(64))
    with pytest.raises(RequestError) as caught:
        call(provider, method, "id", data)
    assert caught.value.code is Code.REQUEST_MALFORMED
    assert provider.requests == []


@pytest.mark.parametrize(
    "request_",
    [
        KeyRequest("id", part=KeyPart.PUBLIC, use=KeyUse(Operation.SIGN)),
        KeyRequest("id", length=64, use=KeyUse(Operation.SIGN)),
        KeyRequest("id", use=KeyUse(Operation.SIGN, b"m", b"context")),
        KeyRequest(
            "id",
            use=KeyUse(Operation.UNWRAP, bytes(80), bytes(MAX_USE_CONTEXT_BYTES + 1)),
        ),
    ],
    ids=["public", "length", "context", "long_context"],
)
def test_a_request_that_makes_no_sense_is_not_even_asked(request_: KeyRequest) -> None:
    provider = answering(KeyType.P256, bytes(64))
    with pytest.raises(RequestError):
        call(provider, "keys", request_)
    assert provider.requests == []


def test_the_same_use_twice_is_refused_and_two_uses_are_not() -> None:
    provider = answering(KeyType.ED25519, SIGNATURE)
    one, other = (
        use_request(KeyUse(Operation.SIGN, message), "id") for message in (b"1", b"2")
    )
    keys = call(provider, "keys", one, other, KeyRequest("disk"))
    assert keys.result(one).reveal() == keys.result(other).reveal() == SIGNATURE
    with pytest.raises(RequestError):
        call(provider, "keys", one, one)


@pytest.mark.parametrize(
    ("kind", "operation", "size"),
    [
        (KeyType.ED25519, Operation.SIGN, 63),
        (KeyType.P256, Operation.SIGN, 32),
        (KeyType.X25519, Operation.AGREE, 33),
        (KeyType.P256, Operation.AGREE, 64),
        (KeyType.ED25519, Operation.AGREE, 32),
        (KeyType.RAW, Operation.SIGN, 64),
        (KeyType.P256, Operation.UNWRAP, 32),
    ],
)
def test_a_result_of_another_length_or_type_is_refused(
    kind: KeyType, operation: Operation, size: int
) -> None:
    data = {Operation.SIGN: b"", Operation.AGREE: bytes(32)}.get(operation, bytes(80))
    request = use_request(KeyUse(operation, data), "id")
    with pytest.raises(ProviderError) as caught:
        call(answering(kind, bytes(size)), "keys", request)
    assert caught.value.code is Code.RESPONSE_INVALID


def test_a_result_is_never_taken_for_a_key() -> None:
    request = use_request(KeyUse(Operation.SIGN, MESSAGE), "id")
    keys = call(answering(KeyType.ED25519, SIGNATURE), "keys", request)
    for attempt in (
        lambda: keys.get("id"),
        lambda: keys.key("id"),
        keys.keys[0].public_half,
        lambda: keys.result(KeyRequest("id")),
        lambda: keys.result(use_request(KeyUse(Operation.SIGN, b"other"), "id")),
    ):
        with pytest.raises(KeyReleaseError) as caught:
            attempt()
        assert caught.value.code is Code.KEY_PATH_INVALID
    assert MESSAGE.decode() not in repr(keys) + repr(request)


# -- sealing to a public half -----------------------------------------------------


def test_what_is_sealed_opens_under_its_context_alone() -> None:
    private = X25519PrivateKey.generate()
    public, raw = private.public_key().public_bytes_raw(), private.private_bytes_raw()
    sealed = seal_for(public, Secret(b"s" * 32), context=b"ctx")
    opened = open_with(Secret(raw), sealed, info=unwrap_info(b"ctx"))
    assert opened.reveal() == b"s" * 32
    for info in (b"ctx", unwrap_info(b""), unwrap_info(b"ctx2")):
        with pytest.raises(KeyReleaseError):
            open_with(Secret(raw), sealed, info=info)
    with pytest.raises(KeyReleaseError):
        open_with(Secret(raw[1:]), sealed, info=unwrap_info(b"ctx"))


SEALED_BADLY: dict[str, Callable[[], bytes]] = {
    "low_order": lambda: seal_for(bytes(32), Secret(b"s" * 32)),
    "short": lambda: seal_for(PUBLIC_HALF, Secret(b"s" * 15)),
    "long": lambda: seal_for(PUBLIC_HALF, Secret(b"s" * 65)),
    "context": lambda: seal_for(
        PUBLIC_HALF, Secret(b"s" * 32), context=bytes(MAX_USE_CONTEXT_BYTES + 1)
    ),
}


@pytest.mark.parametrize("case", SEALED_BADLY)
def test_what_could_not_be_unwrapped_is_not_sealed(case: str) -> None:
    with pytest.raises(TightsealError):
        SEALED_BADLY[case]()


# -- the command ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def provider() -> Provider:
    return answering(KeyType.ED25519, SIGNATURE)


@pytest.fixture
def command(key_command: list[str], tmp_path: Path) -> list[str]:
    message = tmp_path / "message"
    message.write_bytes(MESSAGE)
    asked = ["--purpose", "id", "--use", "sign", "--input", str(message)]
    return [*key_command, *asked]


def test_the_command_signs_a_file(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "signature"
    more = ["--public", PUBLIC_HALF.hex(), "--out", str(out)]
    assert main([*command, *more]) == 0
    assert out.read_bytes() == SIGNATURE
    assert "used" in (said := capsys.readouterr().out)
    assert "(ed25519, sign)" in said


def test_a_signature_is_shown_and_other_results_only_where_told(
    provider: Provider,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["use"], shown["result"]) == ("sign", SIGNATURE.hex())
    assert (shown["key"], shown["public_key"]) == (None, None)
    envelope = tmp_path / "envelope"
    envelope.write_bytes(bytes(80))
    provider.types[("id", "")] = KeyType.X25519
    provider.keys[("id", "")] = b"plain text, of 32 bytes exactly."
    unwrap = [*command[:-4], "--use", "unwrap", "--input", str(envelope)]
    unwrap += ["--context", "from the bank", "--json"]
    assert main(unwrap) == 0
    assert json.loads(capsys.readouterr().out)["result"] is None
    assert sent(provider).use == KeyUse(Operation.UNWRAP, bytes(80), b"from the bank")
    assert main([*unwrap, "--reveal"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert bytes.fromhex(shown["result"]) == provider.keys[("id", "")]


def test_the_command_refuses_a_signature_by_another_key(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "signature"
    more = ["--public", "11" * 32, "--out", str(out)]
    assert main([*command, *more]) == 1
    assert not out.exists()
    assert "response_invalid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c[:-2], "--input"),
        (lambda c: [*c[:-4], *c[-2:]], "go with --use"),
        (lambda c: [*c, "--public", "no hex"], "not hex"),
        (lambda c: [*c[:-4], "--use", "agree", *c[-2:], "--public", "11"], "sign"),
        (lambda c: [*c[:-1], "/nowhere/at/all"], "/nowhere"),
    ],
    ids=["no_input", "no_use", "public_not_hex", "public_of_agree", "no_file"],
)
def test_options_that_do_not_go_together(
    provider: Provider,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[str]], list[str]],
    word: str,
) -> None:
    assert main([*change(command), "--json"]) == 2
    assert word in capsys.readouterr().err
    assert provider.requests == []

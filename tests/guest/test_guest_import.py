# SPDX-License-Identifier: Apache-2.0
"""An existing key handed over by a workload: what it sends, checks and refuses."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from scripted_provider import NOW, URL, Provider, Workload, terms

from tightseal.cli import main
from tightseal.errors import Code, PlatformError, ProviderError, RequestError
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.exchange import Exchange
from tightseal.guest.released import ReleasedKeys
from tightseal.model.keypath import KeyRequest
from tightseal.model.secret import Secret
from tightseal.model.wire import KeysRequest, decode_json

KEY = b"a key from elsewhere, 32 bytes!!"
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def handed(
    provider: Provider, key: bytes = KEY, *, asynchronous: bool = False
) -> ReleasedKeys:
    options: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
    }
    secret = Secret(key)
    if not asynchronous:
        with Client(URL, transport=httpx.MockTransport(provider), **options) as client:
            return client.import_key("disk", secret)

    async def serve(request: httpx.Request) -> httpx.Response:
        return provider(request)

    async def whole() -> ReleasedKeys:
        transport = httpx.MockTransport(serve)
        async with AsyncClient(URL, transport=transport, **options) as client:
            return await client.import_key("disk", secret)

    return asyncio.run(whole())


@both
@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_key_arrives_and_comes_back(size: int, asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider()
    released = handed(provider, KEY[:16] * (size // 16), asynchronous=asynchronous)
    assert released.get("disk").reveal() == KEY[:16] * (size // 16)
    body = provider.requests[-1][1]
    request = decode_json(body, KeysRequest).parsed()
    (asked,) = request.keys
    assert (asked.create, asked.length, len(asked.imported or b"")) == (True, size, 64)
    assert KEY[:16] not in body


def test_two_imports_of_one_key_say_nothing_of_it() -> None:
    bodies = []
    for _ in range(2):
        provider = Provider()
        handed(provider)
        bodies.append(decode_json(provider.requests[-1][1], KeysRequest).parsed())
    assert bodies[0].keys[0].imported != bodies[1].keys[0].imported


@both
def test_another_key_that_comes_back_is_refused(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider(keys={("disk", ""): b"p" * 32})
    with pytest.raises(ProviderError, match="handed over") as caught:
        handed(provider, asynchronous=asynchronous)
    assert caught.value.code is Code.RESPONSE_INVALID


def test_a_challenge_without_a_key_to_seal_to_is_refused() -> None:
    """Before any evidence is made, and the key stays at home."""
    for change in (None, bytes(1216), b"k" * 32):
        provider = Provider(
            challenge_before=lambda body, change=change: replace(
                body, import_key=change
            )
        )
        with pytest.raises(ProviderError, match="imports") as caught:
            handed(provider)
        assert caught.value.code is Code.CHALLENGE_INVALID
        assert len(provider.requests) == 1


def test_a_key_to_seal_to_that_the_host_put_in_is_refused() -> None:
    """The signature covers it."""
    other = Provider().imports_to.public_bytes()
    provider = Provider(
        parsed_after=lambda parsed: replace(
            parsed, body=replace(parsed.body, import_key=other)
        )
    )
    with pytest.raises(ProviderError) as caught:
        handed(provider)
    assert caught.value.code is Code.CHALLENGE_INVALID
    assert len(provider.requests) == 1


def test_a_key_to_seal_to_that_nobody_asked_for_is_refused() -> None:
    provider = Provider(
        challenge_before=lambda body: replace(
            body, import_key=Provider().imports_to.public_bytes()
        )
    )
    options: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
        "transport": httpx.MockTransport(provider),
    }
    with (
        Client(URL, **options) as client,
        pytest.raises(ProviderError, match="was not asked for"),
    ):
        client.key("disk")


def test_imports_that_fit_no_request_are_refused() -> None:
    provider = Provider()
    wanted = (KeyRequest("disk", create=True),)
    key = Secret(KEY)
    for keys, imports in (
        (wanted, (key, key)),
        ((KeyRequest("disk"),), (key,)),
    ):
        with pytest.raises(RequestError) as caught:
            Exchange(terms(provider), keys, imports=imports)
        assert caught.value.code is Code.REQUEST_MALFORMED


def test_without_a_platform_the_copy_is_wiped_too() -> None:
    provider = Provider()
    with (
        Client(URL, terms=terms(provider), clock=lambda: NOW) as client,
        pytest.raises(PlatformError),
    ):
        client.import_key("disk", Secret(KEY))
    exchange = Exchange(
        terms(provider), (KeyRequest("disk", create=True),), imports=(Secret(KEY),)
    )
    assert KEY.decode() not in repr(exchange._imports)
    exchange.wipe()
    (kept,) = exchange._imports
    assert kept is not None
    assert not any(kept.salted.reveal())


# -- the command ------------------------------------------------------------------


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def command(key_command: list[str], tmp_path: Path) -> list[str]:
    key = tmp_path / "old.key"
    key.write_bytes(KEY)
    return [*key_command, "--purpose", "disk", "--import", str(key)]


def test_the_command_imports_and_says_so(
    command: list[str], provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    said = capsys.readouterr()
    assert "imported" in said.out
    assert KEY.hex() not in said.out + said.err
    assert provider.keys[("disk", "")] == KEY


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_file_that_is_no_key_is_not_handed_over(
    command: list[str],
    provider: Provider,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: int,
) -> None:
    (tmp_path / "old.key").write_bytes(b"k" * size)
    assert main(command) == 2
    assert "16 to 64" in capsys.readouterr().err
    assert provider.requests == []


@pytest.mark.parametrize(
    "more", [["--part", "public"], ["--use", "sign", "--input", "/dev/null"]]
)
def test_an_import_is_of_a_whole_key(
    command: list[str],
    provider: Provider,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    assert main([*command, *more]) == 2
    assert "--import" in capsys.readouterr().err
    assert provider.requests == []

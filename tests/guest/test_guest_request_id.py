# SPDX-License-Identifier: Apache-2.0
"""The provider's name for a request: taken over where it has its form, and shown."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from scripted_provider import (
    NOW,
    PIN,
    URL,
    Provider,
    Workload,
    answer_of,
    problem_answer,
    terms,
)

from tightseal.cli import main
from tightseal.errors import Code, TightsealError
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.http import RefusedError
from tightseal.guest.pins import pin_to_toml
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH, Problem

ID = "1f2e3d4c-5"


class Named:
    """A provider that names its requests, and answers some paths in its own way."""

    def __init__(
        self,
        provider: Provider,
        names: dict[str, str],
        answers: dict[str, httpx.Response] | None = None,
    ) -> None:
        self.provider = provider
        self.names = names
        self.answers = answers or {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        answer = self.answers.get(path) or self.provider(request)
        if path in self.names:
            answer.headers["x-request-id"] = self.names[path]
        return answer

    async def serve(self, request: httpx.Request) -> httpx.Response:
        return self(request)

    def ask(self, *, asynchronous: bool) -> str | None:
        common: dict[str, Any] = {
            "source": Workload(self.provider.evidence),
            "terms": terms(self.provider),
            "clock": lambda: NOW,
        }
        if asynchronous:
            return asyncio.run(self._ask(common))
        transport = httpx.MockTransport(self)
        with Client(URL, transport=transport, **common) as client:
            return client.keys(KeyRequest("disk")).request_id

    async def _ask(self, common: dict[str, Any]) -> str | None:
        transport = httpx.MockTransport(self.serve)
        async with AsyncClient(URL, transport=transport, **common) as client:
            return (await client.keys(KeyRequest("disk"))).request_id


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def refusal() -> httpx.Response:
    return problem_answer(
        Problem.of(Code.TCB_REVOKED, instance=f"urn:tightseal:request:{ID}")
    )


@both
def test_a_grant_names_the_request_that_gave_the_keys(*, asynchronous: bool) -> None:
    names = {CHALLENGE_PATH: "other-1", KEYS_PATH: ID}
    assert Named(Provider(), names).ask(asynchronous=asynchronous) == ID


@pytest.mark.parametrize(
    "name",
    ["", "x" * 65, "two words", "a\tb", "\x1b[31m", "<b>", "é", "a/b", "a\\nb", "a;b"],
)
def test_a_name_of_another_form_is_not_taken_over(name: str) -> None:
    assert Named(Provider(), {KEYS_PATH: name}).ask(asynchronous=False) is None


@both
@pytest.mark.parametrize("path", [CHALLENGE_PATH, KEYS_PATH])
def test_a_refusal_names_its_request(path: str, *, asynchronous: bool) -> None:
    named = Named(Provider(), {path: ID}, {path: refusal()})
    with pytest.raises(RefusedError) as caught:
        named.ask(asynchronous=asynchronous)
    assert caught.value.request_id == ID


@both
@pytest.mark.parametrize(
    ("path", "code"),
    [(CHALLENGE_PATH, Code.CHALLENGE_INVALID), (KEYS_PATH, Code.RESPONSE_INVALID)],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_an_answer_that_does_not_hold_names_its_request(
    path: str, code: Code, content_type: str, *, asynchronous: bool
) -> None:
    named = Named(Provider(), {path: ID}, {path: answer_of(b"{}", content_type)})
    with pytest.raises(TightsealError) as caught:
        named.ask(asynchronous=asynchronous)
    assert caught.value.code is code
    assert caught.value.request_id == ID


# -- the command -------------------------------------------------------------------


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def command(named: Named, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def client(url: str, **_: Any) -> Client:
        return Client(
            url,
            source=Workload(named.provider.evidence),
            terms=terms(named.provider),
            clock=lambda: NOW,
            transport=httpx.MockTransport(named),
        )

    monkeypatch.setattr("tightseal.cli.key.Client", client)
    monkeypatch.setattr("tightseal.cli.key.open_platform", lambda *_: None)
    pin = tmp_path / "pin.toml"
    pin.write_text(pin_to_toml(PIN))
    return [
        *("key", "--provider", "http://provider.test", "--pin", str(pin)),
        *("--purpose", "disk", "--json"),
    ]


def test_the_command_shows_it_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Named(Provider(), {KEYS_PATH: ID})
    assert main(command(named, tmp_path, monkeypatch)) == 0
    assert json.loads(capsys.readouterr().out)["request_id"] == ID


def test_the_command_says_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Named(Provider(), {KEYS_PATH: "two words"})
    assert main(command(named, tmp_path, monkeypatch)) == 0
    assert json.loads(capsys.readouterr().out)["request_id"] is None


def test_the_command_shows_it_with_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = Named(Provider(), {KEYS_PATH: ID}, {KEYS_PATH: refusal()})
    assert main(command(named, tmp_path, monkeypatch)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"  request: {ID}\n" in said.err

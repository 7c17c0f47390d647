# SPDX-License-Identifier: Apache-2.0
"""The clients: the wire, retries, bounds, and problem documents."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from scripted_provider import (
    NOW,
    URL,
    Pieces,
    Provider,
    Workload,
    answer_of,
    json_answer,
    problem_answer,
    terms,
)

from tightseal.errors import (
    Code,
    PlatformError,
    ProviderError,
    SettingsError,
)
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.http import Bounds, RefusedError
from tightseal.guest.response import ReleasedKeys
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire import Problem, Proof

Handler = Callable[[httpx.Request], httpx.Response]
DISK = KeyRequest("disk")


class Network:
    """Puts faults before a provider, and records the bytes that were sent."""

    def __init__(self, provider: Provider, faults: dict[str, list[Any]]) -> None:
        self.provider = provider
        self.faults = faults
        self.sent: list[tuple[str, bytes]] = []
        self.headers: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.sent.append((path, request.read()))
        self.headers.append(request.headers)
        queue = self.faults.get(path)
        fault = queue.pop(0) if queue else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, httpx.Response):
            return fault
        return self.provider(request)

    async def serve(self, request: httpx.Request) -> httpx.Response:
        return self(request)


def run(
    network: Network,
    *,
    asynchronous: bool,
    waits: list[float] | None = None,
    source: Any = None,
    **options: Any,
) -> ReleasedKeys:
    waited: list[float] = [] if waits is None else waits
    source = source or Workload(network.provider.evidence)
    common: dict[str, Any] = {
        "source": source,
        "terms": terms(network.provider),
        "clock": lambda: NOW,
        **options,
    }
    if not asynchronous:
        with Client(
            URL,
            sleep=waited.append,
            transport=httpx.MockTransport(network),
            **common,
        ) as client:
            return client.keys(DISK)

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def whole() -> ReleasedKeys:
        async with AsyncClient(
            URL, sleep=sleep, transport=httpx.MockTransport(network.serve), **common
        ) as client:
            return await client.keys(DISK)

    return asyncio.run(whole())


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
CHALLENGE, KEYS = "/v1/challenge", "/v1/keys"


@both
def test_keys_arrive(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider(keys={("disk", ""): b"k" * 32})
    network = Network(provider, {})
    result = run(network, asynchronous=asynchronous)
    assert result.get("disk").reveal() == b"k" * 32
    assert [path for path, _ in network.sent] == [CHALLENGE, KEYS]
    for headers in network.headers:
        assert headers["accept-encoding"] == "identity"
        assert headers["content-type"] == "application/json"


def test_one_key_the_short_way() -> None:
    provider = Provider(keys={("disk", "data"): b"k" * 64})
    options: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
    }
    network = Network(provider, {})
    with Client(URL, transport=httpx.MockTransport(network), **options) as client:
        assert client.key("disk", "data", length=64).reveal() == b"k" * 64

    async def whole() -> bytes:
        transport = httpx.MockTransport(network.serve)
        async with AsyncClient(URL, transport=transport, **options) as client:
            return (await client.key("disk", "data", length=64)).reveal()

    assert asyncio.run(whole()) == b"k" * 64


@both
@pytest.mark.parametrize("path", [CHALLENGE, KEYS])
@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("late"),
        httpx.RemoteProtocolError("gone"),
        answer_of(b"<html>", "text/html", 502),
        problem_answer(Problem.of(Code.OVERLOADED)),
    ],
    ids=["refused", "timeout", "reset", "bad_gateway", "overloaded"],
)
def test_the_same_bytes_again(fault: Any, path: str, asynchronous: bool) -> None:  # noqa: FBT001
    if isinstance(fault, httpx.Response):
        fault = httpx.Response(
            fault.status_code, headers=fault.headers, stream=fault.stream
        )
    network = Network(Provider(), {path: [fault]})
    waits: list[float] = []
    run(network, asynchronous=asynchronous, waits=waits)
    bodies = [body for p, body in network.sent if p == path]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    assert waits == [0.2]


@both
@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.RATE_LIMITED])
@pytest.mark.parametrize(
    ("header", "waited"),
    [("3", 3), ("0", 0.2), ("10", 10), ("soon", 0.2), ("-1", 0.2), ("1" * 30, 0.2)],
)
def test_a_busy_provider_says_when_to_come_back(
    code: Code,
    header: str,
    waited: float,
    asynchronous: bool,  # noqa: FBT001
) -> None:
    network = Network(Provider(), {KEYS: [busy(code, header)]})
    waits: list[float] = []
    run(network, asynchronous=asynchronous, waits=waits)
    assert waits == [waited]


@both
def test_nobody_is_made_to_wait_longer_than_the_bounds_allow(
    asynchronous: bool,  # noqa: FBT001
) -> None:
    network = Network(Provider(), {KEYS: [busy(Code.RATE_LIMITED, "11")] * 3})
    waits: list[float] = []
    with pytest.raises(RefusedError) as caught:
        run(network, asynchronous=asynchronous, waits=waits)
    assert caught.value.refusal is Code.RATE_LIMITED
    assert caught.value.retry_after == 11
    assert waits == []


def busy(code: Code, retry_after: str) -> httpx.Response:
    answer = problem_answer(Problem.of(code))
    headers = {**answer.headers, "retry-after": retry_after}
    return httpx.Response(answer.status_code, headers=headers, stream=answer.stream)


@both
def test_tries_end(asynchronous: bool) -> None:  # noqa: FBT001
    network = Network(Provider(), {KEYS: [httpx.ConnectError("down")] * 10})
    waits: list[float] = []
    with pytest.raises(ProviderError) as caught:
        run(network, asynchronous=asynchronous, waits=waits)
    assert caught.value.code is Code.PROVIDER_UNREACHABLE
    assert waits == [0.2, 0.4]
    assert len(network.sent) == 1 + 3


@both
@pytest.mark.parametrize("code", [Code.NONCE_REPLAYED, Code.PLATFORM_MISMATCH])
def test_a_refusal_is_final_and_carries_the_code(
    code: Code,
    asynchronous: bool,  # noqa: FBT001
) -> None:
    problem = Problem.of(code, instance="urn:x:7")
    network = Network(Provider(), {KEYS: [problem_answer(problem)]})
    with pytest.raises(RefusedError) as caught:
        run(network, asynchronous=asynchronous)
    assert caught.value.code is Code.PROVIDER_REFUSED
    assert caught.value.refusal is code
    assert caught.value.status == problem.status
    assert "urn:x:7" in caught.value.detail
    assert len(network.sent) == 2


def test_a_refusal_in_words_of_its_own() -> None:
    odd = Problem(type="about:blank", title="\x1b[31mred", status=403, code="new_code")
    network = Network(Provider(), {CHALLENGE: [problem_answer(odd)]})
    with pytest.raises(RefusedError) as caught:
        run(network, asynchronous=False)
    assert caught.value.refusal is None
    assert "new_code" in caught.value.detail
    assert "\x1b" not in str(caught.value)


FORMS = [
    ("redirect", lambda: answer_of(b"", "text/html", 302), CHALLENGE, "challenge"),
    ("html", lambda: answer_of(b"<p>", "text/html"), CHALLENGE, "challenge"),
    ("no_type", lambda: answer_of(b"{}", ""), KEYS, "response"),
    ("not_found", lambda: answer_of(b"", "text/plain", 404), KEYS, "response"),
    (
        "bad_problem",
        lambda: answer_of(b"{}", "application/problem+json", 403),
        KEYS,
        "response",
    ),
    (
        "huge_problem",
        lambda: answer_of(b" " * 20_000, "application/problem+json", 403),
        KEYS,
        "response",
    ),
    ("gzip", lambda: json_answer(b"\x1f\x8b\x08\x00" + bytes(20)), KEYS, "response"),
    ("too_large", lambda: json_answer(b" " * (5 << 20)), CHALLENGE, "challenge"),
    ("created", lambda: json_answer(b"{}", 201), KEYS, "response"),
]


@both
@pytest.mark.parametrize(
    ("answer", "path", "family"), [f[1:] for f in FORMS], ids=[f[0] for f in FORMS]
)
def test_answers_of_another_form(
    answer: Callable[[], httpx.Response],
    path: str,
    family: str,
    asynchronous: bool,  # noqa: FBT001
) -> None:
    network = Network(Provider(), {path: [answer()]})
    with pytest.raises(ProviderError) as caught:
        run(network, asynchronous=asynchronous)
    assert caught.value.code.value == f"{family}_invalid"
    assert [p for p, _ in network.sent].count(path) == 1


def test_an_answer_without_end_is_cut_off() -> None:
    class Endless(httpx.SyncByteStream):
        sent = 0

        def __iter__(self) -> Iterator[bytes]:
            while True:
                self.sent += 65536
                yield b" " * 65536

    stream = Endless()
    headers = {"content-type": "application/json"}
    answer = httpx.Response(200, stream=stream, headers=headers)
    with pytest.raises(ProviderError, match="longer than"):
        run(Network(Provider(), {CHALLENGE: [answer]}), asynchronous=False)
    assert stream.sent <= (4 << 20) + 65536


def test_a_trickle_meets_the_total_time() -> None:
    ticks = iter(range(0, 10_000, 10))
    answers = [
        httpx.Response(
            200,
            stream=Pieces(*[b" "] * 100),
            headers={"content-type": "application/json"},
        )
        for _ in range(3)
    ]
    with pytest.raises(ProviderError) as caught:
        run(
            Network(Provider(), {CHALLENGE: list(answers)}),
            asynchronous=False,
            monotonic=lambda: float(next(ticks)),
        )
    assert caught.value.code is Code.PROVIDER_UNREACHABLE
    assert "45" in caught.value.detail


def test_a_trickle_meets_the_total_time_in_asyncio() -> None:
    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            while True:
                await asyncio.sleep(0.01)
                yield b" "

    answer = httpx.Response(
        200, stream=Slow(), headers={"content-type": "application/json"}
    )
    with pytest.raises(ProviderError, match="TimeoutError"):
        run(
            Network(Provider(), {CHALLENGE: [answer]}),
            asynchronous=True,
            bounds=Bounds(total=0.1, attempts=1),
        )


@both
def test_a_platform_that_fails_is_not_the_providers_fault(asynchronous: bool) -> None:  # noqa: FBT001
    class Broken:
        def evidence(self, report_data: bytes) -> bytes:
            raise PlatformError(Code.PLATFORM_FAILED, f"{len(report_data)}")

    network = Network(Provider(), {})
    with pytest.raises(PlatformError):
        run(network, asynchronous=asynchronous, source=Broken())
    assert [path for path, _ in network.sent] == [CHALLENGE]


@both
def test_a_quote_over_this_exchange(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider()
    common: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "clock": lambda: NOW,
    }
    network = Network(provider, {})
    if asynchronous:

        async def whole() -> ReleasedKeys:
            transport = httpx.MockTransport(network.serve)
            async with AsyncClient(URL, transport=transport, **common) as client:
                return await client.keys(DISK, proof=Proof.QUOTE)

        result = asyncio.run(whole())
    else:
        with Client(URL, transport=httpx.MockTransport(network), **common) as client:
            result = client.keys(DISK, proof=Proof.QUOTE)
    assert result.receipt.quote is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "provider:3442",
        "ftp://provider",
        "http://",
        "http://user@provider",
        "http://provider/?q",
        "http://provider/#f",
        "http://[::1",
        "http://provider:port",
    ],
)
def test_addresses_refused(url: str) -> None:
    provider = Provider()
    with pytest.raises(SettingsError):
        Client(url, source=Workload(provider.evidence), terms=terms(provider))


def test_the_hosts_proxy_variables_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    provider = Provider()
    source = Workload(provider.evidence)
    with Client(URL, source=source, terms=terms(provider)) as client:
        assert client._http.trust_env is False
        assert not client._http._mounts


def test_a_refusal_crosses_process_borders() -> None:
    kind, values = RefusedError(Code.PROVIDER_REFUSED, "x").__reduce__()
    assert kind(*values).code is Code.PROVIDER_REFUSED


@both
def test_nobody_there(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider()
    common: dict[str, Any] = {
        "source": Workload(provider.evidence),
        "terms": terms(provider),
        "bounds": Bounds(connect=0.5, first_delay=0.01),
    }
    url = "http://127.0.0.1:1"

    async def whole() -> None:
        async with AsyncClient(url, **common) as client:
            await client.keys(DISK)

    def ask() -> None:
        with Client(url, **common) as client:
            client.keys(DISK)

    with pytest.raises(ProviderError) as caught:
        asyncio.run(whole()) if asynchronous else ask()
    assert caught.value.code is Code.PROVIDER_UNREACHABLE

# SPDX-License-Identifier: Apache-2.0
"""Bytes that are almost requests, sent to both transports of a real provider."""

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import TypeVar

import httpx
import pytest
from attack_support import (
    check_frame,
    check_responses,
    complaints,
    converse,
    framed_bytes,
    http_bytes,
    spoiled,
)
from service_harness import ask_framed

from tightseal.errors import RequestError
from tightseal.guest.exchange import Exchange, Terms
from tightseal.model import wire
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.keypath import KeyRequest
from tightseal.service.openapi import openapi_document
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

T = TypeVar("T")
AT_ONCE = 24
HTTP_CONNECTIONS = 1200
FRAMED_CONNECTIONS = 600
EXCHANGES = 150
TRIES = 10
SOAK = 50
"""Times as many in the long run."""

SHORT = {"head_seconds": 0.4, "body_seconds": 0.4, "idle_seconds": 0.4}
SHORT_FRAMED = {"first_byte_seconds": 0.4, "read_seconds": 0.4}

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("attacked")) as scene:
        yield scene
    # Here its complaints are expected; see above.
    gc.collect()


@pytest.fixture(scope="module")
def provider(scene: Scene) -> Provider:
    """Its limits are off: the attack comes from one address."""
    return scene.provider(
        release={"legacy": {"enabled": True, "json_errors": True}},
        host={
            "limits": {"requests_per_second": 0, "failures_per_second": 0},
            "http": SHORT,
            "framed": SHORT_FRAMED,
            "log": {"level": "debug"},
        },
    )


@pytest.fixture(scope="module")
def td(scene: Scene) -> SimTd:
    return scene.world.intel.platform("machine-a").launch_td(TdImage())


@pytest.fixture(scope="module")
def terms(scene: Scene, provider: Provider, td: SimTd) -> Terms:
    with scene.client(provider, td) as client:
        return client._terms


@pytest.fixture(autouse=True)
def unharmed(scene: Scene, provider: Provider, td: SimTd) -> Iterator[None]:
    """Whatever was sent: the same key as before, and nothing to mend."""
    before = key_of(scene, provider, td)
    yield
    assert key_of(scene, provider, td) == before
    ready = httpx.get(provider.url + "/readyz", trust_env=False)
    assert ready.status_code == 200
    assert complaints(provider) == []


def key_of(scene: Scene, provider: Provider, td: SimTd) -> bytes:
    with scene.client(provider, td) as client:
        return client.key("disk").reveal()


def port_of(provider: Provider) -> int:
    return int(provider.url.rsplit(":", 1)[1])


def each(count: int, seed: int, one: Callable[[Random], T]) -> list[T]:
    """Many connections, some at once; each has random numbers of its own."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, (Random(f"{seed}/{n}") for n in range(count))))


# -- HTTP --------------------------------------------------------------------------


def good_requests(
    provider: Provider, td: SimTd, terms: Terms
) -> list[tuple[str, str, bytes]]:
    """One for each path and method of the document."""
    bodies = {wire.KEYS_PATH: keys_request(provider, td, terms)}
    bodies[wire.CHALLENGE_PATH] = exchange_of(terms).challenge_request()
    paths = json.loads(openapi_document())["paths"]
    return [
        (method.upper(), path, bodies.get(path, b"{}") if method == "post" else b"")
        for path in paths
        for method in paths[path]
    ]


def exchange_of(terms: Terms) -> Exchange:
    return Exchange(terms, (KeyRequest("disk", "", 32),))


def keys_request(provider: Provider, td: SimTd, terms: Terms) -> bytes:
    """With a challenge that nobody has answered yet."""
    exchange = exchange_of(terms)
    asked = post(provider, wire.CHALLENGE_PATH, exchange.challenge_request())
    data = exchange.check_challenge(asked.content, now=int(time.time()))
    return exchange.keys_request(td.evidence(data))


def post(provider: Provider, path: str, body: bytes) -> httpx.Response:
    """A whole request; again where it was not sent within the short time for it."""
    for _ in range(TRIES):
        with suppress(httpx.RemoteProtocolError):
            return httpx.post(provider.url + path, content=body, trust_env=False)
    message = f"{TRIES} connections in a row were closed without an answer"
    raise AssertionError(message)


def attack_http(
    provider: Provider, td: SimTd, terms: Terms, *, count: int, seed: int
) -> Counter[int]:
    good, port = good_requests(provider, td, terms), port_of(provider)

    def one(rng: Random) -> list[int]:
        data, whole = converse(rng, port, http_bytes(rng, good))
        return check_responses(data, whole=whole)

    return Counter(status for got in each(count, seed, one) for status in got)


def test_bytes_that_are_almost_http(
    provider: Provider, td: SimTd, terms: Terms
) -> None:
    statuses = attack_http(provider, td, terms, count=HTTP_CONNECTIONS, seed=1)
    assert set(statuses) >= {200, 400, 404, 405, 408, 413}, statuses


@pytest.mark.soak
def test_bytes_that_are_almost_http_for_long(
    provider: Provider, td: SimTd, terms: Terms
) -> None:
    attack_http(provider, td, terms, count=SOAK * HTTP_CONNECTIONS, seed=2)


# -- framed ------------------------------------------------------------------------


def attack_framed(provider: Provider, td: SimTd, *, count: int, seed: int) -> set[str]:
    quotes = (td.evidence(bytes(64)), b"", b"\x01\x02")
    good = [json.dumps({"quote": list(quote)}).encode() for quote in quotes]
    good += [b'{"version":2,"quote":[7],"x":{"y":[1]}}', b"{}", b"[]"]

    def one(rng: Random) -> str:
        data, whole = converse(rng, provider.framed[1], framed_bytes(rng, good))
        return check_frame(data, whole=whole)

    return set(each(count, seed, one))


def test_bytes_that_are_almost_frames(provider: Provider, td: SimTd) -> None:
    codes = attack_framed(provider, td, count=FRAMED_CONNECTIONS, seed=1)
    wanted = {"", "request_malformed", "request_too_large", "evidence_unreadable"}
    assert codes >= wanted, codes
    assert json.loads(ask_framed(provider.framed[1], b"{}")[4:])["error"]


@pytest.mark.soak
def test_bytes_that_are_almost_frames_for_long(provider: Provider, td: SimTd) -> None:
    attack_framed(provider, td, count=SOAK * FRAMED_CONNECTIONS, seed=2)


# -- evidence ----------------------------------------------------------------------

ODD = (
    *(None, True, 0, -1, 1e300, 2**63, 2**70, "", "A", "=", "\0", "\ud83d"),
    *([], {}, [[]]),
)


def spoiled_exchange(rng: Random, body: bytes) -> bytes:
    """A request for keys with one field that is odd, or whose bytes are spoiled."""
    request = json.loads(body)
    item = rng.choice([request, request, request["keys"][0]])
    name = rng.choice(sorted(item))
    if item is request and rng.random() < 0.5:
        name = "evidence"
    kind, data = rng.randrange(8), decode(item[name])
    if kind == 0:
        del item[name]
    elif kind == 1 or not data:
        item[name] = rng.choice((*ODD, [item[name]], {name: item[name]}))
    elif kind == 2:
        item[name] = encode_base64url(spoiled(rng, data))
    else:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        item[name] = encode_base64url(data)
    return json.dumps(request).encode()


def decode(value: object) -> bytes:
    """The bytes of a text; nothing where it is none."""
    try:
        return decode_base64url(str(value), field="any", max_bytes=1 << 22)
    except RequestError:
        return b""


def attack_exchange(
    provider: Provider, td: SimTd, terms: Terms, *, count: int, seed: int
) -> Counter[str]:
    def one(rng: Random) -> str:
        body = spoiled_exchange(rng, keys_request(provider, td, terms))
        answer = post(provider, wire.KEYS_PATH, body)
        assert answer.status_code < 500, answer.text
        return "" if answer.is_success else str(answer.json()["code"])

    return Counter(each(count, seed, one))


def test_exchanges_with_one_field_spoiled(
    provider: Provider, td: SimTd, terms: Terms
) -> None:
    codes = attack_exchange(provider, td, terms, count=EXCHANGES, seed=1)
    assert sum(codes.values()) == EXCHANGES
    wanted = {"request_malformed", "certificate_malformed", "report_data_mismatch"}
    assert set(codes) >= wanted, codes


@pytest.mark.soak
def test_exchanges_with_one_field_spoiled_for_long(
    provider: Provider, td: SimTd, terms: Terms
) -> None:
    attack_exchange(provider, td, terms, count=SOAK * EXCHANGES, seed=2)

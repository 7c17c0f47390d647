# SPDX-License-Identifier: Apache-2.0
"""A real provider in operation: clocks, marks of simulation, offline, floods."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_harness import (
    ask_framed,
    ask_http,
    connect,
    http_request,
    parse_http,
    receive_all,
    until,
)
from service_world import Serving, composed_provider, real_clock, world_settings

from tightseal.collateral.bundle import bundle_to_json
from tightseal.collateral.cache import RecordCache
from tightseal.collateral.parts import split
from tightseal.errors import CollateralError, TightsealError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online
from tightseal.guest.exchange import Exchange, Terms
from tightseal.model.claims import Tee
from tightseal.model.keypath import KeyRequest
from tightseal.model.settings import LegacySettings
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH
from tightseal.service.settings import (
    CollateralSettings,
    PlatformKind,
    PlatformSettings,
    Settings,
)
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene
from tightseal_sim.world import World

DAY = 86_400

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        scene.world.intel.platform("machine-a")
        yield scene


def settings_in(
    state: Path,
    scene: Scene,
    *,
    collateral: CollateralSettings | None = None,
    host: dict[str, Any] | None = None,
    **release: Any,
) -> Settings:
    world = str(scene.folder / "world")
    return world_settings(
        state,
        platform=PlatformSettings(
            kind=PlatformKind.SIM, world=world, machine="machine-a"
        ),
        collateral=collateral or CollateralSettings(pccs=(scene.pccs_url,)),
        roots=(scene.world.intel.root_certificate,),
        host=host,
        **release,
    )


def key_of(scene: Scene, settings: Settings, url: str) -> bytes:
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    with Client(url, source=td, terms=terms(scene, settings)) as client:
        return client.key("disk").reveal()


def terms(scene: Scene, settings: Settings) -> Terms:
    roots = with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate)
    collateral = online(pccs=[scene.pccs_url], judge=judge_with(roots=roots))
    return Terms(pin=scene.pin_of(settings), collateral=collateral)


def parts(url: str) -> dict[str, dict[str, Any]]:
    answer = httpx.get(url + "/readyz", trust_env=False).json()
    return {part["name"]: part for part in answer["parts"]}


# -- the clock ---------------------------------------------------------------------


def test_clock_set_back_below_signed_collateral_refuses_everything(
    scene: Scene, tmp_path: Path
) -> None:
    offset = [0]
    legacy = LegacySettings(enabled=True, json_errors=True)
    settings = settings_in(tmp_path / "state", scene, legacy=legacy)
    with composed_provider(settings, clock=lambda: real_clock() + offset[0]) as serving:
        assert key_of(scene, settings, serving.url)
        offset[0] = -3 * DAY
        body = Exchange(terms(scene, settings), (KeyRequest("disk", "", 32),))
        for path, content in (
            (CHALLENGE_PATH, body.challenge_request()),
            (KEYS_PATH, b"{}"),
        ):
            answer = httpx.post(serving.url + path, content=content, trust_env=False)
            assert (answer.status_code, answer.json()["code"]) == (503, "clock_behind")
            assert answer.headers["retry-after"]
        framed = ask_framed(serving.served.framed_port, b'{"quote":[1]}')
        assert json.loads(framed[4:])["error"] == "clock_behind"

        ready = httpx.get(serving.url + "/readyz", trust_env=False)
        assert ready.status_code == 503
        clock = parts(serving.url)["clock"]
        assert (clock["ok"], clock["code"]) == (False, "clock_behind")
        assert "Set the host's clock" in clock["remedy"]

        offset[0] = 0
        assert key_of(scene, settings, serving.url)


def test_background_work_uses_the_floored_clock_and_outlives_it(
    scene: Scene, tmp_path: Path
) -> None:
    offset = [0]
    settings = settings_in(tmp_path / "state", scene)
    with composed_provider(settings, clock=lambda: real_clock() + offset[0]) as serving:
        round_of = serving.composed.background
        run_once(round_of)
        assert httpx.get(serving.url + "/readyz", trust_env=False).status_code == 200
        offset[0] = -3 * DAY
        run_once(round_of)
        found = parts(serving.url)
        assert {n: p["code"] for n, p in found.items() if not p["ok"]} == {
            "clock": "clock_behind",
            "attested_key": "clock_behind",
            "collateral": "clock_behind",
        }
        assert found["journal"]["ok"]
        offset[0] = 0
        run_once(round_of)
        assert httpx.get(serving.url + "/readyz", trust_env=False).status_code == 200


def run_once(background: Callable[[threading.Event], None]) -> None:
    ended = threading.Event()
    ended.set()
    background(ended)


def test_floor_of_one_worker_holds_for_the_other(scene: Scene, tmp_path: Path) -> None:
    """Two workers share one state; the second has seen no collateral at all."""
    offset = [-3 * DAY]
    settings = settings_in(tmp_path / "state", scene)
    with (
        composed_provider(settings) as first,
        composed_provider(settings, clock=lambda: real_clock() + offset[0]) as second,
    ):
        assert second.served.front.clock() == pytest.approx(real_clock() - 3 * DAY)
        assert key_of(scene, settings, first.url)
        run_once(second.composed.background)
        assert parts(second.url)["clock"]["code"] == "clock_behind"
        answer = httpx.post(second.url + KEYS_PATH, content=b"{}", trust_env=False)
        assert answer.json()["code"] == "clock_behind"


def test_floor_is_remembered_over_a_restart(scene: Scene, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state", scene)
    with composed_provider(settings) as serving:
        assert key_of(scene, settings, serving.url)
    with composed_provider(settings, clock=lambda: real_clock() - 3 * DAY) as serving:
        answer = httpx.post(serving.url + KEYS_PATH, content=b"{}", trust_env=False)
        assert answer.json()["code"] == "clock_behind"


# -- simulated, said everywhere ----------------------------------------------------

ASKED = {
    "info": ("GET", "/v1/info", b""),
    "health": ("GET", "/healthz", b""),
    "readiness": ("GET", "/readyz", b""),
    "metrics": ("GET", "/metrics", b""),
    "description": ("GET", "/v1/openapi.json", b""),
    "refused keys": ("POST", "/v1/keys", b"{}"),
    "refused challenge": ("POST", "/v1/challenge", b"{}"),
    "no such address": ("GET", "/none", b""),
    "wrong method": ("DELETE", "/v1/keys", b""),
}


@pytest.fixture(scope="module")
def plain(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Serving]]:
    legacy = LegacySettings(enabled=True, json_errors=True)
    state = tmp_path_factory.mktemp("plain") / "state"
    settings = settings_in(state, scene, legacy=legacy, host={"queue": 8})
    with composed_provider(settings) as serving:
        yield settings, serving


@pytest.mark.parametrize(("method", "path", "body"), ASKED.values(), ids=ASKED.keys())
def test_every_response_says_simulated(
    plain: tuple[Settings, Serving], method: str, path: str, body: bytes
) -> None:
    answer = ask_http(plain[1].served.http_port, method, path, body)
    assert answer.headers["tightseal-simulated"] == "true"


def test_granted_answers_say_simulated_too(
    scene: Scene, plain: tuple[Settings, Serving]
) -> None:
    settings, serving = plain
    exchange = Exchange(terms(scene, settings), (KeyRequest("disk", "", 32),))
    port = serving.served.http_port
    question = exchange.challenge_request()
    challenge = ask_http(port, "POST", CHALLENGE_PATH, question)
    data = exchange.check_challenge(challenge.body, now=real_clock())
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    body = exchange.keys_request(td.evidence(data))
    answer = ask_http(port, "POST", KEYS_PATH, body)
    assert (challenge.status, answer.status) == (200, 200)
    for granted in (challenge, answer):
        assert granted.headers["tightseal-simulated"] == "true"


def test_refusals_below_the_routes_say_simulated(
    plain: tuple[Settings, Serving],
) -> None:
    with connect(plain[1].served.http_port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nheader without colon\r\n\r\n")
        answer = parse_http(receive_all(connection))
    assert answer.json["code"] == "request_malformed"
    assert answer.headers["tightseal-simulated"] == "true"


def test_framed_refusals_say_simulated(plain: tuple[Settings, Serving]) -> None:
    framed = ask_framed(plain[1].served.framed_port, b'{"quote":[1]}')
    assert json.loads(framed[4:])["simulated"] is True


# -- offline -----------------------------------------------------------------------


def test_provider_without_network_serves_from_a_bundle(
    scene: Scene, tmp_path: Path
) -> None:
    online_settings = settings_in(tmp_path / "online", scene)
    with composed_provider(online_settings) as serving:
        usual = key_of(scene, online_settings, serving.url)
    parts_seen = tuple(
        record.part
        for record in RecordCache(online_settings.host.collateral_dir).records()
    )
    bundle = tmp_path / "bundle.json"
    bundle.write_text(bundle_to_json(parts_seen))
    settings = settings_in(
        tmp_path / "offline",
        scene,
        collateral=CollateralSettings(
            pccs=("http://127.0.0.1:9",), kds=(), bundle=str(bundle)
        ),
    )
    with composed_provider(settings, background=True) as serving:
        until(
            lambda: httpx.get(serving.url + "/readyz", trust_env=False).is_success,
            seconds=10,
        )
        assert key_of(scene, settings, serving.url) == usual
    assert not settings.host.collateral_dir.exists()


def test_bundle_that_is_missing_ends_the_start(scene: Scene, tmp_path: Path) -> None:
    collateral = CollateralSettings(bundle=str(tmp_path / "none.json"))
    settings = settings_in(tmp_path / "state", scene, collateral=collateral)
    with (
        pytest.raises(TightsealError, match=r"none\.json"),
        composed_provider(settings),
    ):
        pytest.fail("it started")


def test_bundle_of_a_root_that_is_not_switched_on_ends_the_start(
    scene: Scene, tmp_path: Path
) -> None:
    intel = World.in_memory(b"another world".ljust(32, b"\0")).intel
    collateral = intel.collateral(
        fmspc=intel.platform("host").fmspc,
        ca="platform",
        tee=Tee.TDX,
        now=int(time.time()),
    )
    bundle = tmp_path / "bundle.json"
    bundle.write_text(bundle_to_json(split(collateral)))
    settings = settings_in(
        tmp_path / "state", scene, collateral=CollateralSettings(bundle=str(bundle))
    )
    with (
        pytest.raises(CollateralError, match="root_not_trusted"),
        composed_provider(settings),
    ):
        pytest.fail("it started")


# -- floods ------------------------------------------------------------------------

FLOODERS = 6
FLOOD_SECONDS = 4.0


def wrong_nonce(evidence_bytes: int) -> bytes:
    """Right in form, with evidence as long as asked, and a nonce that we never made."""
    return json.dumps(
        {
            "version": 1,
            "nonce": "A" * 86,
            "binding_key_hash": "A" * 43,
            "kem": "x25519",
            "recipient_key": "A" * 43,
            "keys": [{"purpose": "disk"}],
            "evidence": "A" * (evidence_bytes * 4 // 3 // 4 * 4),
        }
    ).encode()


FLOODS = {
    "wrong JSON": (b"[" * 600_000, "request_malformed"),
    "wrong types": (b'{"version":"1"}', "request_malformed"),
    "wrong nonce": (wrong_nonce(5_000), "nonce_unknown"),
    "wrong nonce, long evidence": (wrong_nonce(200_000), "nonce_unknown"),
}


@pytest.mark.parametrize(("body", "code"), FLOODS.values(), ids=FLOODS.keys())
def test_good_client_is_served_throughout_a_flood_of_bad_requests(
    scene: Scene, plain: tuple[Settings, Serving], body: bytes, code: str
) -> None:
    settings, serving = plain
    ended = threading.Event()
    codes: Counter[str] = Counter()
    request = http_request("POST", KEYS_PATH, body, close=False)

    def flood() -> None:
        while not ended.is_set():
            with connect(serving.served.http_port) as connection:
                reader = connection.makefile("rb")
                for _ in range(50):
                    connection.sendall(request)
                    codes[read_problem(reader)] += 1
                    if ended.is_set():
                        return

    floods = [threading.Thread(target=flood, daemon=True) for _ in range(FLOODERS)]
    for thread in floods:
        thread.start()
    verified: list[float] = []
    end = time.monotonic() + FLOOD_SECONDS
    try:
        while time.monotonic() < end:
            start = time.monotonic()
            assert key_of(scene, settings, serving.url)
            verified.append(time.monotonic() - start)
    finally:
        ended.set()
        for thread in floods:
            thread.join(20)
    assert codes[code] > FLOODERS
    assert set(codes) <= {code, "overloaded", "rate_limited"}
    assert len(verified) >= 3
    assert max(verified) < 3.0
    assert serving.served.front.budget.held == 0


def read_problem(reader: BufferedReader) -> str:
    length = 0
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
    return str(json.loads(reader.read(length))["code"])

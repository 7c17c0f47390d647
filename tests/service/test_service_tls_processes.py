# SPDX-License-Identifier: Apache-2.0
"""TLS of a provider with two workers, started as operators start it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_harness import until
from service_world import real_clock
from tls_scene import any_certificate, key_hash_of, shown_by, terms, workload

from tightseal.guest.client import Client
from tightseal.guest.exchange import Exchange
from tightseal.model.keypath import KeyRequest
from tightseal.model.tls import TlsTrust
from tightseal.service.load import parse_settings
from tightseal.service.settings import Settings
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

ROUNDS = 12


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("tls")) as scene:
        yield scene


@pytest.fixture(scope="module")
def pair(scene: Scene) -> Iterator[tuple[Settings, str]]:
    """Two workers; settings and address."""
    config = scene.configure(host={"workers": 2, "tls": {"mode": "self"}})
    settings = parse_settings(config.read_text(), environment={})
    url = f"https://{settings.host.listen}"
    log = config.parent / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tightseal", "serve", "--config", str(config)],
            stdout=sink,
            stderr=subprocess.STDOUT,
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with httpx.Client(verify=any_certificate(), trust_env=False) as plain:
                return plain.get(f"{url}/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    try:
        until(ready, 60)
        yield settings, url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_any_worker_takes_what_another_began(
    scene: Scene, pair: tuple[Settings, str]
) -> None:
    settings, url = pair
    port = int(settings.host.listen.rpartition(":")[2])
    shown: set[bytes] = set()

    def both() -> bool:
        shown.add(shown_by(port))
        return len(shown) == 2

    # Each worker has a certificate of its own, for one key.
    until(both, 60)
    assert len({key_hash_of(one) for one in shown}) == 1
    with httpx.Client(
        verify=any_certificate(), trust_env=False, headers={"connection": "close"}
    ) as plain:
        for _ in range(ROUNDS):
            exchange = Exchange(terms(scene, settings), (KeyRequest("disk"),))
            asked = exchange.challenge_request()
            challenge = plain.post(f"{url}/v1/challenge", content=asked)
            report_data = exchange.check_challenge(
                challenge.content,
                tls_key_hash=key_hash_of(next(iter(shown))),
                now=real_clock(),
            )
            body = exchange.keys_request(workload(scene).evidence(report_data))
            answer = plain.post(f"{url}/v1/keys", content=body)
            assert answer.status_code == httpx.codes.OK, answer.text
            with exchange.open_response(answer.content, now=real_clock()) as keys:
                assert len(keys.get("disk")) == 32


def test_attested_clients_of_two_workers_get_one_key(
    scene: Scene, pair: tuple[Settings, str]
) -> None:
    settings, url = pair
    keys = set()
    for _ in range(ROUNDS):
        with Client(
            url,
            source=workload(scene),
            terms=terms(scene, settings),
            tls=TlsTrust.ATTESTED,
        ) as client:
            keys.add(client.key("disk").reveal())
    assert len(keys) == 1


def test_no_file_of_the_provider_is_a_key(pair: tuple[Settings, str]) -> None:
    folder = Path(pair[0].host.state_dir)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()]

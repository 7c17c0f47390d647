# SPDX-License-Identifier: Apache-2.0
"""A whole provider on the simulated world: processes, signals, state, two workers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from nacl.public import PrivateKey
from service_harness import ask_framed, until

from tightseal.envelope.sealed_box import open_legacy
from tightseal.guest.exchange import Exchange, Terms
from tightseal.model.keypath import KeyRequest
from tightseal.model.secret import Secret
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH
from tightseal.service.supervisor import EXIT_FAILED, EXIT_SETTINGS
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

LEGACY = {"legacy": {"enabled": True, "json_errors": True}}
ROUNDS = 12

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def pair(scene: Scene) -> Provider:
    """A provider with two workers."""
    return scene.provider("pair", release=LEGACY, host={"workers": 2})


def workload(scene: Scene, machine: str = "machine-a") -> SimTd:
    return scene.world.intel.platform(machine).launch_td(TdImage())


def key_of(scene: Scene, provider: Provider, machine: str = "machine-a") -> bytes:
    with scene.client(provider, workload(scene, machine)) as client:
        return client.key("disk").reveal()


def log_lines(provider: Provider) -> list[dict[str, Any]]:
    return [json.loads(line) for line in provider.log.read_text().splitlines()]


def terms_of(scene: Scene, provider: Provider) -> Terms:
    with scene.client(provider, workload(scene)) as client:
        return client._terms


def post(provider: Provider, path: str, body: bytes) -> httpx.Response:
    """One request on a connection of its own, so that any worker may take it."""
    return httpx.post(provider.url + path, content=body, trust_env=False)


def same_challenge(count: int, scene: Scene, provider: Provider) -> list[bytes]:
    """Requests that differ and answer one challenge: other recipient, same nonce."""
    client_nonce = os.urandom(32)
    terms = terms_of(scene, provider)
    exchanges = [
        Exchange(
            terms, (KeyRequest("disk", "", 32),), entropy=lambda n: client_nonce[:n]
        )
        for _ in range(count)
    ]
    questions = {exchange.challenge_request() for exchange in exchanges}
    assert len(questions) == 1
    challenge = post(provider, CHALLENGE_PATH, questions.pop()).content
    now = int(time.time())
    td = workload(scene)
    bodies = []
    for exchange in exchanges:
        data = exchange.check_challenge(challenge, tls_key_hash=None, now=now)
        bodies.append(exchange.keys_request(td.evidence(data)))
    return bodies


def test_same_workload_same_key_over_restarts_of_the_provider(scene: Scene) -> None:
    keys = set()
    for _ in range(2):
        provider = scene.provider("restarted")
        keys.add(key_of(scene, provider))
        provider.stop()
        assert provider.process.returncode == 0
    assert len(keys) == 1


def test_one_nonce_is_redeemed_once_by_two_workers(
    scene: Scene, pair: Provider
) -> None:
    with ThreadPoolExecutor(8) as threads:
        for _ in range(ROUNDS):
            bodies = same_challenge(4, scene, pair)
            answers = list(threads.map(lambda b: post(pair, KEYS_PATH, b), bodies))
            codes = sorted(a.status_code for a in answers)
            assert codes == [200, 409, 409, 409]
            refused = [a.json()["code"] for a in answers if a.status_code != 200]
            assert set(refused) == {"nonce_replayed"}
    workers = {
        line.get("worker") for line in log_lines(pair) if line.get("protocol") == "keys"
    }
    assert workers == {0, 1}


def test_byte_identical_retries_get_the_same_answer_from_any_worker(
    scene: Scene, pair: Provider
) -> None:
    (body,) = same_challenge(1, scene, pair)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda b: post(pair, KEYS_PATH, b), [body] * 16))
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 1


def test_challenge_of_one_worker_is_answered_by_the_other(
    scene: Scene, pair: Provider
) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = threads.map(
            lambda _: key_of(scene, pair),
            range(16),
        )
        assert len(set(results)) == 1


def test_legacy_exchange_end_to_end(scene: Scene, pair: Provider) -> None:
    recipient = PrivateKey.generate()
    report_data = bytes(recipient.public_key) + bytes(32)
    quote = workload(scene).evidence(report_data)
    payload = json.dumps({"quote": list(quote)}).encode()
    data = ask_framed(pair.framed[1], payload)
    answer = json.loads(data[4:])
    sealed = bytes(answer["encrypted_key"])
    assert len(sealed) == 80
    assert len(open_legacy(sealed, private_key=Secret(bytes(recipient))).reveal()) == 32


def test_legacy_refusal_is_a_framed_error_where_the_setting_says_so(
    scene: Scene, pair: Provider
) -> None:
    quote = workload(scene).evidence(bytes(range(64)))
    payload = json.dumps({"quote": list(quote)}).encode()
    answer = json.loads(ask_framed(pair.framed[1], payload)[4:])
    assert answer["error"] == "report_data_mismatch"


def test_workload_on_another_machine_is_refused(scene: Scene, pair: Provider) -> None:
    scene.world.intel.platform("machine-b")
    with pytest.raises(Exception, match="platform_mismatch"):
        key_of(scene, pair, "machine-b")
    denied = [x for x in log_lines(pair) if x.get("code") == "platform_mismatch"]
    assert denied[0]["reasons"]


def test_every_log_line_says_simulated(pair: Provider) -> None:
    lines = log_lines(pair)
    assert lines
    assert all(line["simulated"] is True for line in lines)


def test_metrics_of_one_worker_answer_for_both(scene: Scene, pair: Provider) -> None:
    def granted() -> float:
        text = httpx.get(pair.url + "/metrics", trust_env=False).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("tightseal_requests_total")
            and 'protocol="challenge"' in line
        )

    before = {granted() for _ in range(6)}
    assert len(before) == 1
    for _ in range(6):
        key_of(scene, pair)
    assert granted() == before.pop() + 6


def worker_pids(provider: Provider) -> list[int]:
    listed = Path(f"/proc/{provider.process.pid}/task")
    pids = []
    for children in listed.glob("*/children"):
        pids += [int(p) for p in children.read_text().split()]
    return [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_killed_worker_comes_back(scene: Scene) -> None:
    provider = scene.provider("killed", host={"workers": 2})

    def times_serving() -> int:
        return sum(x["event"] == "serving" for x in log_lines(provider))

    # One worker answers before the other has started; a start that fails is no restart.
    until(lambda: times_serving() == 1, seconds=20)
    before = worker_pids(provider)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(worker_pids(provider)) - {before[0]}) == 2, seconds=20)
    until(lambda: times_serving() == 2, seconds=20)
    for _ in range(8):
        key_of(scene, provider)
    provider.stop()
    assert provider.process.returncode == 0
    died = [x for x in log_lines(provider) if x["event"] == "worker_died"]
    assert [x["exit_code"] for x in died] == [-signal.SIGKILL]


def test_workers_end_with_their_supervisor(scene: Scene) -> None:
    provider = scene.provider("orphaned", host={"workers": 2})
    pids = worker_pids(provider)
    provider.process.kill()
    provider.process.wait()
    until(lambda: not any(Path(f"/proc/{p}").exists() for p in pids), seconds=20)


@pytest.mark.parametrize("workers", [1, 2])
def test_hang_up_changes_the_log_level_alone(scene: Scene, workers: int) -> None:
    provider = scene.provider(f"hup-{workers}", host={"workers": workers})
    text = provider.config.read_text()
    log_table = '\n[host.log]\nlevel = "debug"\n'
    provider.config.write_text(text + log_table)
    provider.process.send_signal(signal.SIGHUP)
    until(
        lambda: any(x["event"] == "log_level_read_again" for x in log_lines(provider)),
        seconds=10,
    )
    assert key_of(scene, provider)
    provider.config.write_text("[host\n")
    provider.process.send_signal(signal.SIGHUP)
    until(
        lambda: any(
            x["event"] == "settings_not_read_again" for x in log_lines(provider)
        ),
        seconds=10,
    )
    assert key_of(scene, provider)
    provider.stop()
    assert provider.process.returncode == 0


def test_no_core_dump_is_possible(pair: Provider) -> None:
    for pid in [pair.process.pid, *worker_pids(pair)]:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (core,) = [x for x in limits.splitlines() if x.startswith("Max core file")]
        assert core.split()[4:6] == ["0", "0"]


def run_serve(config: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tightseal", "serve", "--config", str(config)],
        capture_output=True,
        timeout=60,
        check=False,
    )


def changed(provider: Provider, folder: Path, old: str, new: str) -> Path:
    text = provider.config.read_text()
    assert old in text
    config = folder / "changed.toml"
    config.write_text(text.replace(old, new))
    return config


def test_unusable_address_ends_with_the_code_for_settings(
    pair: Provider,
) -> None:
    taken = run_serve(pair.config)
    assert taken.returncode == EXIT_SETTINGS
    assert b"host.listen" in taken.stderr


@pytest.mark.parametrize("lost", ["journal.sqlite", "collateral-guard.json"])
@pytest.mark.parametrize("workers", [1, 2])
def test_lost_part_of_the_state_is_no_fresh_start(
    scene: Scene, lost: str, workers: int
) -> None:
    name = f"lost-{lost}-{workers}"
    provider = scene.provider(name, host={"workers": workers})
    provider.stop()
    (scene.folder / name / "state" / lost).unlink()
    ended = run_serve(provider.config)
    assert ended.returncode == EXIT_FAILED
    assert lost.encode() in ended.stderr


def test_missing_world_ends_with_the_code_for_settings(
    scene: Scene, pair: Provider, tmp_path: Path
) -> None:
    world = str(scene.folder / "world")
    ended = run_serve(changed(pair, tmp_path, world, str(tmp_path / "none")))
    assert ended.returncode == EXIT_SETTINGS


def test_provider_without_collateral_runs_and_says_that_it_is_not_ready(
    scene: Scene, tmp_path: Path
) -> None:
    provider = scene.provider("alone")
    provider.stop()
    config = changed(provider, tmp_path, scene.pccs_url, "http://127.0.0.1:9")
    config.write_text(
        config.read_text().replace(
            str(scene.folder / "alone" / "state"), str(tmp_path / "state")
        )
    )
    arguments = [sys.executable, "-m", "tightseal", "serve", "--config", str(config)]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:

            def answers() -> bool:
                try:
                    answer = httpx.get(provider.url + "/readyz", trust_env=False)
                except httpx.HTTPError:
                    return False
                parts = {p["name"]: p for p in answer.json()["parts"]}
                return answer.status_code == 503 and "attested_key" in parts

            until(answers, seconds=30)
            answer = httpx.get(provider.url + "/readyz", trust_env=False).json()
            parts = {p["name"]: p for p in answer["parts"]}
            assert parts["journal"]["ok"]
            assert parts["attested_key"]["code"] == "collateral_unavailable"
            assert "collateral fetch" in parts["attested_key"]["remedy"]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0

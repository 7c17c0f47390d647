# SPDX-License-Identifier: Apache-2.0
"""What operators send: bundles and actions, over HTTP."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_harness import (
    ScriptedProvider,
    ask_http,
    running,
    scripted_error,
    scripted_settings,
    until,
)

from tightseal.errors import Code, ProviderError, SettingsError
from tightseal.model import wire
from tightseal.model.wire_operator import ACTIONS_PATH, MAX_ACTION_BYTES, POLICY_PATH
from tightseal.service.load import parse_settings
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene

ROOT = "ab" * 32
EMPTY = "version = 1\n"


def test_a_bundle_and_an_action_reach_the_pipeline_byte_for_byte() -> None:
    with running() as run:
        published = ask_http(run.http_port, "POST", POLICY_PATH, b"\x00bundle")
        done = ask_http(run.http_port, "POST", ACTIONS_PATH, b"{}")
    assert run.provider.seen == [b"\x00bundle", b"{}"]
    assert published.json["accepted"] is True
    assert published.json["policy_version"] == 7
    assert done.json == {"version": 1, "done": True, "entry_id": "AA"}


@pytest.mark.parametrize("path", [POLICY_PATH, ACTIONS_PATH])
@pytest.mark.parametrize("code", [Code.BUNDLE_UNDERSIGNED, Code.ACTION_REPLAYED])
def test_a_refused_bundle_or_action_is_a_problem(path: str, code: Code) -> None:
    provider = ScriptedProvider(error=scripted_error(code))
    with running(provider) as run:
        answer = ask_http(run.http_port, "POST", path, b"x")
    assert answer.json["code"] == code.value
    assert answer.status == scripted_error(code).info.status


def test_an_action_longer_than_any_is_refused_unread() -> None:
    with running() as run:
        answer = ask_http(
            run.http_port, "POST", ACTIONS_PATH, b"x" * (MAX_ACTION_BYTES + 1)
        )
    assert answer.json["code"] == Code.REQUEST_TOO_LARGE.value
    assert run.provider.seen == []


def test_a_bundle_under_judgement_holds_no_workload_up() -> None:
    gate = threading.Event()

    class Busy(ScriptedProvider):
        def publish(self, bundle: bytes, *, now: int) -> Any:
            gate.wait(10)
            return super().publish(bundle, now=now)

    with running(Busy()) as run:
        asking = threading.Thread(
            target=ask_http, args=(run.http_port, "POST", POLICY_PATH, b"bundle")
        )
        asking.start()
        until(lambda: run.front.operator_pool.in_flight == 1)
        for _ in range(4):
            assert ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}").status == 200
        gate.set()
        asking.join(10)


def test_what_strangers_send_from_many_addresses_keeps_no_signed_action_out() -> None:
    """A revocation must get through while anybody can fill the operators' queue."""
    provider = ScriptedProvider(gate=threading.Event())

    def flood(port: int, address: str) -> None:
        connection = HTTPConnection(
            "127.0.0.1", port, timeout=30, source_address=(address, 0)
        )
        with closing(connection):
            connection.request("POST", POLICY_PATH, b"bundle")
            connection.getresponse().read()

    with (
        ThreadPoolExecutor(16) as threads,
        running(provider, scripted_settings(queue=4)) as run,
    ):
        port, pool = run.http_port, run.front.operator_pool
        for number in range(pool.limit):
            threads.submit(flood, port, f"127.0.0.{number + 2}")
        until(lambda: pool.in_flight == pool.limit)
        signed = threads.submit(ask_http, port, "POST", ACTIONS_PATH, b"signed")
        until(lambda: pool._queue.waiting(known=True) == 1)
        unsigned = ask_http(port, "POST", ACTIONS_PATH, b"unsigned")
        assert unsigned.json["code"] == Code.ACTION_UNDERSIGNED.value
        provider.open_gate()
        assert signed.result(30).status == 200
        assert b"signed" in provider.seen


# -- settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "named"),
    [
        (f'policy_root = "{ROOT}"\nnonce_life = 60', "nonce_life"),
        (f'policy_root = "{ROOT}"\naccepted_tcb = ["OutOfDate"]', "accepted_tcb"),
        (f'policy_root = "{ROOT}"\n[release.legacy]\nenabled = true', "legacy"),
        ('policy_root = "first-start"', "policy_root is first-start"),
        ('policy_root = "abc"', "policy_root"),
    ],
    ids=["limits", "tcb", "legacy", "first start on hardware", "no root"],
)
def test_unsigned_settings_beside_a_policy_root_are_refused(
    release: str, named: str
) -> None:
    """Under a policy root no settings digest is in the keys: a host could edit them."""
    with pytest.raises(SettingsError, match=named):
        parse_settings(f"[release]\n{release}\n", environment={})


@pytest.mark.parametrize(
    "host",
    ['engine = "postgres"', 'url = "postgresql://here/db"'],
    ids=["no address", "address of a file"],
)
def test_an_engine_needs_the_address_that_fits_it(host: str) -> None:
    with pytest.raises(SettingsError, match="url"):
        parse_settings(f"[host.state]\n{host}\n", environment={})


# -- a real provider --------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


def readiness(provider: Provider) -> dict[str, Any]:
    answer = httpx.get(f"{provider.url}/readyz", trust_env=False)
    told: dict[str, Any] = answer.json()
    return told


def broken(provider: Provider) -> dict[str, str]:
    parts = readiness(provider)["parts"]
    return {part["name"]: part["code"] for part in parts if not part["ok"]}


def test_without_a_policy_a_provider_serves_nothing_and_says_what_is_missing(
    stage: Scene,
) -> None:
    approvers = Approvers()
    provider = stage.provider("empty", policy_root=approvers.policy_root)
    until(lambda: broken(provider).get("policy") == Code.POLICY_MISSING.value, 15)
    td = stage.world.intel.platform("machine-a").launch_td(TdImage())
    with (
        stage.client(provider, td) as client,
        pytest.raises(ProviderError) as refused,
    ):
        client.key("disk")
    assert refused.value.refusal is Code.POLICY_MISSING
    assert provider.publish(approvers.bundle({"d": EMPTY})).status_code == 200
    until(lambda: readiness(provider)["ready"], 15)
    assert provider.act(b"{}").json()["code"] == Code.ACTION_MALFORMED.value


def test_a_bad_bundle_leaves_a_provider_ready_and_is_noted(stage: Scene) -> None:
    approvers = Approvers()
    bundle = approvers.bundle({"d": EMPTY})
    provider = stage.provider("noted", policy_root=approvers.policy_root, bundle=bundle)
    assert provider.publish(bundle[:-1]).json()["code"] == "bundle_malformed"
    until(lambda: "bundle_refused" in _notes(provider), 15)
    assert readiness(provider)["ready"]
    assert "state_unanchored" in _notes(provider)


def _notes(provider: Provider) -> set[str]:
    return {note["name"] for note in readiness(provider)["notes"]}


def test_a_changed_bundle_file_is_taken_and_a_spoiled_one_is_not(stage: Scene) -> None:
    approvers = Approvers()
    provider = stage.provider(
        "filed",
        policy_root=approvers.policy_root,
        bundle=approvers.bundle({"d": EMPTY}),
    )
    file = Path(provider.settings.host.policy_bundle)

    def version() -> int:
        told = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
        return int(told["policy"]["version"])

    file.write_bytes(b"spoiled")
    until(lambda: "bundle_refused" in _notes(provider), 15)
    assert version() == 1
    file.write_bytes(approvers.bundle({"d": EMPTY}))
    until(lambda: version() == 2, 15)
    until(lambda: "bundle_refused" not in _notes(provider), 15)


def test_a_store_that_is_gone_is_no_fresh_start(stage: Scene) -> None:
    approvers = Approvers()
    bundle = approvers.bundle({"d": EMPTY})
    provider = stage.provider("gone", policy_root=approvers.policy_root, bundle=bundle)
    provider.stop()
    state = Path(provider.settings.host.state_dir)
    for part in state.glob("state.sqlite*"):
        part.unlink()
    with pytest.raises(Exception, match="state_missing"):
        stage.provider("gone", policy_root=approvers.policy_root, bundle=bundle)
    stage.provider(
        "gone",
        policy_root=approvers.policy_root,
        bundle=bundle,
        host={"state": {"create": True}},
    )


def test_a_provider_without_a_root_takes_neither_bundles_nor_actions(
    stage: Scene,
) -> None:
    provider = stage.provider("plain")
    for answer in (provider.publish(b"x"), provider.act(b"{}")):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_restart_finds_the_policy_without_its_file(stage: Scene) -> None:
    approvers = Approvers()
    first = stage.provider(
        "kept",
        policy_root=approvers.policy_root,
        bundle=approvers.bundle({"d": EMPTY}),
    )
    first.process.kill()
    first.process.wait(10)
    again = stage.provider("kept", policy_root=approvers.policy_root)
    deadline = time.monotonic() + 15
    while not readiness(again)["ready"] and time.monotonic() < deadline:
        time.sleep(0.05)
    told = httpx.get(f"{again.url}/v1/info", trust_env=False).json()
    assert told["policy"]["version"] == 1

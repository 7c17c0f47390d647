# SPDX-License-Identifier: Apache-2.0
"""Limits as clients of both transports see them: code, time to come back, metrics."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service_harness import (
    Running,
    ScriptedProvider,
    ask_framed,
    ask_http,
    connect,
    http_request,
    parse_http,
    receive_all,
    scripted_front,
    scripted_settings,
    serving,
)
from service_world import composed_provider, real_clock, world_settings
from structlog.testing import capture_logs

from tightseal.errors import Code, EvidenceError, SettingsError, retry_later
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online
from tightseal.guest.exchange import Terms
from tightseal.guest.http import RefusedError
from tightseal.model import wire
from tightseal.model.settings import LimitSettings
from tightseal.model.wire_handoff import HANDOFF_PATH
from tightseal.model.wire_operator import POLICY_PATH
from tightseal.release.leases import Leases
from tightseal.service.admission import Admission
from tightseal.service.limitlog import limit_heard, source_heard
from tightseal.service.listen_settings import HostLimits
from tightseal.service.settings import (
    CollateralSettings,
    PlatformKind,
    PlatformSettings,
)
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene

NOON = real_clock() // 60 * 60 + 60
FRAME = b'{"quote":[1,2,3]}'


@contextmanager
def limited(error: BaseException | None = None, **limits: Any) -> Iterator[Running]:
    provider = ScriptedProvider(error=error)
    front = scripted_front(provider, scripted_settings(json_errors=True))
    front = replace(
        front,
        admission=Admission(HostLimits(**limits), on_limit=source_heard(front.metrics)),
        leases=Leases(None, on_event=limit_heard(front.metrics)),
    )
    with serving(front) as served:
        yield Running(**vars(served), provider=provider)


FORGED = EvidenceError(Code.QUOTE_SIGNATURE_INVALID, "forged")


def test_forged_evidence_of_a_handoff_is_paid_for() -> None:
    """An invitation is no secret: it can be sent with any evidence, again and again."""
    with limited(FORGED, failures_per_second=0.01, failure_burst=3) as run:
        statuses = [
            ask_http(run.http_port, "POST", HANDOFF_PATH, b"%d" % number).status
            for number in range(5)
        ]
        assert len(run.provider.seen) == 3
    assert statuses == [FORGED.info.status] * 3 + [429] * 2


def test_bundles_that_are_refused_are_paid_for() -> None:
    error = SettingsError(Code.BUNDLE_UNDERSIGNED, "by nobody")
    with limited(error, failures_per_second=0.01, failure_burst=1) as run:
        statuses = [
            ask_http(run.http_port, "POST", POLICY_PATH, b"%d" % number).status
            for number in range(12)
        ]
    assert statuses == [error.info.status] * 10 + [429] * 2


def test_too_many_requests_are_refused_before_their_body_is_read() -> None:
    with limited(requests_per_second=1) as run:
        for _ in range(2):
            assert ask_http(run.http_port, "GET", "/v1/info").status == 200
        with connect(run.http_port) as connection:
            head = http_request(
                "POST", wire.KEYS_PATH, headers="content-length: 100000\r\n"
            )
            connection.sendall(head)
            answer = parse_http(receive_all(connection))
        assert (answer.status, answer.json["code"]) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert run.provider.seen == []
        text = run.front.metrics.render().decode()
    counted = 'tightseal_limits_total{event="refused",limit="requests_per_second"} 1.0'
    assert counted in text


def test_health_is_answered_whatever_a_source_owes() -> None:
    with limited(requests_per_second=1, failures_per_second=0.1) as run:
        for _ in range(5):
            assert ask_http(run.http_port, "GET", "/healthz").status == 200
            assert ask_http(run.http_port, "GET", "/metrics").status == 200


@pytest.mark.parametrize("transport", ["http", "framed"])
def test_who_failed_too_often_is_told_when_to_come_back(transport: str) -> None:
    with limited(FORGED, failures_per_second=0.25, failure_burst=3) as run:
        codes = [ask(run, transport) for _ in range(6)]
        assert len(run.provider.seen) == 3
    assert codes == ["quote_signature_invalid"] * 3 + ["rate_limited"] * 3


def ask(run: Running, transport: str) -> str:
    if transport == "framed":
        answer = ask_framed(run.framed_port, FRAME)
        return str(json.loads(answer[4:])["error"])
    problem = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
    if problem.status == 429:
        assert 1 <= int(problem.headers["retry-after"]) <= 4
    return str(problem.json["code"])


@pytest.mark.parametrize("transport", ["http", "framed"])
@pytest.mark.parametrize(
    ("limit", "error", "codes"),
    [
        ("shared_failures_per_minute", FORGED, ["quote_signature_invalid"] * 2),
        ("shared_failures_per_minute", None, None),
        ("shared_verifications_per_minute", None, ["granted"] * 2),
    ],
)
def test_limits_over_all_nodes_count_what_they_say(
    transport: str, limit: str, error: BaseException | None, codes: list[str] | None
) -> None:
    with limited(error, **{limit: 2}) as run:
        before = run.provider.seen
        for _ in range(5):
            if transport == "framed":
                ask_framed(run.framed_port, FRAME)
            else:
                ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
        # Who never fails is not touched by a limit on failures.
        assert len(before) == (5 if codes is None else len(codes))


def test_a_limit_of_the_pipeline_comes_with_its_own_time() -> None:
    late = retry_later(Code.RATE_LIMITED, "tenant_per_minute: …", seconds=42)
    with limited(late) as run:
        answer = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
    assert (answer.status, answer.headers["retry-after"]) == (429, "42")
    assert "tenant_per_minute" not in answer.body.decode()


def test_a_flood_is_named_once_in_the_log() -> None:
    with (
        capture_logs() as lines,
        limited(FORGED, failures_per_second=0.01, failure_burst=1) as run,
    ):
        for _ in range(20):
            ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
    named = [line for line in lines if line["event"] == "limit_reached"]
    assert [(n["limit"], n["subject"]) for n in named] == [
        ("failures_per_second", "127.0.0.1")
    ]


def test_a_release_limit_reaches_the_workload_with_its_time(tmp_path: Path) -> None:
    """Settings, pipeline, transport, client: all of them the real ones."""
    with Scene(tmp_path / "scene") as scene:
        td = scene.world.intel.platform("machine-a").launch_td(TdImage())
        settings = world_settings(
            tmp_path / "state",
            platform=PlatformSettings(
                kind=PlatformKind.SIM,
                world=str(scene.folder / "world"),
                machine="machine-a",
            ),
            collateral=CollateralSettings(pccs=(scene.pccs_url,)),
            roots=(scene.world.intel.root_certificate,),
            limits=LimitSettings(platform_per_minute=1),
        )
        roots = with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate)
        collateral = online(pccs=[scene.pccs_url], judge=judge_with(roots=roots))
        terms = Terms(pin=scene.pin_of(settings), collateral=collateral)
        waits: list[float] = []
        with (
            # So that no minute ends in between.
            composed_provider(settings, clock=lambda: NOON) as serving,
            Client(
                serving.url,
                source=td,
                terms=terms,
                sleep=waits.append,
                clock=lambda: NOON,
            ) as client,
        ):
            assert client.key("disk")
            with pytest.raises(RefusedError) as refused:
                client.key("disk")
            text = serving.served.front.metrics.render().decode()
        assert refused.value.refusal is Code.RATE_LIMITED
        assert refused.value.retry_after == 60
        assert waits == []
        for event in ("granted", "refused"):
            labels = f'event="{event}",limit="platform_per_minute"'
            assert f"tightseal_limits_total{{{labels}}} 1.0" in text

# SPDX-License-Identifier: Apache-2.0
"""``tightseal top``: real providers, and answers of whoever pretends to be one."""

import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tightseal.cli import main
from tightseal.cli.top_numbers import Numbers
from tightseal.cli.top_sample import MAX_ANSWER_BYTES, Reading, difference, quantile
from tightseal.cli.top_view import view
from tightseal.service.health import Note, Part, Readiness
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import LoopbackServer, Provider, Scene

NOBODY = "http://127.0.0.1:9"
REQUESTS = "tightseal_requests_total"


@pytest.fixture(autouse=True)
def _logs_off_stdout() -> Iterator[None]:
    """The busy guests are threads of this process, and fetch collateral."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture(scope="module")
def sidecar(scene: Scene) -> Provider:
    return scene.provider("sidecar")


@pytest.fixture(scope="module")
def service(scene: Scene) -> Provider:
    approvers = Approvers(1, threshold=1)
    return scene.provider(
        "service",
        policy_root=approvers.policy_root,
        bundle=approvers.bundle({"empty": "version = 1\n"}),
        release={"root": "keyring"},
        host={"keyring": {"create": True}},
    )


@pytest.fixture
def busy(scene: Scene, sidecar: Provider) -> Iterator[None]:
    """Somebody gets keys, and somebody else is refused, all the time."""
    ended = threading.Event()
    right = scene.world.intel.platform("machine-a").launch_td(TdImage())
    wrong = scene.world.intel.platform("machine-b").launch_td(TdImage())

    def ask() -> None:
        with (
            scene.client(sidecar, right) as granted,
            scene.client(sidecar, wrong) as refused,
        ):
            while not ended.is_set():
                assert granted.key("disk")
                with pytest.raises(Exception, match="platform_mismatch"):
                    refused.key("disk")

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    ended.set()
    thread.join(20)


def once(
    *urls: str, capsys: pytest.CaptureFixture[str], interval: str = "0.2"
) -> tuple[int, Any]:
    status = main(["top", *urls, "--once", "--json", "--interval", interval])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("busy")
def test_releases_refusals_and_times_of_a_provider_at_work(
    sidecar: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    # Sizes are sampled every five seconds.
    time.sleep(6)
    status, shown = once(sidecar.url, capsys=capsys, interval="1.5")
    assert status == 0
    assert shown["interval_seconds"] == 1.5
    (one,) = shown["providers"]
    assert one["provider"] == sidecar.url
    assert one["error"] is None
    assert one["ready"] is True
    assert one["simulated"] is True
    assert one["releases_per_second"] > 0
    assert one["requests_per_second"] > one["releases_per_second"]
    refused = one["refusals"]["platform_mismatch"]
    assert refused["total"] >= 1
    assert refused["per_second"] > 0
    assert "granted" not in one["refusals"]
    assert 0 < one["seconds"]["p50"] <= one["seconds"]["p99"] < 25
    stages = {"attest", "decide", "derive", "record", "seal", "verify"}
    assert set(one["stages"]) == stages
    assert one["stages"]["verify"]["p99"] > 0
    assert set(one["queue"]) == {"operator", "quote", "release"}
    assert one["log_entries"] > 0
    assert one["journal_bytes"] > 0
    assert one["policy_version"] == 0
    assert one["version"]


def test_a_service_shows_its_keyring_and_policy(
    service: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = once(service.url, capsys=capsys)
    assert status == 0
    (one,) = shown["providers"]
    assert one["policy_version"] == 1
    assert one["policy_expires_at"] > time.time()
    assert one["generation"] == 1
    assert one["keyring_counter"] >= 1
    assert one["releases_per_second"] == 0
    assert one["seconds"] == {"p50": None, "p99": None}
    assert "state_unanchored" in {note["name"] for note in one["notes"]}


def test_several_providers_one_of_them_gone(
    sidecar: Provider, service: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    status, shown = once(service.url, NOBODY, sidecar.url, capsys=capsys)
    assert status == 2
    gone = shown["providers"][1]
    urls = [one["provider"] for one in shown["providers"]]
    assert urls == [service.url, NOBODY, sidecar.url]
    assert gone["error"]["code"] == "provider_unreachable"
    assert gone["ready"] is False
    # Every field is there, for machines.
    assert set(gone) == set(shown["providers"][0])
    assert gone["releases_per_second"] is None


def test_a_provider_that_is_not_ready_is_named_with_the_next_step(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = scene.provider("empty", policy_root=Approvers().policy_root)
    status, shown = once(provider.url, capsys=capsys)
    assert status == 1
    broken = {part["name"]: part for part in shown["providers"][0]["not_in_order"]}
    assert broken["policy"]["code"] == "policy_missing"
    assert broken["policy"]["remedy"]
    assert main(["top", provider.url, "--once", "--interval", "0.2"]) == 1
    said = capsys.readouterr().out
    assert "not ready" in said
    assert re.search(r"policy  There is no policy .* tightseal policy publish", said)


def test_what_a_terminal_shows(
    sidecar: Provider, service: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [sidecar.url, service.url, NOBODY, "--interval", "0.2"]
    assert main(["top", *arguments, "--once"]) == 2
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split()[:3] == ["provider", "state", "releases/s"]
    assert lines[1].startswith(f"{sidecar.url}")
    assert "ready, simulated" in lines[1]
    assert "unreachable" in lines[3]
    assert f"{service.url}  state_unanchored" in said
    assert "29." in lines[2] or "30." in lines[2]


def test_it_runs_in_a_terminal_until_it_is_interrupted(sidecar: Provider) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tightseal", "top", sidecar.url]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
    with subprocess.Popen(
        [*command, "--interval", "0.2"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        seen = b""
        end = time.monotonic() + 20
        while seen.count(b"releases/s") < 3 and time.monotonic() < end:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        reading = threading.Thread(target=drain, args=(ours,), daemon=True)
        reading.start()
        assert process.wait(15) == 0
    os.close(ours)
    assert seen.count(b"releases/s") >= 3
    assert b"Traceback" not in seen


def drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    "arguments",
    [
        [NOBODY],
        [NOBODY, "--json"],
        ["ftp://here"],
        [NOBODY, "--once", "--ca-file", "/nonexistent"],
        [f"http://10.0.0.{n % 250}:{n + 1}" for n in range(65)],
        [NOBODY, "--once", "--interval", "0"],
        [],
    ],
    ids=["no terminal", "json", "address", "ca", "many", "interval", "nobody"],
)
def test_a_wrong_call_asks_nobody(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "error: " in said.err


# -- whoever pretends to be a provider ---------------------------------------------

Answer = Callable[[], Response]


@pytest.fixture
def pretend() -> Iterator[Callable[[Answer, Answer], str]]:
    running: list[LoopbackServer] = []

    def start(metrics: Answer, ready: Answer) -> str:
        async def told(_request: Request) -> Response:
            return metrics()

        async def said(_request: Request) -> Response:
            return ready()

        routes = [Route("/metrics", told), Route("/readyz", said)]
        server = LoopbackServer(Starlette(routes=routes))
        server.start()
        running.append(server)
        return server.url

    yield start
    for server in running:
        server.stop()


def text(body: str | bytes, status: int = 200) -> Answer:
    return lambda: Response(body, status_code=status)


READY = text('{"ready":true,"parts":[]}')


@pytest.mark.parametrize(
    "metrics",
    [
        text("not metrics {{{"),
        text(b"\xff\xfe"),
        text("x" * (MAX_ANSWER_BYTES + 1)),
        text("", 404),
        text("tightseal_ready 1", 302),
        text('tightseal_ready{part="clock" 1'),
        text("tightseal_ready one"),
    ],
    ids=["text", "bytes", "long", "off", "moved", "label", "number"],
)
def test_metrics_of_another_form_are_an_error_and_no_crash(
    metrics: Answer,
    pretend: Callable[[Answer, Answer], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = pretend(metrics, READY)
    status, shown = once(url, capsys=capsys)
    assert status == 2
    assert shown["providers"][0]["error"]["code"] == "response_invalid"


@pytest.mark.parametrize(
    "ready",
    [text("{}"), text("[]"), text(b"\xff"), text('{"ready":"yes"}'), text("", 404)],
    ids=["empty", "list", "bytes", "type", "missing"],
)
def test_readiness_of_another_form_is_not_ready(
    ready: Answer,
    pretend: Callable[[Answer, Answer], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = pretend(text("tightseal_simulated 0\n"), ready)
    status, shown = once(url, capsys=capsys)
    assert status == 1
    assert shown["providers"][0]["ready"] is False


STRANGE = """\
tightseal_requests_total 3
tightseal_requests_total{code="\x1b[31mred\x1b[0m",protocol="keys"} 5
tightseal_request_seconds_bucket{le="high",protocol="keys"} 5
tightseal_request_seconds_bucket{protocol="keys"} 5
tightseal_stage_seconds_bucket{le="+Inf"} 2
tightseal_queue_calls 3
tightseal_log_entries NaN
tightseal_journal_bytes +Inf
tightseal_policy_expires_seconds 1e300
tightseal_build_info{version="[bold]x"} 1
"""


def test_strange_samples_are_shown_as_text_or_not_at_all(
    pretend: Callable[[Answer, Answer], str], capsys: pytest.CaptureFixture[str]
) -> None:
    ready = text(
        '{"ready":true,"parts":[],"notes":[{"name":"\\u001b[2Jx","code":null,'
        '"text":"[red]t\\u0007","remedy":"r"}]}'
    )
    url = pretend(text(STRANGE), ready)
    assert main(["top", url, "--once", "--interval", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "[red]t" in said
    status, shown = once(url, capsys=capsys)
    assert status == 0
    (one,) = shown["providers"]
    assert one["log_entries"] is None
    assert one["journal_bytes"] is None


# -- numbers -----------------------------------------------------------------------


def reading(at: float, **counts: float) -> Reading:
    values = {
        (REQUESTS, frozenset({("code", code), ("protocol", "keys")})): value
        for code, value in counts.items()
    }
    return Reading("http://x", at, values)


def test_rates_are_of_the_time_between() -> None:
    before = reading(10.0, granted=100, tcb_revoked=7)
    now = reading(14.0, granted=140, tcb_revoked=9)
    shown = Numbers.between(now, before)
    assert shown.releases() == 10.0
    assert shown.requests() == 10.5
    assert shown.document()["refusals"] == {
        "tcb_revoked": {"total": 9, "per_second": 0.5}
    }


def test_a_provider_that_began_anew_has_no_negative_rate() -> None:
    shown = Numbers.between(reading(12.0, granted=6), reading(10.0, granted=900))
    assert shown.releases() == 3.0


def test_the_first_look_has_no_rates() -> None:
    shown = Numbers.between(reading(12.0, granted=6), None)
    assert shown.releases() is None
    assert shown.document()["requests_per_second"] is None


def test_after_a_failed_look_rates_begin_anew() -> None:
    failed = Reading("http://x", 10.0, error=None)
    shown = Numbers.between(reading(12.0, granted=6), failed)
    assert shown.releases() == 3.0


@given(
    st.lists(st.floats(0.0001, 20), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
)
def test_quantiles_lie_in_the_bucket_of_the_true_one(
    times: list[float], share: float
) -> None:
    bounds = [0.001, 0.01, 0.1, 1.0, 5.0, 25.0, math.inf]
    buckets = Counter({b: sum(t <= b for t in times) for b in bounds})
    found = quantile(share, buckets)
    true = sorted(times)[max(0, math.ceil(share * len(times) - 1e-9) - 1)]
    upper = next(b for b in bounds if true <= b)
    lower = max((b for b in bounds if b < upper), default=0.0)
    assert found is not None
    assert lower <= found <= upper


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
)
def test_a_difference_is_never_negative(
    before: dict[str, int], now: dict[str, int]
) -> None:
    change = difference(reading(2, **now), reading(1, **before))
    assert all(value >= 0 for value in change.values.values())


def test_no_event_has_no_quantile() -> None:
    assert quantile(0.5, Counter()) is None
    assert quantile(0.5, Counter({1.0: 0, math.inf: 0})) is None


def test_times_above_every_bound_are_the_highest_bound() -> None:
    assert quantile(0.5, Counter({1.0: 0, math.inf: 4})) == 1.0


def test_what_is_to_mend_comes_with_its_provider() -> None:
    told = Readiness(
        ready=False,
        parts=[Part("journal", ok=False, code="c", remedy="Make room.", what="Full.")],
        notes=[Note("keyring_one_slot", None, "One slot.", "Add another.")],
    )
    shown = Numbers.between(Reading("http://x", 1.0, readiness=told), None)
    out = io.StringIO()
    Console(file=out, width=200).print(view([shown]))
    assert "http://x  journal  Full. Make room." in out.getvalue()
    assert "http://x  keyring_one_slot  One slot. Add another." in out.getvalue()

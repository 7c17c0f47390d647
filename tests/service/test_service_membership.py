# SPDX-License-Identifier: Apache-2.0
"""Nodes as a real provider sees them: health, metrics, ``/v1/nodes``, its end."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from service_harness import ask_http, running, scripted_settings
from service_world import composed_provider

from tightseal.model import formats
from tightseal.model.node import NodeRecord, NodeState, decode_node, encode_node
from tightseal.release.nodes import NODE_KIND, STALE_SECONDS, Wrong
from tightseal.service.health import LOOK_AT_LOG
from tightseal.service.listen_settings import HttpSettings
from tightseal.service.load import parse_settings
from tightseal.service.metricinfo import LABELS
from tightseal.state.store import SealedStore
from tightseal_sim.approvers import Approvers
from tightseal_sim.scene import Scene


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made


@pytest.fixture
def served(scene: Scene) -> Iterator[Any]:
    """A composed provider with state, whose background is done when a test says so."""
    approvers = Approvers()
    config = scene.configure(
        policy_root=approvers.policy_root,
        bundle=approvers.bundle({"empty": "version = 1\n"}),
    )
    settings = parse_settings(config.read_text(), environment={})
    with composed_provider(settings) as found:
        background: Any = found.composed.background
        background.watch.look()
        background.round()
        yield found


def store_of(served: Any) -> SealedStore:
    store = served.composed.front.nodes._book.store
    assert isinstance(store, SealedStore)
    return store


def own_record(served: Any) -> NodeRecord:
    name = served.composed.front.nodes.last().own
    return decode_node(store_of(served).open(NODE_KIND, name, now=0).value)


def told(served: Any) -> Any:
    return ask_http(served.served.http_port, "GET", "/v1/nodes").json


def test_a_provider_says_who_it_is(served: Any) -> None:
    answer = told(served)
    (own,) = answer["nodes"]
    assert answer["node"] == own["node"]
    assert (answer["format"], answer["understood"]) == (1, formats.FORMAT)
    info = httpx.get(f"{served.url}/v1/info", trust_env=False).json()
    assert own["policy_version"] == info["policy"]["version"] == 1
    assert own["tee"] == info["identity"]["tee"]
    assert own["wrong"] == []
    assert own["log_key"].startswith(f"tightseal/v1/log/{own['node']}+")
    assert own["standing"] == "serving"


def test_what_is_wrong_with_others_is_a_note_and_a_metric(served: Any) -> None:
    mine = own_record(served)
    other = replace(
        mine,
        run=b"o" * 16,
        settings=b"x" * 64,
        policy=2,
        seen=mine.seen - STALE_SECONDS - 1,
    )
    store_of(served).create(NODE_KIND, "0b" * 16, encode_node(other), now=0)
    served.composed.background.round()
    served.composed.background.round()
    answer = ask_http(served.served.http_port, "GET", "/readyz").json
    notes = {note["name"]: note for note in answer["notes"]}
    found = {"nodes_stale", "nodes_settings_differ", "nodes_policy_differs"}
    assert found <= set(notes)
    for name in found:
        assert "0b" * 16 in notes[name]["text"]
        assert notes[name]["remedy"] != LOOK_AT_LOG
    metrics = served.composed.front.metrics.render().decode()
    assert 'tightseal_nodes{standing="stale"} 1.0' in metrics
    assert 'tightseal_nodes{standing="serving"} 1.0' in metrics
    silent = next(x for x in metrics.splitlines() if x.startswith("tightseal_node_s"))
    assert float(silent.split()[1]) > STALE_SECONDS
    assert answer["ready"] is (not any(not part["ok"] for part in answer["parts"]))


def test_every_fault_of_a_node_has_a_note_that_metrics_know(served: Any) -> None:
    nodes = served.composed.front.nodes
    view = nodes.last().nodes[0]
    for wrong in Wrong:
        nodes._last = replace(nodes.last(), nodes=(replace(view, wrong=(wrong,)),) * 5)
        (note,) = nodes.notes()
        assert note.name in LABELS["note"].values
        assert note.text.endswith(" and 2 more.")
        assert note.remedy.endswith(".")


def test_a_provider_that_ends_says_so_and_marks_its_log(served: Any) -> None:
    front = served.composed.front
    front.health.drain()
    served.composed.background._say(NodeState.DRAINING)
    assert own_record(served).state is NodeState.DRAINING
    assert told(served)["nodes"][0]["standing"] == "draining"
    served.composed.finish()
    assert own_record(served).state is NodeState.LEFT
    served.composed.background.round()
    assert own_record(served).state is NodeState.LEFT


def test_workers_of_one_start_are_one_node(served: Any) -> None:
    settings = served.composed.front.settings
    with composed_provider(settings) as second:
        background: Any = second.composed.background
        background.round()
        assert second.composed.front.nodes.last().count()["serving"] == 1
        assert second.composed.front.nodes.notes() == []
    assert told(served)["nodes"][0]["standing"] == "serving"


def test_a_provider_without_a_state_is_no_node_of_anything() -> None:
    with running() as run:
        answer = ask_http(run.http_port, "GET", "/v1/nodes")
    assert answer.status == 200
    assert answer.json == {
        "version": 1,
        "node": None,
        "format": 1,
        "understood": 1,
        "nodes": [],
    }


def test_nodes_are_switched_off_with_the_metrics() -> None:
    settings = scripted_settings(http=HttpSettings(metrics=False))
    with running(settings=settings) as run:
        assert ask_http(run.http_port, "GET", "/v1/nodes").status == 404

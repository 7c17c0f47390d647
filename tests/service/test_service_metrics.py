# SPDX-License-Identifier: Apache-2.0
"""What ``/metrics`` prints: only what is documented, and what the parts really are."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_harness import (
    ScriptedProvider,
    ask_http,
    running,
    scripted_settings,
    until,
)

from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring import Terms, new_keyring, open_keyring
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.service import metrics
from tightseal.service.metricinfo import (
    LABELS,
    METRICS,
    Kind,
    MetricInfo,
    SlotCondition,
)
from tightseal.service.metrics import Metrics
from tightseal.service.sampling import slot_conditions
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.world import World

DOCUMENTED = {m.name: m for m in METRICS}


def test_mapped_files_of_a_worker_have_their_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to a page that the disk has no room for would end the process."""
    monkeypatch.setenv(metrics.SHARED_VARIABLE, str(tmp_path))
    metrics._reserve_files()
    files = list(tmp_path.iterdir())
    assert {f.name.partition("_")[0] for f in files} == {
        "counter",
        "gauge",
        "histogram",
    }
    for file in files:
        assert file.stat().st_blocks * 512 >= metrics.RESERVED_BYTES


def test_no_room_for_mapped_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(metrics.SHARED_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ServiceError) as refused:
        metrics._reserve_files()
    assert refused.value.code is Code.JOURNAL_FAILED


POLICY = "version = 1\n"

Sample = tuple[str, dict[str, str], float]


def samples(text: str) -> list[Sample]:
    """Every sample by the documented name of its metric."""
    found: list[Sample] = []
    for family in text_string_to_metric_families(text):
        counter = family.type == "counter"
        name = f"{family.name}_total" if counter else family.name
        found += [(name, dict(s.labels), s.value) for s in family.samples]
    return found


def value(text: str, name: str, **labels: str) -> float | None:
    found = [v for n, have, v in samples(text) if n == name and have == labels]
    assert len(found) < 2
    return found[0] if found else None


def scrape(url: str) -> str:
    return httpx.get(f"{url}/metrics", trust_env=False).text


# -- the table ---------------------------------------------------------------------


def test_the_table_is_what_is_registered() -> None:
    printed = {
        f"{f.name}_total" if f.type == "counter" else f.name: f
        for f in text_string_to_metric_families(Metrics().render().decode())
    }
    assert list(printed) == [m.name for m in METRICS]
    for metric in METRICS:
        assert printed[metric.name].type == metric.kind.value
        assert printed[metric.name].documentation == metric.meaning


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_every_metric_says_its_unit_and_what_to_do(metric: MetricInfo) -> None:
    found = metric
    assert found.name.startswith("tightseal_")
    assert found.name.endswith("_total") == (found.kind is Kind.COUNTER)
    assert ("seconds" in found.unit) == found.name.endswith("_seconds")
    assert found.name.endswith("_bytes") == (found.unit == "bytes")
    assert found.watch
    assert set(found.labels) <= set(LABELS)


def test_every_label_is_used_and_closed() -> None:
    assert {label for m in METRICS for label in m.labels} == set(LABELS)
    for name, label in LABELS.items():
        assert label.values or name == "version"


# -- a real provider ---------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture(scope="module")
def provider(scene: Scene) -> Provider:
    """A service: a keyring, and a signed policy that grants nothing."""
    approvers = Approvers(1, threshold=1)
    return scene.provider(
        policy_root=approvers.policy_root,
        bundle=approvers.bundle({"empty": POLICY}),
        release={"root": "keyring"},
        host={"keyring": {"create": True}},
    )


@pytest.fixture(scope="module")
def sidecar(scene: Scene) -> Provider:
    """A sidecar that has released a key, and refused what is no request."""
    made = scene.provider("sidecar")
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    with scene.client(made, td) as client:
        assert len(client.key("disk")) == 32
    for path in ("keys", "policy", "actions", "handoff", "public-key"):
        httpx.post(f"{made.url}/v1/{path}", content=b"{}", trust_env=False)
    return made


@pytest.mark.parametrize("which", ["provider", "sidecar"])
def test_every_sample_of_a_provider_is_documented_and_bounded(
    which: str, request: pytest.FixtureRequest
) -> None:
    made: Provider = request.getfixturevalue(which)
    found = samples(scrape(made.url))
    assert {name for name, _, _ in found} >= {m.name for m in METRICS if not m.labels}
    for name, labels, _ in found:
        labels.pop("le", None)
        assert set(labels) == set(DOCUMENTED[name].labels), name
        for label, given in labels.items():
            allowed = LABELS[label].values
            assert given in allowed or label == "version", (name, label, given)


def test_a_release_is_counted_with_all_its_stages(sidecar: Provider) -> None:
    text = scrape(sidecar.url)
    granted = {"protocol": "keys", "code": "granted"}
    assert value(text, "tightseal_requests_total", **granted) == 1
    found = {
        labels["stage"]
        for name, labels, _ in samples(text)
        if name == "tightseal_stage_seconds"
    }
    assert found == LABELS["stage"].values


def test_policy_keyring_and_log_are_what_they_are(provider: Provider) -> None:
    info = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
    until(lambda: bool(value(scrape(provider.url), "tightseal_log_entries")), 12)
    text = scrape(provider.url)
    now = time.time()
    assert value(text, "tightseal_policy_version") == info["policy"]["version"] == 1
    assert value(text, "tightseal_policy_expires_seconds") > now
    assert value(text, "tightseal_keyring_counter") == info["keyring"]["counter"]
    assert value(text, "tightseal_keyring_generation") == 1
    conditions = {
        c: value(text, "tightseal_keyring_slots", condition=c) for c in SlotCondition
    }
    assert conditions == {"opened": 1, "closed": 0, "damaged": 0, "untried": 1}
    assert value(text, "tightseal_state_anchor", anchor=info["anchor"]) == 1
    anchors = [v for n, _, v in samples(text) if n == "tightseal_state_anchor"]
    assert sorted(anchors) == [0, 0, 0, 0, 1]
    journal = provider.settings.host.journal_path
    assert value(text, "tightseal_journal_bytes") >= journal.stat().st_size
    assert value(text, "tightseal_journal_free_bytes") > 0
    assert now - 12 < value(text, "tightseal_looked_seconds") <= now
    assert value(text, "tightseal_simulated") == 1


def test_notes_and_queues_of_a_provider(provider: Provider) -> None:
    text = scrape(provider.url)
    ready = httpx.get(f"{provider.url}/readyz", trust_env=False).json()
    names = {note["name"] for note in ready["notes"]}
    assert "state_unanchored" in names
    for name in names:
        assert value(text, "tightseal_note", note=name) == 1
    for pool in LABELS["pool"].values:
        assert value(text, "tightseal_queue_limit", pool=pool) > 0


def test_two_workers_answer_for_both(scene: Scene) -> None:
    made = scene.provider("pair", host={"workers": 2, "queue": 10, "threads": 1})

    def limit() -> float | None:
        return value(scrape(made.url), "tightseal_queue_limit", pool="release")

    until(lambda: limit() == 2 * (1 + 10), 10)
    text = scrape(made.url)
    now = time.time()
    looked = value(text, "tightseal_looked_seconds")
    assert looked is not None
    assert now - 12 < looked <= now
    assert value(text, "tightseal_simulated") == 1
    assert value(text, "tightseal_ready", part="journal") == 1
    assert value(text, "tightseal_keyring_counter") == 0
    internal = {"protocol": "keys", "code": "internal"}
    assert value(text, "tightseal_requests_total", **internal) == 0
    for name, labels, _ in samples(text):
        labels.pop("le", None)
        assert set(labels) == set(DOCUMENTED[name].labels), name


# -- one by one --------------------------------------------------------------------


def test_a_note_that_is_gone_is_at_zero() -> None:
    metrics = Metrics()
    metrics.notes(["policy_expired", "state_unanchored"])
    metrics.notes(["state_unanchored"])
    text = metrics.render().decode()
    assert value(text, "tightseal_note", note="policy_expired") == 0
    assert value(text, "tightseal_note", note="state_unanchored") == 1


def gramine(machine: str) -> GramineSlot:
    enclave = World.in_memory(b"\x2b" * 32).intel.platform(machine)
    keys = SimEnclaveKeys(enclave.load_enclave(EnclaveImage(name="provider")))
    return GramineSlot(keys, allow_signer=False)


def test_slots_are_counted_by_what_opening_told() -> None:
    machines = [gramine(name) for name in ("one", "two", "three")]
    data = new_keyring(
        machines,
        trust_domain="intel",
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=tuple(SlotClass),
        now=1,
    ).seal()
    terms = Terms(trust_domain="intel", policy_root=None, policy_version=0)
    opened = open_keyring(data, terms=terms, slot_keys=[machines[1]], anchor=None)
    slots = opened.keyring.slots
    assert slot_conditions(slots, opened) == {
        SlotCondition.CLOSED: 1,
        SlotCondition.OPENED: 1,
        SlotCondition.UNTRIED: 1,
        SlotCondition.DAMAGED: 0,
    }
    left_out = replace(opened, damaged=slots[2:])
    assert slot_conditions(slots[:2], left_out) == {
        SlotCondition.CLOSED: 1,
        SlotCondition.OPENED: 1,
        SlotCondition.DAMAGED: 1,
    }


def test_metrics_answer_while_every_other_thread_is_busy() -> None:
    gate = threading.Event()
    busy = ScriptedProvider(gate=gate)
    with running(busy, scripted_settings(queue=1)) as run:
        port = run.http_port
        asking = [
            threading.Thread(target=ask_http, args=(port, "POST", "/v1/keys", b"{}"))
            for _ in range(3)
        ]
        for thread in asking:
            thread.start()
        until(lambda: run.front.pool.in_flight == run.front.pool.limit == 3)
        refused = ask_http(port, "POST", "/v1/keys", b"{}")
        until(
            lambda: (
                value(
                    ask_http(port, "GET", "/metrics").body.decode(),
                    "tightseal_queue_calls",
                    pool="work",
                )
                == 3
            )
        )
        gate.set()
        for thread in asking:
            thread.join(10)
    assert refused.json["code"] == Code.OVERLOADED.value

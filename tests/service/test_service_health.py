# SPDX-License-Identifier: Apache-2.0
"""Health names what is wrong and the next step, for every part, note and code."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import structlog
from service_harness import ask_http, running, until

from tightseal.errors import CODES, Code, TightsealError
from tightseal.service.health import BROKEN, LOOK_AT_LOG, Health, Part
from tightseal.service.metricinfo import LABELS
from tightseal_sim.approvers import Approvers
from tightseal_sim.scene import Scene


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def raising(code: Code) -> Callable[[], None]:
    def probe() -> None:
        raise TightsealError(code, "for the operator's log alone")

    return probe


def looked(name: str, code: Code) -> Part:
    (part,) = Health({name: raising(code)}).look().parts
    return part


def test_every_code_of_a_provider_that_cannot_serve_has_a_remedy() -> None:
    serving = [c for c, info in CODES.items() if info.status in {500, 503}]
    assert Code.JOURNAL_FAILED in serving
    assert [c for c in serving if not CODES[c].remedy] == []


def test_every_part_that_a_provider_looks_at_says_what_is_wrong() -> None:
    assert set(BROKEN) == {
        *LABELS["part"].values,
        "background",
        "draining",
        "start",
    }
    for broken in BROKEN.values():
        assert broken.what.endswith(".")
        assert broken.remedy.endswith(".")


@pytest.mark.parametrize("name", sorted(LABELS["part"].values))
def test_a_broken_part_has_code_sentence_and_next_step(name: str) -> None:
    for code, info in CODES.items():
        part = looked(name, code)
        assert not part.ok
        assert part.code == code.value
        assert part.what == BROKEN[name].what
        assert part.remedy == (info.remedy or BROKEN[name].remedy)


@pytest.mark.parametrize("name", ["attested_key", "collateral"])
def test_evidence_of_the_provider_that_is_refused_has_a_next_step(name: str) -> None:
    """Codes of evidence have no remedy: whoever presented it has to act. Here: we."""
    part = looked(name, Code.TCB_REVOKED)
    assert part.remedy != LOOK_AT_LOG
    assert "platform" in (part.remedy or "")


def test_a_part_that_nobody_described_says_so_much() -> None:
    part = looked("new", Code.TCB_REVOKED)
    assert part.what
    assert part.remedy == LOOK_AT_LOG


def test_a_part_in_order_says_no_more() -> None:
    (part,) = Health({"clock": lambda: None}).look().parts
    assert part == Part("clock", ok=True)


def test_what_the_operators_log_has_is_not_shown() -> None:
    with running(probes={"journal": raising(Code.JOURNAL_FAILED)}) as run:
        answer = ask_http(run.http_port, "GET", "/readyz")
    assert answer.status == 503
    assert b"operator's log" not in answer.body
    (part,) = answer.json["parts"]
    assert part["what"] == "The journal takes no entry, so nothing is released."
    assert part["remedy"].startswith("Make room on the journal's disk")


def test_every_note_of_a_provider_has_its_next_step(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    approvers = Approvers(2, threshold=2)
    documents = {"empty": "version = 1\n"}
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        provider = scene.provider(
            policy_root=approvers.policy_root, bundle=approvers.bundle(documents)
        )
        assert not provider.publish(approvers.bundle(documents, signers=1)).is_success
        notes = wait_for(provider.url, "bundle_refused")
    assert set(notes) >= {"bundle_refused", "state_unanchored"}
    assert set(notes) <= LABELS["note"].values
    for note in notes.values():
        assert note["text"]
        assert note["remedy"]
        assert note["remedy"] != LOOK_AT_LOG
    refused = notes["bundle_refused"]
    assert refused["code"] == "bundle_undersigned"
    assert refused["text"].startswith("The newest bundle that came was refused")
    assert "more of the approvers" in refused["remedy"]


def wait_for(url: str, name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def there() -> bool:
        answer = httpx.get(f"{url}/readyz", trust_env=False).json()
        found.clear()
        found.update({note["name"]: note for note in answer["notes"]})
        return name in found

    until(there, seconds=12)
    return found

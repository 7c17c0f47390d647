# SPDX-License-Identifier: Apache-2.0
"""Requests of every kind that the OpenAPI document allows, and of those it does not.

Schemathesis makes them, in a process of its own, for a real provider over a keyring and
under a policy root, where every path goes as far as it can.
"""

import base64
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from attack_support import complaints
from hushed_run import HushedRun
from service_harness import (
    ScriptedProvider,
    running,
    scripted_front,
    scripted_settings,
    until,
)

from tightseal.guest.exchange import Exchange, Terms
from tightseal.model import wire, wire_handoff
from tightseal.model.action import ActionKind
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.provider import ProviderIdentity
from tightseal.service.http import http_app
from tightseal.service.openapi import openapi_document
from tightseal.service.tilepaths import CHECKPOINT_ROUTE, TILE_ROUTE
from tightseal_sim.scene import Scene

CHECKS = Path(__file__).with_name("openapi_attack_checks.py")
DISK = KeyRequest("disk", generation=1)
EXAMPLES = 25
SOAK_EXAMPLES = 1500
PROGRAM = "from schemathesis.cli import schemathesis; schemathesis()"

# A document cannot say that evidence verifies, and most of it does not.
NOT_CHECKED = "positive_data_acceptance"
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 403, 404, 405, 409, 413]
"""
SECONDS = 240
SOAK_SECONDS = 3600

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HushedRun]:
    """A provider whose limits are off: the attack comes from one address."""
    limits = {"requests_per_second": 0, "failures_per_second": 0}
    tiles = tmp_path_factory.mktemp("attacked-tiles")
    host = {"limits": limits, "log_tiles": str(tiles), "http": {"log": True}}
    with Scene(tmp_path_factory.mktemp("attacked")) as scene:
        yield HushedRun(scene, host=host)
    # Here its complaints are expected; see above.
    gc.collect()


@dataclass(frozen=True)
class Attack:
    """What schemathesis did.

    Attributes:
        status: it ended with.
        said: by it.
        phases: that it finished.
        requests: that it sent.
        answers: method, path, status and code of each answer that was checked.
    """

    status: int
    said: str
    phases: dict[str, str]
    requests: int
    answers: Counter[tuple[str, str, int, str]]


def attack(
    folder: Path, url: str, document: dict[str, Any], *, examples: int, seed: int
) -> Attack:
    folder.mkdir()
    report, answers = folder / "report.json", folder / "answers.jsonl"
    (folder / "openapi.json").write_text(json.dumps(document))
    (folder / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, "run", "openapi.json", "--url", url),
            *("--phases", "examples,coverage,fuzzing", "--mode", "all"),
            *("--max-examples", str(examples), "--seed", str(seed)),
            *("--checks", "all", "--exclude-checks", NOT_CHECKED),
            *("--continue-on-failure", "--generation-database", "none", "--no-shrink"),
            *("--suppress-health-check", "all", "--warnings", "off", "--no-color"),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        cwd=folder,
        env={
            **os.environ,
            "NO_PROXY": "127.0.0.1",
            "SCHEMATHESIS_HOOKS": str(CHECKS),
        },
        capture_output=True,
        check=False,
        timeout=SOAK_SECONDS if examples == SOAK_EXAMPLES else SECONDS,
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert report.exists(), said
    told = json.loads(report.read_bytes())
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    return Attack(
        status=done.returncode,
        said=said,
        phases={name: phase["status"] for name, phase in told["phases"].items()},
        requests=told["test_cases"]["generated"],
        answers=Counter((m, p, status, code) for m, p, status, code in lines),
    )


# -- where the attack starts from --------------------------------------------------


def with_examples(document: dict[str, Any], bodies: dict[str, bytes]) -> dict[str, Any]:
    """The document with a real request for each path, to start from."""
    for path, body in bodies.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        content["application/json"]["example"] = json.loads(body)
    return document


def with_log(document: dict[str, Any], run: HushedRun) -> dict[str, Any]:
    """The document with the log's id and a tile that it has, to start from."""
    checkpoint = Path(run.host["log_tiles"]) / "checkpoint"
    until(checkpoint.exists, 60)
    origin, size = checkpoint.read_text().splitlines()[:2]
    examples = {
        "log_id": origin.rpartition("/")[2],
        "path": f"0/000.p/{size}",
    }
    for path in (CHECKPOINT_ROUTE, TILE_ROUTE):
        for parameter in document["paths"][path]["get"]["parameters"]:
            parameter["example"] = examples[parameter["name"]]
    return document


def real_requests(run: HushedRun) -> dict[str, bytes]:
    exchange = Exchange(terms_of(run), (KeyRequest("disk"), KeyRequest("sign")))
    challenge = exchange.challenge_request()
    asked = run.ask("POST", wire.CHALLENGE_PATH, challenge)
    data = exchange.check_challenge(asked.content, now=int(time.time()))
    keys = exchange.keys_request(run.td.evidence(data))
    question = wire.PublicKeyRequest(
        version=1,
        tenant="acme",
        workload="database",
        purpose="sign",
        client_nonce=base64.urlsafe_b64encode(os.urandom(33)).decode()[:42] + "A",
    )
    action = run.signed(ActionKind.ROTATE_KEYRING)
    return {
        wire.CHALLENGE_PATH: challenge,
        wire.KEYS_PATH: keys,
        wire.PUBLIC_KEY_PATH: wire.encode_json(question),
        "/v1/actions": action,
        wire_handoff.HANDOFF_PATH: handoff(run, action),
        wire_handoff.CONFIRM_PATH: wire.encode_json(
            wire_handoff.ConfirmRequest.of(
                wire_handoff.ParsedConfirm(
                    b"i" * 16, b"t" * 64, b"keyring", (b"s" * 16,), b"g" * 64
                )
            )
        ),
    }


def terms_of(run: HushedRun) -> Terms:
    with run.client() as client:
        return client._terms


def handoff(run: HushedRun, action: bytes) -> bytes:
    """Well-formed, with an action that invites nobody."""
    exchange = Exchange(terms_of(run), (DISK,))
    asked = run.ask("POST", wire.CHALLENGE_PATH, exchange.challenge_request())
    challenge = wire.decode_json(asked.content, wire.ChallengeResponse).parsed()
    pinned = run.pin.identity
    joiner = ProviderIdentity(
        pinned.tee, pinned.measurement, b"k" * 32, run.approvers.policy_root, bytes(64)
    )
    request = wire_handoff.ParsedHandoff(
        nonce=challenge.body.nonce,
        binding_key_hash=challenge.body.binding.key_hash(),
        joiner=joiner,
        invitation=action,
        evidence=run.td.evidence(bytes(64)),
        kem=Kem.X25519,
        recipient_key=b"\x09" + bytes(31),
        confirm_key=b"c" * 32,
        rehearsal=False,
    )
    return wire.encode_json(wire_handoff.HandoffRequest.of(request))


def served_document(run: HushedRun) -> dict[str, Any]:
    answer = run.ask("GET", "/v1/openapi.json")
    assert answer.content == openapi_document()
    document: dict[str, Any] = answer.json()
    return document


# -- the attack --------------------------------------------------------------------


def attacked(run: HushedRun, folder: Path, *, examples: int, seed: int) -> Attack:
    before = run.release("before", DISK)
    document = with_examples(served_document(run), real_requests(run))
    document = with_log(document, run)
    made = attack(folder, run.provider.url, document, examples=examples, seed=seed)
    assert made.status == 0, made.said
    assert {made.phases[p] for p in ("examples", "coverage", "fuzzing")} == {"success"}
    operations = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
    }
    answered = {(method, path) for method, path, _, _ in made.answers}
    assert operations <= answered
    asking = [path for method, path in operations if method == "POST"]
    assert sum(made.answers.values()) >= made.requests >= examples * len(asking)
    assert all(status < 500 for _, _, status, _ in made.answers)
    assert run.release("after", DISK) == before
    assert run.ask("GET", "/readyz").status_code == 200
    assert complaints(run.provider) == []
    return made


def test_no_request_of_any_kind_breaks_a_provider(
    run: HushedRun, tmp_path: Path
) -> None:
    made = attacked(run, tmp_path / "attack", examples=EXAMPLES, seed=1)
    granted = {path for _, path, status, _ in made.answers if status == 200}
    assert granted >= {"/v1/challenge", "/v1/keys", "/v1/public-key", "/v1/actions"}
    assert CHECKPOINT_ROUTE in granted
    codes = {code for _, _, _, code in made.answers}
    assert codes >= {
        "action_malformed",
        "bundle_malformed",
        "method_not_allowed",
        "nonce_replayed",
        "purpose_not_allowed",
        "request_malformed",
    }


@pytest.mark.soak
def test_no_request_of_any_kind_breaks_a_provider_for_long(
    run: HushedRun, tmp_path: Path
) -> None:
    attacked(run, tmp_path / "attack", examples=SOAK_EXAMPLES, seed=2)


def test_an_internal_error_is_noticed(tmp_path: Path) -> None:
    provider = ScriptedProvider(error=RuntimeError("broken"))
    with running(provider) as run:
        url = f"http://127.0.0.1:{run.http_port}"
        made = attack(tmp_path / "attack", url, only("/v1/actions"), examples=1, seed=1)
    assert made.status == 1
    assert "Server error" in made.said
    # The world of this one is not simulated, and it does not say so.
    assert "tightseal-simulated" in made.said


def only(path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(openapi_document())
    document["paths"] = {path: document["paths"][path]}
    return document


def test_every_route_is_in_the_document() -> None:
    front = scripted_front(ScriptedProvider(), scripted_settings())
    routes = {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in http_app(front).routes
        for method in route.methods - {"HEAD"}
    }
    paths = json.loads(openapi_document())["paths"]
    assert {(method, path) for path in paths for method in paths[path]} == routes

# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy`` with event logs, pairs and roles."""

import json
import re
from pathlib import Path

import pytest

from cli_support import run
from tightseal.cli.verdict import Verdict, document
from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.policy.fields import MEASUREMENT_BYTES
from tightseal_sim.intel.eventlog import replay, runtime_event
from tightseal_sim.intel.eventlog_wire import to_dstack_json
from tightseal_sim.intel.td import TdImage

AT = ("--at", "2026-10-05T00:00:00Z")
COMPOSE_HASH = b"\x22" * 32
LOG = [
    *TdImage().boot_log(),
    runtime_event("compose-hash", COMPOSE_HASH),
    runtime_event("boot-mr-done", b""),
]


def claims_json(rtmrs: tuple[bytes, ...]) -> str:
    values = {
        name: b"\x02" * MEASUREMENT_BYTES[name] for name in MEASUREMENT_NAMES[Tee.TDX]
    }
    values |= {f"rtmr{i}": rtmr for i, rtmr in enumerate(rtmrs)}
    claims = Claims(
        tee=Tee.TDX,
        trust_domain=TrustDomain(Vendor.INTEL, "aa" * 48),
        measurements=values,
        report_data=bytes(64),
        debug=False,
        platform=PlatformIdentity(ppid=b"p" * 16),
        tcb=Tcb(TcbStatus.UP_TO_DATE, frozenset(), 17, "2024-03-13T00:00:00Z"),
    )
    return json.dumps(document(Verdict(claims)))


@pytest.fixture
def booted(tmp_path: Path) -> tuple[object, ...]:
    """Claims and the log that leads to them, as options."""
    claims, log = tmp_path / "claims.json", tmp_path / "event.log"
    claims.write_text(claims_json(replay(LOG)))
    log.write_bytes(to_dstack_json(LOG))
    return ("--claims", claims, "--event-log", log)


@pytest.fixture
def policy(tmp_path: Path, booted: tuple[object, ...]) -> Path:
    file = tmp_path / "policy.toml"
    said = run("policy", "from-evidence", *booted, *AT, "--out", file)
    assert said.status == 0, said.stderr
    return file


def test_a_document_from_a_log_grants_with_the_log_alone(
    policy: Path, booted: tuple[object, ...]
) -> None:
    asked = ("policy", "explain", "--policy", policy, "--purpose", "disk", *AT)
    said = run(*asked, *booted)
    assert said.status == 0, said.stderr
    assert shown("event:compose-hash", said.stdout)
    without = run(*asked, *booted[:2])
    assert (without.status, "event:compose-hash differs" in without.stdout) == (1, True)


def test_a_log_of_other_evidence_is_refused(
    tmp_path: Path, policy: Path, booted: tuple[object, ...]
) -> None:
    log = tmp_path / "short.log"
    log.write_bytes(to_dstack_json(LOG[:-1]))
    said = run("policy", "explain", "--policy", policy, *booted[:3], log, *AT)
    assert (said.status, said.stdout) == (1, "")
    assert "event_log_mismatch" in said.stderr


def test_the_part_of_a_pair_is_asked_for(
    policy: Path, booted: tuple[object, ...]
) -> None:
    asked = ("policy", "explain", "--policy", policy, *booted, *AT)
    key = ("--purpose", "disk", "--part", "public")
    assert "key_part_not_allowed" in run(*asked, *key).stdout
    policy.write_text(policy.read_text() + 'type = "x25519"\n')
    assert run(*asked, *key).status == 0


def test_events_and_roles_are_shown(policy: Path) -> None:
    role = '[[role]]\nname = "ops"\nthreshold = 2\nactions = ["adopt"]\n'
    keys = f'keys = ["{"ab" * 32}", "{"cd" * 32}"]\n'
    policy.write_text(policy.read_text() + role + keys)
    assert load_roles(policy) == ["ops"]
    said = run("policy", "show", policy)
    assert said.status == 0
    assert shown("event compose-hash", said.stdout)
    assert "role ops" in said.stdout
    told = run("policy", "show", policy, "--json").document
    assert told["role"][0]["threshold"] == 2


def shown(name: str, text: str) -> bool:
    return re.search(rf"{name}\s+{COMPOSE_HASH.hex()}", text) is not None


def load_roles(policy: Path) -> list[str]:
    told = run("policy", "show", policy, "--json").document
    return [role["name"] for role in told["role"]]


def test_the_use_of_a_pair_is_asked_for(
    policy: Path, booted: tuple[object, ...]
) -> None:
    asked = ("policy", "explain", "--policy", policy, *booted, *AT)
    key = ("--purpose", "disk", "--use", "sign")
    denied = run(*asked, *key).stdout
    assert "use_not_allowed" in denied
    assert "expected none (raw); got sign with the private part" in denied
    pair = 'type = "ed25519"\nparts = ["public"]\nuses = ["sign"]\n'
    policy.write_text(policy.read_text() + pair)
    told = run(*asked, *key)
    assert told.status == 0
    assert re.search(r"use of disk\s+sign with the private part", told.stdout)

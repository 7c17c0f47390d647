# SPDX-License-Identifier: Apache-2.0
"""Every fuzz target runs, starts from good inputs, and would notice a leak."""

import subprocess
import sys
from pathlib import Path

import pytest
import run as fuzzing

from tightseal.errors import TightsealError

RUNS = 2_000
SOAK_RUNS = 200_000

BROKEN = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
import run

class Broken:
    def seeds(self):
        return [b"good"]

    def one(self, data):
        if data != b"good":
            raise KeyError("leaked")

run.load = lambda name: Broken()
run.child("broken", 1000, 1, Path({folder!r}))
"""


def test_every_parser_has_a_target() -> None:
    assert set(fuzzing.TARGETS) == {
        "action",
        "canonical",
        "certificate",
        "chain",
        "collateral",
        "crl",
        "detect",
        "event_log",
        "framed",
        "handoff",
        "hcl",
        "http_bytes",
        "keyring",
        "log",
        "pck_extension",
        "pin",
        "policy_bundle",
        "slots",
        "qe_identity",
        "quote",
        "settings",
        "snp_report",
        "snp_table",
        "tcb_info",
        "wire",
    }


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_a_target_starts_from_inputs_that_are_read(name: str) -> None:
    target = fuzzing.load(name)
    seeds = target.seeds()
    read = 0
    for data in seeds:
        try:
            target.one(data)
        except TightsealError:
            continue
        read += 1
    assert len(seeds) > 1
    assert read >= 1


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_nothing_but_own_errors_goes_out(name: str, tmp_path: Path) -> None:
    outcome = fuzzing.fuzz(name, runs=RUNS, folder=tmp_path)
    assert not outcome.failed, str(outcome)
    assert f"number_of_executed_units: {RUNS}" in outcome.said


@pytest.mark.soak
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_nothing_but_own_errors_goes_out_for_long(name: str, tmp_path: Path) -> None:
    outcome = fuzzing.fuzz(name, runs=SOAK_RUNS, seed=2, folder=tmp_path)
    assert not outcome.failed, str(outcome)


def test_a_leak_is_noticed(tmp_path: Path) -> None:
    script = BROKEN.format(here=str(fuzzing.HERE), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=120
    )
    assert done.returncode != 0
    assert b"leaked" in done.stdout + done.stderr
    [found] = tmp_path.glob("failed-*")
    assert found.read_bytes() != b"good"

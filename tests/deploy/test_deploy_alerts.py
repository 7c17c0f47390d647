# SPDX-License-Identifier: Apache-2.0
"""Every alert rule over time, by Prometheus' own promtool, where it can be had."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from yaml_subset import load

from tightseal.service.metricinfo import METRICS, Kind

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "alerts.yml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}
ONE = {"job": "tightseal", "instance": "a"}
TWO = {"job": "tightseal", "instance": "b"}
SECONDS = 120

Series = tuple[str, dict[str, str], str]


def one(metric: str, values: str, **labels: str) -> Series:
    return metric, {**ONE, **labels}, values


def bucket(values: str, le: str) -> Series:
    return one("tightseal_request_seconds_bucket", values, protocol="keys", le=le)


def asked(values: str, code: str, protocol: str = "keys") -> Series:
    return one("tightseal_requests_total", values, protocol=protocol, code=code)


# An evaluation a minute, from Unix second 0: what is 0x60 stays so for an hour.
CASES: dict[str, tuple[list[Series], str, dict[str, str]]] = {
    "TightsealDown": ([one("up", "1x2 0x60")], "5m", ONE),
    "TightsealNotReady": (
        [one("tightseal_ready", "1x2 0x60", part="journal")],
        "5m",
        {**ONE, "part": "journal"},
    ),
    "TightsealChecksStuck": (
        [one("tightseal_looked_seconds", "0+60x5 300x60")],
        "10m",
        ONE,
    ),
    "TightsealInternalError": (
        [asked("0x4 1x60", "internal")],
        "6m",
        {"instance": "a", "protocol": "keys"},
    ),
    "TightsealSimulated": ([one("tightseal_simulated", "1x60")], "1m", ONE),
    "TightsealNote": (
        [one("tightseal_note", "1x60", note="keyring_one_slot")],
        "35m",
        {**ONE, "note": "keyring_one_slot"},
    ),
    "TightsealVersionsDiffer": (
        [
            one("tightseal_build_info", "1x90", version="1"),
            ("tightseal_build_info", {**TWO, "version": "2"}, "1x90"),
        ],
        "70m",
        {"job": "tightseal"},
    ),
    "TightsealOverloaded": (
        [asked("0+10x60", "overloaded"), asked("0+90x60", "granted")],
        "20m",
        {"instance": "a"},
    ),
    "TightsealQueueFull": (
        [
            one("tightseal_queue_calls", "90x60", pool="release"),
            one("tightseal_queue_limit", "100x60", pool="release"),
        ],
        "10m",
        {**ONE, "pool": "release"},
    ),
    "TightsealSlow": (
        [bucket("0+90x60", "1.0"), bucket("0+99x60", "5.0"), bucket("0+99x60", "+Inf")],
        "30m",
        {"instance": "a"},
    ),
    "TightsealConnectionsShed": (
        [
            one(
                "tightseal_connections_closed_total",
                "0+120x60",
                transport="http",
                reason="full",
            )
        ],
        "20m",
        {"instance": "a", "transport": "http"},
    ),
    "TightsealMostRefused": (
        [asked("0+60x60", "tcb_revoked"), asked("0+40x60", "granted")],
        "40m",
        {"instance": "a"},
    ),
    "TightsealVerifiersDisagree": (
        [
            one(
                "tightseal_verifier_disagreements_total",
                "0x4 1x60",
                rule="unexplained",
            )
        ],
        "6m",
        {**ONE, "rule": "unexplained"},
    ),
    "TightsealCollateralOld": (
        # The clock of a case begins at 0; a week is 10080 minutes.
        [one("tightseal_collateral_issued_seconds", "1x12000")],
        "11000m",
        ONE,
    ),
    "TightsealJournalSlow": (
        [one("tightseal_journal_lag_seconds", "2x60")],
        "10m",
        ONE,
    ),
    "TightsealJournalDiskFilling": (
        [one("tightseal_journal_free_bytes", "500000000000-150000000x400")],
        "380m",
        ONE,
    ),
    "TightsealLogWentBack": ([one("tightseal_log_entries", "99x14 50x60")], "18m", ONE),
    "TightsealLogNotPublished": (
        [
            one("tightseal_log_entries", "99x60"),
            one("tightseal_log_published_entries", "50x60"),
        ],
        "30m",
        ONE,
    ),
    "TightsealWitnessesMissing": (
        [
            one("tightseal_witnesses_needed", "2x60"),
            one("tightseal_witnesses_answering", "1x60"),
        ],
        "5m",
        ONE,
    ),
    "TightsealLogForked": (
        [one("tightseal_witness_answers_total", "0x4 1x60", outcome="forked")],
        "6m",
        {**ONE, "outcome": "forked"},
    ),
    "TightsealPolicyExpires": (
        [one("tightseal_policy_expires_seconds", "600000x60")],
        "15m",
        ONE,
    ),
    "TightsealPolicyExpired": (
        [one("tightseal_policy_expires_seconds", "60x60")],
        "5m",
        ONE,
    ),
    "TightsealPolicyDiffers": (
        [
            one("tightseal_policy_version", "7x60"),
            ("tightseal_policy_version", TWO, "6x60"),
        ],
        "10m",
        {"job": "tightseal"},
    ),
    "TightsealNodeStale": (
        [one("tightseal_nodes", "0x5 1x60", standing="stale")],
        "15m",
        {"job": "tightseal"},
    ),
    "TightsealNodesDiffer": (
        [
            one("tightseal_nodes", "3x60", standing="serving"),
            ("tightseal_nodes", {**TWO, "standing": "serving"}, "2x60"),
        ],
        "15m",
        {"job": "tightseal"},
    ),
    "TightsealKeyringDiffers": (
        [
            one("tightseal_keyring_counter", "7x60"),
            ("tightseal_keyring_counter", TWO, "6x60"),
        ],
        "10m",
        {"job": "tightseal"},
    ),
    "TightsealSlotDamaged": (
        [one("tightseal_keyring_slots", "1x60", condition="damaged")],
        "5m",
        {**ONE, "condition": "damaged"},
    ),
}

HEALTHY: list[Series] = [
    *(("up", labels, "1x120") for labels in (ONE, TWO)),
    one("tightseal_ready", "1x120", part="journal"),
    one("tightseal_looked_seconds", "0+60x120"),
    asked("0x120", "internal"),
    asked("0+1x120", "overloaded"),
    asked("0+99x120", "granted"),
    asked("0+9x120", "tcb_revoked"),
    one("tightseal_simulated", "0x120"),
    one("tightseal_note", "0x120", note="policy_expired"),
    *(
        ("tightseal_build_info", {**labels, "version": "1"}, "1x120")
        for labels in (ONE, TWO)
    ),
    one("tightseal_queue_calls", "9x120", pool="release"),
    one("tightseal_queue_limit", "100x120", pool="release"),
    bucket("0+99x120", "1.0"),
    bucket("0+99x120", "+Inf"),
    one(
        "tightseal_connections_closed_total", "0+9x120", transport="http", reason="full"
    ),
    one("tightseal_verifier_disagreements_total", "0x120", rule="unexplained"),
    one("tightseal_collateral_issued_seconds", "0x120"),
    one("tightseal_witnesses_needed", "2x120"),
    one("tightseal_witnesses_answering", "3x120"),
    one("tightseal_witness_answers_total", "0x120", outcome="forked"),
    one("tightseal_journal_lag_seconds", "0.002x120"),
    one("tightseal_journal_waiting", "3x120"),
    one("tightseal_journal_free_bytes", "500000000000-1000x120"),
    one("tightseal_log_entries", "9+9x120"),
    one("tightseal_log_published_entries", "0+9x120"),
    *(
        (metric, labels, values)
        for labels in (ONE, TWO)
        for metric, values in (
            ("tightseal_policy_version", "7x120"),
            ("tightseal_policy_expires_seconds", "0x120"),
            ("tightseal_keyring_counter", "7x120"),
        )
    ),
    one("tightseal_keyring_slots", "0x120", condition="damaged"),
    one("tightseal_keyring_slots", "1x120", condition="opened"),
]


@pytest.fixture(scope="session")
def promtool(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The program; of Debian's package unpacked, since installed it would serve."""
    folder = tmp_path_factory.mktemp("promtool")
    program = shutil.which("promtool") or _unpacked(folder)
    if program is None:
        pytest.skip("promtool is not here; Debian's prometheus has it")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return run


def _unpacked(folder: Path) -> str | None:
    try:
        for command in (
            ["apt-get", "-q", "download", "prometheus"],
            ["sh", "-c", "dpkg -x prometheus_*.deb ."],
        ):
            subprocess.run(
                command, check=True, cwd=folder, capture_output=True, timeout=SECONDS
            )
    except (OSError, subprocess.SubprocessError):
        return None
    program = folder / "usr" / "bin" / "promtool"
    return str(program) if program.is_file() else None


def told(alert: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """The alert as it should be, with its labels and the value of the case."""
    rule = RULES[alert]
    known = {**labels, "severity": rule["labels"]["severity"]}
    summary = re.sub(
        r"{{ \$labels\.(\w+) }}", lambda m: known[m[1]], rule["annotations"]["summary"]
    )
    value = {
        "TightsealOverloaded": "0.1",
        "TightsealVersionsDiffer": "2",
        "TightsealSlotDamaged": "1",
        "TightsealNodeStale": "1",
    }
    summary = summary.replace("{{ $value }}", value.get(alert, ""))
    annotations = {"summary": summary, "runbook": rule["annotations"]["runbook"]}
    return [{"exp_labels": known, "exp_annotations": annotations}]


def cases(
    folder: Path, series: list[Series], at: str, expected: dict[str, list[Any]]
) -> Path:
    def text(metric: str, labels: dict[str, str]) -> str:
        inside = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
        return f"{metric}{{{inside}}}"

    document = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": text(metric, labels), "values": values}
                    for metric, labels, values in series
                ],
                "alert_rule_test": [
                    {"eval_time": at, "alertname": alert, "exp_alerts": alerts}
                    for alert, alerts in expected.items()
                ],
            }
        ],
    }
    path = folder / "cases.yml"
    # JSON is YAML too.
    path.write_text(json.dumps(document))
    return path


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(RULES)
    known = {m.name for m in METRICS} | {"up"}
    for series, _, _ in CASES.values():
        for metric, _, _ in series:
            assert metric.removesuffix("_bucket") in known
    assert any(m.kind is Kind.HISTOGRAM for m in METRICS)


def test_prometheus_reads_the_rules(
    promtool: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should(
    alert: str,
    tmp_path: Path,
    promtool: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    series, at, labels = CASES[alert]
    expected = {alert: told(alert, labels)}
    done = promtool("test", "rules", str(cases(tmp_path, series, at, expected)))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("at", ["5m", "30m", "110m"])
def test_no_alert_fires_over_a_healthy_fleet(
    at: str, tmp_path: Path, promtool: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    expected: dict[str, list[Any]] = {alert: [] for alert in RULES}
    done = promtool("test", "rules", str(cases(tmp_path, HEALTHY, at, expected)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_that_does_not_hold_is_seen(
    tmp_path: Path, promtool: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    expected = {"TightsealDown": told("TightsealDown", ONE)}
    done = promtool("test", "rules", str(cases(tmp_path, HEALTHY, "5m", expected)))
    assert done.returncode != 0

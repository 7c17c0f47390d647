# SPDX-License-Identifier: Apache-2.0
"""Alert rules and the dashboard, held against the metrics that there are.

Neither Prometheus nor Grafana is here: the files are parsed, not loaded.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from promql import SERIES, PromqlError, check, parse
from yaml_subset import YamlError, load

from tightseal.service.metricinfo import METRICS

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "tightseal.json"
RUNBOOK = ROOT / "docs" / "operations" / "alerts.md"

RULES: list[dict[str, Any]] = [
    rule for group in load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


# -- alerts ------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r["alert"])
def test_an_alert_is_whole(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert re.fullmatch(r"Tightseal[A-Z][A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"[1-9][0-9]*[mh]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in {"page", "warn", "info"}
    assert set(rule["labels"]) == {"severity"}
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert len(rule["annotations"]["summary"]) < 100


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r["alert"])
def test_an_alert_looks_at_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    parsed = check(rule["expr"])
    assert parsed.selectors
    used = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    have = {"instance", "job"}
    for selector in parsed.selectors:
        have |= SERIES.get(selector.metric, (None, frozenset()))[1]
    # What an aggregation does not keep is not there to be printed.
    if parsed.grouped:
        have &= parsed.grouped
    assert set(used) <= have


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r["alert"])
def test_an_alert_has_its_section_in_the_runbook(rule: dict[str, Any]) -> None:
    page, _, section = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == RUNBOOK
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert section in {anchor(h) for h in headings}
    assert section == anchor(rule["alert"])


def test_alerts_and_sections_are_the_same() -> None:
    sections = re.findall(r"^### (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]


def test_the_runbook_names_metrics_and_settings_that_exist() -> None:
    named = set(re.findall(r"\b(tightseal_[a-z_]+)\b", RUNBOOK.read_text()))
    assert named <= {m.name for m in METRICS}
    for expression in re.findall(r"`((?:sum|rate)[^`]+)`", RUNBOOK.read_text()):
        check(expression)


# -- the dashboard -----------------------------------------------------------------


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"])
def test_a_panel_shows_metrics_that_exist(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        parsed = check(target["expr"])
        for selector in parsed.selectors:
            assert ("instance", "=~", "$instance") in selector.matchers
        legend = re.findall(r"{{(\w+)}}", target["legendFormat"])
        have = {"instance", "job"}.union(
            *(SERIES[s.metric][1] for s in parsed.selectors)
        )
        assert set(legend) <= (parsed.grouped or have)
        assert target["datasource"]["uid"] == "${datasource}"
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y)
            for x in range(place["w"])
            for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        selector.metric
        for panel in PANELS
        for target in panel["targets"]
        for selector in parse(target["expr"]).selectors
    }
    base = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert base == {m.name for m in METRICS}


def test_variables_read_a_metric_that_exists() -> None:
    (instance,) = [v for v in BOARD["templating"]["list"] if v["name"] == "instance"]
    found = re.fullmatch(r"label_values\((\w+), instance\)", instance["definition"])
    assert found is not None
    assert found[1] in SERIES


# -- the checks themselves ---------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "tightseal_nothing > 0",
        'tightseal_ready{colour="red"} == 0',
        'tightseal_ready{part="moon"} == 0',
        'tightseal_connections_closed_total{reason=~"full|tired"} > 0',
        "rate(tightseal_ready[5m]) > 0",
        "tightseal_requests_total > 0",
        "rate(tightseal_requests_total) > 0",
        "tightseal_ready[5m] == 0",
        "sum by (moon) (tightseal_ready)",
        "median(tightseal_ready)",
        "sum (tightseal_ready",
        "tightseal_ready ==",
        "tightseal_ready == 0 0",
        "tightseal_ready === 0",
        "tightseal_ready{part=clock} == 0",
        "rate(tightseal_requests_total[5 minutes]) > 0",
        "tightseal_request_seconds > 0",
    ],
)
def test_a_wrong_expression_is_found(text: str) -> None:
    with pytest.raises(PromqlError):
        check(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: b: c",
        "a: yes",
        "a: 1\na: 2",
        "a:\n   b: 1",
        "a: [1",
        "a: 1\n    b: 2",
        "a: 1.5",
        "- a\nb: 1",
        'a: "x',
        "a: {b: 1}",
        "a: &anchor 1",
        "a\n",
    ],
)
def test_what_is_no_yaml_of_the_subset_is_found(text: str) -> None:
    with pytest.raises(YamlError):
        load(text)


def test_yaml_of_the_subset_is_read() -> None:
    text = '# c\na: 1\nb:\n  - x: "y # z"\n    w: true\n  - plain text\nc: ["d", 2]\n'
    assert load(text) == {
        "a": 1,
        "b": [{"x": "y # z", "w": True}, "plain text"],
        "c": ["d", 2],
    }

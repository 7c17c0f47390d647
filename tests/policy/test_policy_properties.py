# SPDX-License-Identifier: Apache-2.0
"""Laws of policies: narrowing never grants more, and order never matters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import (
    CEDAR,
    EVENTS,
    LOGGED,
    NAMES,
    PAYLOADS,
    POLICIES,
    POLICIES_AND_QUESTIONS,
    PPIDS,
    SEEDS,
    WINDOWS,
    Asked,
    hexed,
)
from policy_support import NOW, circumstances

from tightseal.errors import Code, PolicyError
from tightseal.model.grant import Grant
from tightseal.model.usage import UsageRule
from tightseal.policy.compile import compile_policy
from tightseal.policy.document import Document
from tightseal.policy.engine import decide
from tightseal.policy.lint import LintId, lint
from tightseal.policy.read import Parsed, Text, parse
from tightseal.policy.start import render


def parsed(rules: Any) -> Parsed:
    raw = {"version": 1, "workload": list(rules)}
    return Parsed(Text("p", ""), msgspec.convert(raw, Document))


def answer(asked: Asked, documents: list[Parsed]) -> Grant | Code:
    try:
        return decide(
            asked.claims,
            keys=asked.keys,
            policy=compile_policy(documents),
            circumstances=circumstances(signed_time=asked.signed_time),
            now=NOW,
            events=asked.events,
        )
    except PolicyError as e:
        return e.code


# -- narrowing --------------------------------------------------------------------

Change = Callable[[dict[str, Any], Any], None]


def less_images(workload: dict[str, Any], draw: Any) -> None:
    workload["image"] = draw(st.permutations(workload["image"]))[:1]


def one_more_selector(workload: dict[str, Any], draw: Any) -> None:
    for image in workload["image"]:
        name = draw(st.sampled_from(NAMES))
        image["measurements"].setdefault(name, hexed(name, draw(SEEDS)))


def fewer_values(workload: dict[str, Any], draw: Any) -> None:
    for image in workload["image"]:
        for rule in image["measurements"].values():
            if isinstance(rule, dict) and "one_of" in rule:
                rule["one_of"] = draw(st.permutations(rule["one_of"]))[:1]


def earlier_end(workload: dict[str, Any], draw: Any) -> None:
    end = draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z"]))
    for image in workload["image"]:
        image["until"] = min(end, image.get("until", end))


def fewer_statuses(workload: dict[str, Any], draw: Any) -> None:
    statuses = workload["tcb"]["statuses"]
    workload["tcb"]["statuses"] = draw(st.permutations(statuses))[:1]


def stricter_tcb(workload: dict[str, Any], draw: Any) -> None:
    rules = workload["tcb"]
    rules["minimum_evaluation"] += draw(st.integers(0, 2))
    rules["refuse_advisories"] = ["INTEL-SA-00001"]
    rules["tolerate_advisories"] = draw(st.sampled_from([[], ["INTEL-SA-00001"]]))
    rules["smt"] = "refuse"


def fewer_platforms(workload: dict[str, Any], draw: Any) -> None:
    if workload["platform"] == "any":
        workload["platform"] = draw(st.sampled_from(["same", [{"ppid": PPIDS[0]}]]))
    elif isinstance(workload["platform"], list):
        workload["platform"] = draw(st.permutations(workload["platform"]))[:1]


def two_verifiers(workload: dict[str, Any], _draw: Any) -> None:
    workload["single_verifier"] = "refuse"


def fewer_keys(workload: dict[str, Any], draw: Any) -> None:
    workload["key"] = draw(st.permutations(workload["key"]))[:1]
    for key in workload["key"]:
        key["labels"] = {"*": [""], "x*": ["x"]}.get(key["labels"][0], key["labels"])


def one_more_event(workload: dict[str, Any], draw: Any) -> None:
    for image in workload["image"]:
        name = draw(st.sampled_from(EVENTS))
        image["events"].setdefault(name, draw(st.sampled_from(PAYLOADS)).hex())


def fewer_payloads(workload: dict[str, Any], draw: Any) -> None:
    for image in workload["image"]:
        for rule in image["events"].values():
            if isinstance(rule, dict):
                rule["one_of"] = draw(st.permutations(rule["one_of"]))[:1]


def one_more_digest(workload: dict[str, Any], draw: Any) -> None:
    for image in workload["image"]:
        image["logged"].append(draw(LOGGED))


def fewer_parts(workload: dict[str, Any], _draw: Any) -> None:
    for key in workload["key"]:
        key["parts"] = ["private"]


def fewer_windows(workload: dict[str, Any], draw: Any) -> None:
    for key in workload["key"]:
        if key["usage"] is None:
            key["usage"] = {"windows": [draw(st.sampled_from(WINDOWS))]}
        elif key["usage"].get("windows"):
            key["usage"]["windows"] = draw(st.permutations(key["usage"]["windows"]))[:1]
        else:
            key["usage"]["windows"] = [draw(st.sampled_from(WINDOWS))]


def less_usage(workload: dict[str, Any], draw: Any) -> None:
    for key in workload["key"]:
        usage = key["usage"] = key["usage"] or {}
        limit = draw(st.sampled_from(["per_hour", "total"]))
        usage[limit] = min(usage.get(limit, 4), draw(st.integers(1, 4)))
        usage["first_platform"] = True
        usage["without_anchor"] = "refuse"


def also_cedar(workload: dict[str, Any], draw: Any) -> None:
    if workload["cedar"] is None:
        workload["cedar"] = draw(st.sampled_from(CEDAR))


NARROWER: tuple[Change, ...] = (
    less_images,
    one_more_selector,
    fewer_values,
    earlier_end,
    fewer_statuses,
    stricter_tcb,
    fewer_platforms,
    two_verifiers,
    fewer_keys,
    one_more_event,
    fewer_payloads,
    one_more_digest,
    fewer_parts,
    fewer_windows,
    less_usage,
    also_cedar,
)


def copied(rules: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(rules))


def demands_as_much(narrow: Grant, wide: Grant) -> bool:
    """Whether all that a wide grant must be counted as binds the narrow one too."""
    found = {demand.purpose: demand for demand in narrow.usage}
    return all(
        demand.purpose in found
        and found[demand.purpose].record == demand.record
        and as_strict(found[demand.purpose].rule, demand.rule)
        for demand in wide.usage
    )


def as_strict(narrow: UsageRule, wide: UsageRule) -> bool:
    limits = ((narrow.per_hour, wide.per_hour), (narrow.total, wide.total))
    return (
        all(b is None or (a is not None and a <= b) for a, b in limits)
        and narrow.first_platform >= wide.first_platform
        and narrow.without_anchor <= wide.without_anchor
    )


@pytest.mark.parametrize("change", NARROWER)
@settings(max_examples=60, deadline=None)
@given(st.data(), POLICIES_AND_QUESTIONS)
def test_narrowing_never_grants_more(
    change: Change,
    data: st.DataObject,
    given_both: tuple[tuple[dict[str, Any], ...], Asked],
) -> None:
    rules, asked = given_both
    narrowed = copied(rules)
    more = data.draw(st.lists(st.sampled_from(NARROWER), max_size=1))
    for step in (change, *more):
        for workload in narrowed:
            step(workload, data.draw)
    after = answer(asked, [parsed(narrowed)])
    if isinstance(after, Code):
        return
    wide = [parsed(rules)]
    before = answer(asked, wide)
    if before is Code.WORKLOAD_AMBIGUOUS:
        # Only a policy in which lint finds the pair can be ambiguous.
        found = {finding.id for finding in lint(wide, now=0)}
        assert LintId.WORKLOADS_OVERLAP in found
        return
    assert isinstance(before, Grant)
    assert (before.paths, before.adopted) == (after.paths, after.adopted)
    assert demands_as_much(after, before)


@settings(max_examples=200, deadline=None)
@given(POLICIES_AND_QUESTIONS)
def test_saying_less_never_gets_more(
    given_both: tuple[tuple[dict[str, Any], ...], Asked],
) -> None:
    """Without its log, and without time signed by others, evidence gets no more."""
    rules, asked = given_both
    documents = [parsed(rules)]
    less = answer(replace(asked, events=None, signed_time=0), documents)
    if isinstance(less, Code):
        return
    more = answer(asked, documents)
    if more is Code.WORKLOAD_AMBIGUOUS:
        found = {finding.id for finding in lint(documents, now=0)}
        assert LintId.WORKLOADS_OVERLAP in found
        return
    if more is Code.CEDAR_NOT_ALLOWED:
        return  # A Cedar policy may forbid what a log shows.
    assert isinstance(more, Grant)
    assert more.paths == less.paths


@settings(deadline=None)
@given(st.data(), POLICIES_AND_QUESTIONS)
def test_order_never_matters(
    data: st.DataObject, given_both: tuple[tuple[dict[str, Any], ...], Asked]
) -> None:
    rules, asked = given_both
    shuffled = data.draw(st.permutations(copied(rules)))
    for workload in shuffled:
        for part in ("image", "key"):
            workload[part] = data.draw(st.permutations(workload[part]))
        statuses = workload["tcb"]["statuses"]
        workload["tcb"]["statuses"] = data.draw(st.permutations(statuses))
        for image in workload["image"]:
            for part in ("measurements", "events"):
                order = data.draw(st.permutations(list(image[part])))
                image[part] = {n: image[part][n] for n in order}
            image["logged"] = data.draw(st.permutations(image["logged"]))
        for key in workload["key"]:
            key["parts"] = data.draw(st.permutations(key["parts"]))
            if key["usage"] is not None:
                windows = data.draw(st.permutations(key["usage"]["windows"]))
                key["usage"]["windows"] = windows
    one_by_one = [parsed([workload]) for workload in shuffled]
    expected = answer(asked, [parsed(rules)])
    assert answer(asked, [parsed(shuffled)]) == expected
    assert answer(asked, one_by_one) == expected


@settings(deadline=None)
@given(POLICIES_AND_QUESTIONS)
def test_two_workloads_are_granted_one_key_by_no_evidence(
    given_both: tuple[tuple[dict[str, Any], ...], Asked],
) -> None:
    """Where lint finds no overlap, no evidence is ambiguous."""
    rules, asked = given_both
    documents = [parsed(rules)]
    found = {finding.id for finding in lint(documents, now=NOW)}
    got = answer(asked, documents)
    assert got is not Code.WORKLOAD_AMBIGUOUS or LintId.WORKLOADS_OVERLAP in found


ROLES = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["ops", "audit"]),
            "tenant": st.sampled_from([None, "a"]),
            "threshold": st.integers(1, 2),
            "keys": st.just(["ab" * 32, "cd" * 32]),
            "actions": st.sampled_from([["adopt"], ["adopt", "reset-usage"]]),
        }
    ),
    max_size=2,
)


@settings(deadline=None)
@given(POLICIES, ROLES, st.none() | st.text(max_size=20))
def test_what_is_rendered_reads_back(
    rules: tuple[dict[str, Any], ...], roles: Any, text: str | None
) -> None:
    raw = {
        "version": 1,
        "workload": [w | {"cedar": text} for w in rules],
        "role": roles,
    }
    document = msgspec.convert(raw, Document)
    assert parse(render(document.workload, document.role)).document == document

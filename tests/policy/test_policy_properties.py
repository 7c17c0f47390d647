# SPDX-License-Identifier: Apache-2.0
"""Laws of policies: narrowing never grants more, order never matters, paths differ."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_support import HERE, NOW, circumstances, measured, tcb, td, value

from tightseal.errors import Code, PolicyError
from tightseal.model.canonical import encode
from tightseal.model.claims import MEASUREMENT_NAMES, Claims, TcbStatus, Tee
from tightseal.model.grant import Grant
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    KeyRequest,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.policy.compile import compile_policy
from tightseal.policy.document import Document, WorkloadRules
from tightseal.policy.engine import decide
from tightseal.policy.lint import LintId, lint
from tightseal.policy.read import Parsed, Text, parse
from tightseal.policy.start import render

NAMES = ("mrtd", "rtmr1", "rtmr3", "mr_owner")
SEEDS = st.integers(0, 2)


def hexed(name: str, seed: int) -> str:
    return value(name, seed).hex()


@st.composite
def selectors(draw: st.DrawFn, name: str) -> Any:
    form = draw(st.sampled_from(["exact", "one_of", "mask"]))
    seed = draw(SEEDS)
    if form == "exact":
        return hexed(name, seed)
    if form == "one_of":
        seeds = draw(st.lists(SEEDS, min_size=1, max_size=3, unique=True))
        return {"one_of": [hexed(name, s) for s in seeds]}
    mask = bytes([0, 0, draw(st.sampled_from([1, 2, 3, 255]))] * 16)
    masked = bytes(a & b for a, b in zip(value(name, seed), mask, strict=True))
    return {"mask": mask.hex(), "expected": masked.hex()}


@st.composite
def images(draw: st.DrawFn, label: str) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    image: dict[str, Any] = {
        "label": label,
        "measurements": {name: draw(selectors(name)) for name in chosen},
    }
    if draw(st.booleans()):
        image["until"] = draw(
            st.sampled_from(["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"])
        )
    return image


STATUSES = ["UpToDate", "SWHardeningNeeded", "OutOfDate"]
PPIDS = ["70" * 16, "71" * 16]


@st.composite
def workloads(draw: st.DrawFn, name: str) -> dict[str, Any]:
    platform = draw(
        st.sampled_from(["any", "same"])
        | st.lists(st.sampled_from(PPIDS), min_size=1, unique=True).map(
            lambda ids: [{"ppid": ppid} for ppid in ids]
        )
    )
    statuses = draw(st.lists(st.sampled_from(STATUSES), min_size=1, unique=True))
    return {
        "tenant": draw(st.sampled_from(["a", "b"])),
        "name": name,
        "identity": draw(st.sampled_from(["named", "measured"])),
        "tee": "tdx",
        "platform": platform,
        "single_verifier": draw(st.sampled_from(["accept", "refuse"])),
        "tcb": {
            "statuses": statuses,
            "minimum_evaluation": draw(st.sampled_from([0, 17, 18])),
            "refuse_advisories": draw(st.sampled_from([[], ["INTEL-SA-00001"]])),
            "smt": draw(st.sampled_from(["accept", "refuse"])),
        },
        "image": [draw(images(f"i{i}")) for i in range(draw(st.integers(1, 3)))],
        "key": [
            {"purpose": purpose, "labels": draw(st.sampled_from([[""], ["*"], ["x*"]]))}
            for purpose in draw(
                st.lists(st.sampled_from(["disk", "tls"]), min_size=1, unique=True)
            )
        ],
    }


POLICIES = st.integers(1, 3).flatmap(
    lambda count: st.tuples(*(workloads(f"w{i}") for i in range(count)))
)


@st.composite
def evidence(draw: st.DrawFn) -> Claims:
    changed = {name: value(name, draw(SEEDS)) for name in NAMES}
    return td(
        measurements=measured(Tee.TDX, **changed),
        single_verifier=draw(st.booleans()),
        platform=draw(st.sampled_from([HERE, replace(HERE, ppid=b"q" * 16)])),
        tcb=tcb(
            TcbStatus(draw(st.sampled_from(STATUSES))),
            evaluation_number=draw(st.sampled_from([16, 17, 18])),
            advisory_ids=draw(st.sampled_from([frozenset(), {"INTEL-SA-00001"}])),
            smt_enabled=draw(st.sampled_from([True, False, None])),
        ),
    )


REQUESTS = st.lists(
    st.builds(
        KeyRequest, st.sampled_from(["disk", "tls"]), st.sampled_from(["", "x", "y"])
    ),
    min_size=1,
    max_size=3,
).map(tuple)


def parsed(rules: Any) -> Parsed:
    raw = {"version": 1, "workload": list(rules)}
    return Parsed(Text("p", ""), msgspec.convert(raw, Document))


def answer(
    claims: Claims, documents: list[Parsed], keys: tuple[KeyRequest, ...]
) -> Grant | Code:
    try:
        return decide(
            claims,
            keys=keys,
            policy=compile_policy(documents),
            circumstances=circumstances(),
            now=NOW,
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
)


def copied(rules: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(rules))


@settings(max_examples=300, deadline=None)
@given(st.data(), POLICIES, evidence(), REQUESTS)
def test_narrowing_never_grants_more(
    data: st.DataObject,
    rules: tuple[dict[str, Any], ...],
    claims: Claims,
    keys: tuple[KeyRequest, ...],
) -> None:
    narrowed = copied(rules)
    for change in data.draw(st.lists(st.sampled_from(NARROWER), min_size=1)):
        change(data.draw(st.sampled_from(narrowed)), data.draw)
    after = answer(claims, [parsed(narrowed)], keys)
    if isinstance(after, Code):
        return
    wide = [parsed(rules)]
    before = answer(claims, wide, keys)
    if before is Code.WORKLOAD_AMBIGUOUS:
        # Only a policy in which lint finds the pair can be ambiguous.
        found = {finding.id for finding in lint(wide, now=0)}
        assert LintId.WORKLOADS_OVERLAP in found
        return
    assert isinstance(before, Grant)
    assert before.paths == after.paths


@settings(deadline=None)
@given(st.data(), POLICIES, evidence(), REQUESTS)
def test_order_never_matters(
    data: st.DataObject,
    rules: tuple[dict[str, Any], ...],
    claims: Claims,
    keys: tuple[KeyRequest, ...],
) -> None:
    shuffled = data.draw(st.permutations(copied(rules)))
    for workload in shuffled:
        for part in ("image", "key"):
            workload[part] = data.draw(st.permutations(workload[part]))
        statuses = workload["tcb"]["statuses"]
        workload["tcb"]["statuses"] = data.draw(st.permutations(statuses))
        for image in workload["image"]:
            order = data.draw(st.permutations(list(image["measurements"])))
            image["measurements"] = {n: image["measurements"][n] for n in order}
    one_by_one = [parsed([workload]) for workload in shuffled]
    expected = answer(claims, [parsed(rules)], keys)
    assert answer(claims, [parsed(shuffled)], keys) == expected
    assert answer(claims, one_by_one, keys) == expected


@settings(deadline=None)
@given(POLICIES, evidence())
def test_two_workloads_are_granted_one_key_by_no_evidence(
    rules: tuple[dict[str, Any], ...], claims: Claims
) -> None:
    """Where lint finds no overlap, no evidence is ambiguous."""
    documents = [parsed(rules)]
    found = {finding.id for finding in lint(documents, now=NOW)}
    got = answer(claims, documents, (KeyRequest("disk"),))
    assert got is not Code.WORKLOAD_AMBIGUOUS or LintId.WORKLOADS_OVERLAP in found


@settings(deadline=None)
@given(POLICIES)
def test_what_is_rendered_reads_back(rules: tuple[dict[str, Any], ...]) -> None:
    given_rules: tuple[WorkloadRules, ...] = parsed(rules).document.workload
    assert parse(render(given_rules)).document.workload == given_rules


# -- key paths --------------------------------------------------------------------

TEXTS = st.text(alphabet='ab/,:[]"\\', min_size=1, max_size=4)
VALUES = st.binary(min_size=1, max_size=3)
PAIRS = st.dictionaries(st.sampled_from(MEASUREMENT_NAMES[Tee.TDX][:4]), VALUES).map(
    lambda pairs: tuple(sorted(pairs.items()))
)
BINDINGS = st.builds(
    WorkloadBinding,
    identity=st.sampled_from(IdentityKind),
    name=st.none() | TEXTS,
    tee=st.sampled_from(Tee),
    attributes=PAIRS,
    measurements=PAIRS,
    authority=st.builds(Authority, TEXTS, VALUES),
)
PATHS = st.builds(
    KeyPath,
    kdf=st.sampled_from(Kdf),
    trust_domain=TEXTS,
    tenant=TEXTS,
    workload=BINDINGS,
    protocol_class=st.sampled_from(ProtocolClass),
    generation=st.integers(0, 3),
    purpose=TEXTS,
    label=TEXTS | st.just(""),
    length=st.integers(16, 18),
)


@settings(deadline=None)
@given(st.lists(PATHS, min_size=2, max_size=6))
def test_two_different_key_paths_never_encode_alike(paths: list[KeyPath]) -> None:
    for one, other in itertools.combinations(paths, 2):
        same = encode(one.as_value()) == encode(other.as_value())
        assert same == (one == other)


@settings(deadline=None)
@given(PATHS, st.data())
def test_every_part_of_a_key_path_enters_its_encoding(
    path: KeyPath, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(KeyPath.__slots__))
    other = replace(path, **{field: getattr(data.draw(PATHS), field)})
    assert (encode(path.as_value()) == encode(other.as_value())) == (path == other)


@settings(deadline=None)
@given(st.lists(st.builds(KeyRequest, TEXTS, TEXTS, st.integers(16, 18)), min_size=2))
def test_two_different_requests_never_encode_alike(keys: list[KeyRequest]) -> None:
    for one, other in itertools.combinations(keys, 2):
        same = encode(one.as_value()) == encode(other.as_value())
        assert same == (one == other)

# SPDX-License-Identifier: Apache-2.0
"""Policies, evidence, logs and requests of every kind, few enough to meet often."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec
from hypothesis import strategies as st
from policy_support import HERE, NOW, measured, tcb, td, value

from tightseal.model.claims import Claims, TcbStatus, Tee
from tightseal.model.keypath import KeyPart, KeyRequest
from tightseal.policy.document import SelectorValue
from tightseal.policy.eventlog.facts import EventFact, EventFacts, LogFormat
from tightseal.policy.selection import compile_selector

NAMES = ("mrtd", "rtmr1", "rtmr3", "mr_owner")
SEEDS = st.integers(0, 2)
SELDOM = st.integers(0, 5).map(lambda number: number == 5)


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


EVENTS = ("compose-hash", "app-id")
PAYLOADS = [bytes([seed]) * 32 for seed in (1, 2)]
LOGGED = st.sampled_from(
    [
        {"register": register, "digest": (digest * 48).hex(), "about": "kernel"}
        for register in ("rtmr1", "rtmr3")
        for digest in (b"k", b"l")
    ]
)


@st.composite
def payloads(draw: st.DrawFn) -> Any:
    values = [payload.hex() for payload in PAYLOADS]
    if draw(st.booleans()):
        return draw(st.sampled_from(values))
    return {"one_of": draw(st.permutations(values))}


@st.composite
def logs(draw: st.DrawFn) -> EventFacts | None:
    """What a log proves, or none sent; a register in it may be silent."""
    if draw(st.booleans()):
        return None
    shown = {
        register: tuple(
            EventFact(digest * 48, None)
            for digest in draw(st.lists(st.sampled_from([b"k", b"l"]), unique=True))
        )
        for register in draw(st.lists(st.sampled_from(["rtmr1", "rtmr3"]), unique=True))
    }
    return EventFacts(
        format=LogFormat.DSTACK,
        registers=shown,
        not_replayed=tuple({"rtmr1", "rtmr3"} - shown.keys()),
        boundary=True,
        identity=draw(
            st.dictionaries(st.sampled_from(EVENTS), st.sampled_from(PAYLOADS))
        ),
    )


WINDOWS = [
    {"from": "2026-01-01T00:00:00Z", "until": "2026-06-01T00:00:00Z"},
    {"from": "2026-09-01T00:00:00Z"},
    {"from": "2026-09-01T00:00:00Z", "until": "2026-12-01T00:00:00Z"},
    {"until": "2027-01-01T00:00:00Z"},
]
SIGNED_TIMES = st.sampled_from([0, 1_788_220_799, 1_788_220_800, NOW])
"""Before, and from the beginning of the windows of September on."""


@st.composite
def usages(draw: st.DrawFn) -> dict[str, Any] | None:
    if draw(SELDOM):
        return None
    rules: dict[str, Any] = {
        "windows": draw(st.lists(st.sampled_from(WINDOWS), max_size=2)),
        "first_platform": draw(st.booleans()),
        "without_anchor": draw(st.sampled_from(["accept", "refuse"])),
    }
    for limit in ("per_hour", "total"):
        if draw(st.booleans()):
            rules[limit] = draw(st.integers(2, 4))
    if not (rules["windows"] or rules["first_platform"] or len(rules) > 3):
        return None
    return rules


@st.composite
def keys(draw: st.DrawFn, purpose: str, identity: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["raw", "ed25519"]))
    return {
        "purpose": purpose,
        "type": kind,
        "labels": draw(st.sampled_from([[""], ["*"], ["x*"]])),
        "parts": draw(st.sampled_from([["private"], ["private", "public"]])),
        "adopted": identity == "named" and draw(st.booleans()),
        "usage": draw(usages()),
    }


CEDAR = [
    "permit(principal, action, resource);",
    'permit(principal, action, resource == Key::"disk");',
    'permit(principal, action, resource) when { context.image == "i1" };',
]


@st.composite
def images(draw: st.DrawFn, label: str) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    image: dict[str, Any] = {
        "label": label,
        "measurements": {name: draw(selectors(name)) for name in chosen},
    }
    image["events"] = {
        name: draw(payloads())
        for name in draw(st.lists(st.sampled_from(EVENTS), unique=True))
    }
    image["logged"] = draw(st.lists(LOGGED, max_size=2))
    if draw(SELDOM):
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
    identity = draw(st.sampled_from(["named", "measured"]))
    return {
        "tenant": draw(st.sampled_from(["a", "b"])),
        "name": name,
        "identity": identity,
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
            draw(keys(purpose, identity))
            for purpose in draw(
                st.lists(st.sampled_from(["disk", "tls"]), min_size=1, unique=True)
            )
        ],
        "cedar": draw(st.none() | st.sampled_from(CEDAR)),
    }


POLICIES = st.sampled_from([1, 1, 1, 2, 3]).flatmap(
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
        KeyRequest,
        st.sampled_from(["disk", "tls"]),
        st.sampled_from(["", "x", "y"]),
        st.just(32),
        st.sampled_from(KeyPart),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@dataclass(frozen=True)
class Asked:
    """A question to a policy."""

    claims: Claims
    events: EventFacts | None
    keys: tuple[KeyRequest, ...]
    signed_time: int


@st.composite
def questions(draw: st.DrawFn, rules: tuple[dict[str, Any], ...]) -> Asked:
    """What one workload of a policy would ask, of which some part may be another's."""
    workload = draw(st.sampled_from(rules))
    image = draw(st.sampled_from(workload["image"]))
    return Asked(
        claims=draw(evidence() if draw(SELDOM) else fitting_evidence(workload, image)),
        events=draw(logs() if draw(SELDOM) else fitting_logs(image)),
        keys=draw(REQUESTS if draw(SELDOM) else fitting_requests(workload)),
        signed_time=draw(SIGNED_TIMES) if draw(SELDOM) else NOW,
    )


@st.composite
def fitting_evidence(
    draw: st.DrawFn, workload: dict[str, Any], image: dict[str, Any]
) -> Claims:
    changed = {name: value(name, draw(SEEDS)) for name in NAMES}
    for name, rule in image["measurements"].items():
        fits = compile_selector(name, msgspec.convert(rule, SelectorValue), ()).holds
        values = [value(name, seed) for seed in range(3)]
        changed[name] = draw(st.sampled_from([v for v in values if fits(v)]))
    ppids = workload["platform"]
    ppid = bytes.fromhex(ppids[0]["ppid"]) if isinstance(ppids, list) else HERE.ppid
    return td(
        measurements=measured(Tee.TDX, **changed),
        platform=replace(HERE, ppid=ppid),
        tcb=tcb(
            TcbStatus(draw(st.sampled_from(workload["tcb"]["statuses"]))),
            evaluation_number=18,
        ),
    )


@st.composite
def fitting_logs(draw: st.DrawFn, image: dict[str, Any]) -> EventFacts:
    identity = {
        name: bytes.fromhex(rule if isinstance(rule, str) else rule["one_of"][0])
        for name, rule in image["events"].items()
    }
    for name in EVENTS:
        identity.setdefault(name, draw(st.sampled_from(PAYLOADS)))
    digests = {r["digest"] for r in image["logged"]} | {(b"m" * 48).hex()}
    facts = tuple(EventFact(bytes.fromhex(digest), None) for digest in sorted(digests))
    return EventFacts(
        format=LogFormat.DSTACK,
        registers=dict.fromkeys(("rtmr1", "rtmr3"), facts),
        not_replayed=(),
        boundary=True,
        identity=identity,
    )


@st.composite
def fitting_requests(
    draw: st.DrawFn, workload: dict[str, Any]
) -> tuple[KeyRequest, ...]:
    key = draw(st.sampled_from(workload["key"]))
    parts = key["parts"] if key["type"] != "raw" else ["private"]
    label = key["labels"][0].replace("*", draw(st.sampled_from(["", "x"])))
    part = KeyPart(draw(st.sampled_from(parts)))
    return (KeyRequest(key["purpose"], label, part=part),)


POLICIES_AND_QUESTIONS = POLICIES.flatmap(
    lambda rules: st.tuples(st.just(rules), questions(rules))
)

# SPDX-License-Identifier: Apache-2.0
"""Replay: exactly the register in the claims, identity once and before the boundary."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from eventlog_support import (
    APP_ID,
    BOOT,
    COMPOSE_HASH,
    INSTANCE_ID,
    KEY_PROVIDER,
    LATER,
    booted,
    claims_of,
    claims_with,
    runtime,
)
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.model.claims import Tee
from tightseal.policy.eventlog import (
    IDENTITY_EVENTS,
    EventFacts,
    LogFormat,
    replay_event_log,
)
from tightseal.policy.eventlog.facts import LATE_EVENTS
from tightseal.policy.eventlog.replay import ZERO_REGISTER, extend, replay
from tightseal_sim.intel.eventlog import Event, boot_event
from tightseal_sim.intel.eventlog_wire import to_ccel, to_dstack_json
from tightseal_sim.intel.td import TdImage
from tightseal_sim.world import World

Encoder = Callable[[Sequence[Event]], bytes]
ENCODERS: dict[str, Encoder] = {"ccel": to_ccel, "dstack": to_dstack_json}
NOW = 1_790_000_000


def refused(log: bytes, events: Sequence[Event]) -> Code:
    """The code with which a log is refused beside what a system really measured."""
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(log, claims_of(events))
    return caught.value.code


def refused_steps(steps: Sequence[tuple[str, bytes]]) -> Code:
    events = runtime(steps)
    return refused(to_dstack_json(events), events)


def facts_of(steps: Sequence[tuple[str, bytes]]) -> EventFacts:
    events = runtime(steps)
    return replay_event_log(to_dstack_json(events), claims_of(events))


# -- a simulated TD, through the verifier ------------------------------------------


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_a_verified_quote_and_its_log(encode: Encoder) -> None:
    world = World.in_memory(b"\x2b" * 32)
    td = world.intel.platform("host").launch_td(TdImage(boot_events=BOOT))
    before = td.event_log
    for name, payload in LATER:
        td.extend(3, (name, payload))
    platform = td.platform
    collateral = platform.world.collateral(
        fmspc=platform.fmspc, ca=platform.ca, tee=Tee.TDX, now=NOW
    )
    claims = verify_quote(
        td.evidence(bytes(64)),
        collateral,
        now=NOW,
        roots=(platform.world.trusted_root,),
    )
    facts = replay_event_log(encode(td.event_log), claims)
    assert facts.not_replayed == ()
    assert facts.digests("rtmr3") == tuple(e.digest for e in td.event_log[-9:])
    assert facts.boundary == (facts.format is LogFormat.DSTACK)
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(encode(before), claims)
    assert caught.value.code is Code.EVENT_LOG_MISMATCH


# -- laws ----------------------------------------------------------------------------

digests = st.lists(st.binary(min_size=48, max_size=48), max_size=12)


def test_a_register_begins_at_zero() -> None:
    assert replay([]) == ZERO_REGISTER == bytes(48)
    assert (
        extend(bytes(48), b"\1" * 48) == hashlib.sha384(bytes(48) + b"\1" * 48).digest()
    )


@given(first=digests, second=digests)
def test_replay_goes_on_where_it_stopped(
    first: list[bytes], second: list[bytes]
) -> None:
    assert replay(second, start=replay(first)) == replay([*first, *second])


@given(events=digests, last=st.binary(min_size=48, max_size=48))
def test_one_more_event_is_one_extension(events: list[bytes], last: bytes) -> None:
    assert replay([*events, last]) == extend(replay(events), last)
    assert replay([*events, last]) != replay(events)


@given(one=digests, other=digests)
def test_other_events_lead_elsewhere(one: list[bytes], other: list[bytes]) -> None:
    assert (replay(one) == replay(other)) == (one == other)


names = st.text("abcz -_./", max_size=8)
boot_events = st.builds(
    lambda register, data, logged: boot_event(
        register, 6, "", data, logged=data if logged else b""
    ),
    st.integers(0, 2),
    st.binary(min_size=1, max_size=16),
    st.booleans(),
)
runtime_steps = st.lists(st.tuples(names, st.binary(max_size=16)), max_size=5)
logs = st.builds(
    lambda boot, steps, version: [*boot, *runtime(steps, version=version)],
    st.lists(boot_events, min_size=1, max_size=6),
    runtime_steps,
    st.sampled_from([1, 2]),
)


@given(events=logs, encode=st.sampled_from(list(ENCODERS.values())))
def test_what_was_measured_is_what_is_read(
    events: list[Event], encode: Encoder
) -> None:
    facts = replay_event_log(encode(events), claims_of(events))
    for index in range(4):
        mine = [e for e in events if e.rtmr == index]
        read = facts.registers[f"rtmr{index}"]
        assert [e.digest for e in read] == [e.digest for e in mine]
        for fact, event in zip(read, mine, strict=True):
            assert fact.data in (None, event.payload)


@given(data=st.data(), events=logs, encode=st.sampled_from(list(ENCODERS.values())))
def test_any_single_change_of_what_was_measured_is_refused(
    data: st.DataObject, events: list[Event], encode: Encoder
) -> None:
    at = data.draw(st.integers(0, len(events) - 1))
    event = events[at]
    other = bytes(b ^ (i == 7) for i, b in enumerate(event.digest))
    changes = [
        [*events[:at], event, *events[at:]],
        [*events[:at], replace(event, digest=other), *events[at + 1 :]],
        [*events[:at], replace(event, rtmr=(event.rtmr + 1) % 4), *events[at + 1 :]],
    ]
    alone = sum(e.rtmr == event.rtmr for e in events) == 1
    if not (encode is to_ccel and event.rtmr == 3 and alone):
        changes.append([*events[:at], *events[at + 1 :]])
    for changed in changes:
        with pytest.raises(EvidenceError):
            replay_event_log(encode(changed), claims_of(events))


@given(
    data=st.data(),
    mask=st.integers(1, 255),
    encode=st.sampled_from(list(ENCODERS.values())),
)
def test_no_changed_byte_changes_what_is_proven(
    data: st.DataObject, mask: int, encode: Encoder
) -> None:
    """A byte that no digest covers may change; digests and payloads may not."""
    events = booted()
    log = encode(events)
    at = data.draw(st.integers(0, len(log) - 1))
    changed = log[:at] + bytes([log[at] ^ mask]) + log[at + 1 :]
    good = replay_event_log(log, claims_of(events))
    try:
        facts = replay_event_log(changed, claims_of(events))
    except EvidenceError:
        return
    assert facts.identity == good.identity
    for name, expected in good.registers.items():
        for fact, true in zip(facts.registers[name], expected, strict=True):
            assert (fact.digest, fact.name) == (true.digest, true.name)
            assert fact.data in (None, true.data)


# -- tampering with a whole log ------------------------------------------------------

EVENTS = booted()
AT = {e.name: i for i, e in enumerate(EVENTS)}


def swapped(one: str, other: str) -> list[Event]:
    found = list(EVENTS)
    found[AT[one]], found[AT[other]] = found[AT[other]], found[AT[one]]
    return found


def put(name: str, **fields: object) -> list[Event]:
    found = list(EVENTS)
    found[AT[name]] = replace(EVENTS[AT[name]], **fields)  # type: ignore[arg-type]
    return found


TAMPERED: dict[str, list[Event]] = {
    "first_dropped": EVENTS[1:],
    "last_dropped": EVENTS[:-1],
    "middle_dropped": [e for e in EVENTS if e.name != "kernel"],
    "added": [*EVENTS, EVENTS[0]],
    "repeated": [EVENTS[0], *EVENTS],
    "reordered": swapped("td_hob", "SecureBoot"),
    "runtime_events_reordered": swapped("system-preparing", "init-script-hash"),
    "digest_of_another_kernel": put("kernel", digest=b"\x12" * 48),
    "wrong_register": put("kernel", rtmr=2),
}


@pytest.mark.parametrize("name", TAMPERED)
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_tampering_is_refused(name: str, encode: Encoder) -> None:
    assert refused(encode(TAMPERED[name]), EVENTS) is Code.EVENT_LOG_MISMATCH


def test_the_refusal_names_both_values() -> None:
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(to_ccel(EVENTS[1:]), claims_of(EVENTS))
    expected = claims_of(EVENTS).measurements["rtmr0"].hex()
    assert expected in caught.value.detail
    assert caught.value.public == "The evidence was refused."


def test_order_between_registers_is_nothing_that_a_register_proves() -> None:
    shuffled = sorted(EVENTS, key=lambda e: -e.rtmr)
    assert shuffled != EVENTS
    facts = [
        replay_event_log(to_dstack_json(log), claims_of(EVENTS))
        for log in (EVENTS, shuffled)
    ]
    assert facts[0].registers == facts[1].registers
    assert not any(e.before_boundary for e in facts[0].registers["rtmr1"])


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.SNP])
def test_other_evidence_has_no_such_log(tee: Tee) -> None:
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(to_ccel(EVENTS), claims_with(tee=tee))
    assert caught.value.code is Code.EVIDENCE_KIND_UNSUPPORTED


@pytest.mark.parametrize("log", [b"", b"{}", b"\0" * 100, b"Spec ID Event03\0"])
def test_neither_format_is_refused(log: bytes) -> None:
    assert refused(log, EVENTS) is Code.EVENT_LOG_MALFORMED


# -- registers that the log is silent about -------------------------------------------


def test_a_boot_log_may_be_silent_about_rtmr3() -> None:
    boot = [e for e in EVENTS if e.rtmr != 3]
    facts = replay_event_log(to_ccel(boot), claims_of(EVENTS))
    assert facts.not_replayed == ("rtmr3",)
    assert "rtmr3" not in facts.registers
    assert facts.digests("rtmr3") is None
    assert facts.identity == {}


@pytest.mark.parametrize("register", range(4))
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_silence_about_another_register_is_refused(
    register: int, encode: Encoder
) -> None:
    rest = [e for e in EVENTS if e.rtmr != register]
    if register == 3 and encode is to_ccel:
        assert replay_event_log(encode(rest), claims_of(EVENTS)).not_replayed
        return
    assert refused(encode(rest), EVENTS) is Code.EVENT_LOG_MISMATCH


def test_a_register_at_zero_has_no_events() -> None:
    boot = [e for e in EVENTS if e.rtmr != 3]
    facts = replay_event_log(to_ccel(boot), claims_of(boot))
    assert facts.not_replayed == ()
    assert facts.digests("rtmr3") == ()


# -- identity ------------------------------------------------------------------------


def test_identity_of_a_booted_system() -> None:
    facts = facts_of([*BOOT, *LATER])
    assert facts.boundary
    assert facts.identity == {
        "app-id": APP_ID,
        "compose-hash": COMPOSE_HASH,
        "instance-id": INSTANCE_ID,
    }
    before = [e.before_boundary for e in facts.registers["rtmr3"]]
    assert before == [True] * (len(BOOT) - 1) + [False] * (1 + len(LATER))


def test_facts_cannot_be_changed() -> None:
    facts = facts_of(BOOT)
    with pytest.raises(TypeError):
        facts.identity["app-id"] = b""  # type: ignore[index]
    with pytest.raises(TypeError):
        facts.registers["rtmr3"] = ()  # type: ignore[index]
    with pytest.raises(AttributeError):
        facts.boundary = False  # type: ignore[misc]


@pytest.mark.parametrize("name", IDENTITY_EVENTS)
def test_an_identity_event_counts_before_the_boundary(name: str) -> None:
    facts = facts_of([(name, b"\x01x"), ("boot-mr-done", b"")])
    assert facts.identity == {name: b"\x01x"}


@pytest.mark.parametrize("name", IDENTITY_EVENTS)
@pytest.mark.parametrize("gap", [(), (("boot-mr-done", b""),)])
def test_an_identity_event_twice_is_refused(
    name: str, gap: tuple[tuple[str, bytes], ...]
) -> None:
    steps = [(name, b"\x01"), *gap, (name, b"\x01")]
    assert refused_steps(steps) is Code.EVENT_LOG_DUPLICATE


@pytest.mark.parametrize("name", sorted(LATE_EVENTS))
def test_a_late_event_twice_is_refused(name: str) -> None:
    steps = [("boot-mr-done", b""), (name, b"\x01"), (name, b"\x02")]
    assert refused_steps(steps) is Code.EVENT_LOG_DUPLICATE


@pytest.mark.parametrize("name", sorted(set(IDENTITY_EVENTS) - LATE_EVENTS))
def test_an_identity_event_after_the_boundary_is_refused(name: str) -> None:
    steps = [("boot-mr-done", b""), (name, b"\x01")]
    assert refused_steps(steps) is Code.EVENT_LOG_MISPLACED


@pytest.mark.parametrize("name", sorted(LATE_EVENTS))
def test_what_dstack_measures_late_counts_for_nothing_there(name: str) -> None:
    facts = facts_of([*BOOT, (name, KEY_PROVIDER)])
    assert name not in facts.identity
    assert facts.registers["rtmr3"][-1].data == KEY_PROVIDER
    assert not facts.registers["rtmr3"][-1].before_boundary


def test_without_a_boundary_nothing_counts() -> None:
    facts = facts_of(BOOT[:-1])
    assert not facts.boundary
    assert facts.identity == {}
    assert not any(e.before_boundary for e in facts.registers["rtmr3"])


def test_two_boundaries_are_refused() -> None:
    steps = [*BOOT, ("boot-mr-done", b"")]
    assert refused_steps(steps) is Code.EVENT_LOG_DUPLICATE


def test_a_boundary_with_a_payload_is_refused() -> None:
    assert refused_steps([("boot-mr-done", b"x")]) is Code.EVENT_LOG_MALFORMED


@pytest.mark.parametrize("value", [b"", bytes(20)])
def test_an_empty_or_zero_identity_matches_nothing(value: bytes) -> None:
    facts = facts_of([("app-id", value), ("boot-mr-done", b"")])
    assert facts.identity == {}


def test_other_events_may_repeat_on_both_sides() -> None:
    scripts = ("init-script-hash", b"\x07")
    facts = facts_of([scripts, scripts, ("boot-mr-done", b""), scripts])
    assert [e.name for e in facts.registers["rtmr3"]].count("init-script-hash") == 3


def test_a_later_identity_cannot_replace_the_first() -> None:
    """The workload's own events come after the boundary; they are no identity."""
    events = runtime(BOOT)
    forged = runtime([*BOOT[:1], ("app-id", b"\x99" * 20), *BOOT[2:]])
    assert refused(to_dstack_json(forged), events) is Code.EVENT_LOG_MISMATCH
    assert refused_steps([*BOOT, ("app-id", b"\x99" * 20)]) is Code.EVENT_LOG_DUPLICATE

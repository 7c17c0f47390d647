# SPDX-License-Identifier: Apache-2.0
"""Images selected by what an event log proves: logs that fit, and logs that do not."""

from dataclasses import dataclass, replace

import pytest
from eventlog_support import (
    APP_ID,
    BOOT,
    COMPOSE_HASH,
    INSTANCE_ID,
    KEY_PROVIDER,
    LATER,
    booted,
    runtime,
)
from policy_support import NOW, ask, circumstances, document, registers, td, value

from tightseal.errors import Code, PolicyError
from tightseal.model.claims import Claims
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import explain
from tightseal.policy.eventlog import EventFacts, replay_event_log
from tightseal.policy.lint import LintId, lint
from tightseal.policy.presented import present
from tightseal.policy.read import parse
from tightseal_sim.intel.eventlog import Event, replay
from tightseal_sim.intel.eventlog_wire import to_ccel, to_dstack_json
from tightseal_sim.intel.td import TdImage

NOT_ACCEPTED = Code.MEASUREMENTS_NOT_ACCEPTED
OTHER = "cd" * 32
KERNEL = next(e.digest for e in TdImage().boot_log() if e.rtmr == 1)


@dataclass(frozen=True)
class Sent:
    """Evidence with the log sent beside it."""

    claims: Claims
    events: EventFacts | None


def sent(log: list[Event], *, ccel: bytes | None = None) -> Sent:
    """Claims of a TD that measured a log, and what the replay of it proves."""
    names = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
    claims = registers(**dict(zip(names, replay(log), strict=True)))
    wire = to_dstack_json(log) if ccel is None else ccel
    return Sent(claims, replay_event_log(wire, claims))


def without_log(whole: Sent) -> Sent:
    return Sent(whole.claims, None)


BOOTED = sent(booted())
PINNED = "\n".join(
    f'{name} = "{BOOTED.claims.measurements[name].hex()}"'
    for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2")
)
COMPOSE = f'compose-hash = "{COMPOSE_HASH.hex()}"'
APP = f'app-id = "{APP_ID.hex()}"'


def selecting(events: str, *, measurements: str = PINNED, more: str = "") -> str:
    return document(
        measurements=f"{measurements}\n[workload.image.events]\n{events}\n{more}",
        leave_out=("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"),
    )


def logging(register: str, *digests: bytes, about: str = "kernel") -> str:
    listed = ", ".join(f'"{digest.hex()}"' for digest in digests)
    rule = f'{{ register = "{register}", digest = [{listed}], about = "{about}" }}'
    return document(
        image=f"logged = [{rule}]",
        measurements=PINNED,
        leave_out=("rtmr3",),
    )


def with_steps(*steps: tuple[str, bytes]) -> Sent:
    return sent([*TdImage().boot_log(), *runtime(steps)])


def another_compose() -> Sent:
    steps = [(n, b"\x23" * 32 if n == "compose-hash" else d) for n, d in BOOT]
    return with_steps(*steps)


def no_compose() -> Sent:
    steps = [step for step in BOOT if step[0] != "compose-hash"]
    return with_steps(*steps, *LATER)


def no_boundary() -> Sent:
    return with_steps(*BOOT[:-1])


def silent_register() -> Sent:
    """A CCEL that says nothing of RTMR3."""
    log = booted()
    return sent(log, ccel=to_ccel([e for e in log if e.rtmr != 3]))


CASES: dict[str, tuple[str, Sent, Sent]] = {
    "another_value": (selecting(COMPOSE), BOOTED, another_compose()),
    "one_of": (
        selecting(f'compose-hash = {{ one_of = ["{OTHER}", "{COMPOSE_HASH.hex()}"] }}'),
        BOOTED,
        another_compose(),
    ),
    "no_log": (selecting(COMPOSE), BOOTED, without_log(BOOTED)),
    "event_not_in_the_log": (selecting(COMPOSE), BOOTED, no_compose()),
    "no_boundary": (selecting(COMPOSE), BOOTED, no_boundary()),
    "log_without_the_register": (selecting(COMPOSE), BOOTED, silent_register()),
    "two_events": (
        selecting(f'{APP}\ninstance-id = "{INSTANCE_ID.hex()}"'),
        BOOTED,
        with_steps(*[s for s in BOOT if s[0] != "instance-id"]),
    ),
    "late_event_before_the_boundary": (
        selecting(f'key-provider = "{KEY_PROVIDER.hex()}"'),
        with_steps(*BOOT[:-1], LATER[0], BOOT[-1]),
        BOOTED,
    ),
    "logged": (
        logging("rtmr1", KERNEL),
        BOOTED,
        without_log(BOOTED),
    ),
    "logged_any_of": (
        logging("rtmr1", b"\xee" * 48, KERNEL),
        BOOTED,
        without_log(BOOTED),
    ),
    "logged_in_a_silent_register": (
        logging("rtmr3", runtime(BOOT)[1].digest, about="app"),
        BOOTED,
        silent_register(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_granted(name: str) -> None:
    text, yes, _ = CASES[name]
    grant = ask(yes.claims, text, events=yes.events)
    assert (grant.workload, grant.image) == ("default/database", "2026-10")
    assert all(reason.satisfied for reason in grant.reasons)


@pytest.mark.parametrize("name", CASES)
def test_denied(name: str) -> None:
    text, _, no = CASES[name]
    with pytest.raises(PolicyError) as caught:
        ask(no.claims, text, events=no.events)
    assert caught.value.code is NOT_ACCEPTED


def test_a_digest_in_another_register_is_not_the_one_asked_for() -> None:
    with pytest.raises(PolicyError) as caught:
        ask(BOOTED.claims, logging("rtmr2", KERNEL), events=BOOTED.events)
    assert caught.value.code is NOT_ACCEPTED


def test_a_key_by_name_outlives_an_instance() -> None:
    """RTMR3 is another one for each instance; the compose hash is not."""
    steps = [(n, b"\x34" * 20 if n == "instance-id" else d) for n, d in BOOT]
    other = with_steps(*steps, *LATER)
    assert other.claims.measurements["rtmr3"] != BOOTED.claims.measurements["rtmr3"]
    text = selecting(COMPOSE)
    paths = [ask(s.claims, text, events=s.events).paths for s in (BOOTED, other)]
    assert paths[0] == paths[1]


def reasons(text: str, found: Sent) -> dict[str, tuple[str, str, bool]]:
    told = explain(
        found.claims,
        keys=(),
        policy=load_policy(text),
        circumstances=circumstances(),
        now=NOW,
        events=found.events,
    )
    return {r.rule: (r.expected, r.got, r.satisfied) for r in told.reasons}


def test_the_trace_names_events_and_what_they_stand_for() -> None:
    wanted, shown = COMPOSE_HASH.hex(), "23" * 32
    rule = "event:compose-hash"
    assert reasons(selecting(COMPOSE), BOOTED)[rule] == (wanted, wanted, True)
    got = reasons(selecting(COMPOSE), another_compose())[rule]
    assert got == (wanted, shown, False)
    absent = reasons(selecting(COMPOSE), without_log(BOOTED))[rule]
    assert absent == (wanted, "absent", False)


@pytest.mark.parametrize(
    ("found", "got"),
    [
        (BOOTED, "not among 4 digests"),
        (without_log(BOOTED), "no event log"),
    ],
    ids=["other_digests", "no_log"],
)
def test_the_trace_says_why_a_digest_is_missing(found: Sent, got: str) -> None:
    wanted = b"\xee" * 48
    found_reasons = reasons(logging("rtmr1", wanted), found)
    assert found_reasons["kernel in rtmr1"] == (wanted.hex(), got, False)


def test_the_trace_tells_a_silent_register_from_an_empty_one() -> None:
    text = logging("rtmr3", b"\xee" * 48)
    silent = reasons(text, silent_register())["kernel in rtmr3"]
    assert silent[1] == "not replayed"
    empty = reasons(text, with_steps())["kernel in rtmr3"]
    assert empty[1] == "not among 0 digests"


def test_a_denial_names_the_event_that_differs() -> None:
    found = another_compose()
    with pytest.raises(PolicyError) as caught:
        ask(found.claims, selecting(COMPOSE), events=found.events)
    assert caught.value.detail.startswith(
        "event:compose-hash differs; all else matches image 2026-10"
    )


def fleet(count: int) -> list[str]:
    """Applications on one base system, told apart by their compose files alone."""
    return [
        selecting(f'compose-hash = "{n + 1:064x}"').replace("database", f"n{n}")
        for n in range(count)
    ]


def test_many_applications_are_found_by_their_compose_hash() -> None:
    texts = fleet(100)
    data = (71).to_bytes(32, "big")
    found = with_steps(
        *[(n, data if n == "compose-hash" else d) for n, d in BOOT], *LATER
    )
    policy = load_policy(texts)
    assert len(policy.index.candidates(present(found.claims, found.events))) == 1
    assert ask(found.claims, texts, events=found.events).workload == "default/n70"
    assert not policy.index.candidates(present(found.claims, None))


def test_compose_hashes_tell_workloads_apart() -> None:
    def overlapping(texts: list[str]) -> bool:
        found = lint([parse(text) for text in texts], now=NOW)
        return LintId.WORKLOADS_OVERLAP in {finding.id for finding in found}

    assert not overlapping(fleet(2))
    # One log may show the digests of both, so these can fit one piece of evidence.
    texts = [logging("rtmr1", digest) for digest in (KERNEL, b"\xee" * 48)]
    assert overlapping([texts[0], texts[1].replace("database", "other")])


def test_an_image_of_logged_digests_alone_fits_nothing() -> None:
    """Whoever's firmware runs extends any digest."""
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    rule = f'{{ register = "rtmr1", digest = "{KERNEL.hex()}" }}'
    text = document(image=f"logged = [{rule}]", leave_out=names)
    with pytest.raises(PolicyError) as caught:
        ask(BOOTED.claims, text, events=BOOTED.events)
    assert caught.value.code is NOT_ACCEPTED


def test_events_of_a_log_never_stand_for_measurements() -> None:
    """Not even a log whose identity was named after one."""
    assert BOOTED.events is not None
    forged = replace(BOOTED.events, identity={"mrtd": value("mrtd", 5)})
    values = present(td(), forged).values
    assert values["mrtd"] == value("mrtd")

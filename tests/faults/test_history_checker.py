# SPDX-License-Identifier: Apache-2.0
"""The checker itself: it takes every good history, and none of the known bad ones."""

import itertools
import math
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from history_checker import (
    UNKNOWN,
    NotLinearizableError,
    Operation,
    Specification,
    UndecidedError,
    check,
    explain,
)
from history_specs import (
    GRANTED,
    LIMITED,
    REFUSED,
    REPLAYED,
    MinuteAllowance,
    Nonce,
    ReadTotal,
    Redeem,
    Release,
    Response,
    UsageCounter,
)

ASK = Release()
READ = ReadTotal()
ANSWER, OTHER = Response("aa"), Response("bb")


def op(call: Any, began: float, ended: float | None, answer: Any) -> Operation:
    return Operation("it", call, began, ended, answer)


BAD: dict[str, tuple[Specification[Any], list[Operation]]] = {
    "lost_update": (
        UsageCounter(total=10),
        [op(ASK, 0, 1, GRANTED), op(ASK, 0, 1, GRANTED), op(READ, 2, 3, 1)],
    ),
    "double_grant_of_the_last_unit": (
        UsageCounter(total=1),
        [op(ASK, 0, 2, GRANTED), op(ASK, 1, 3, GRANTED)],
    ),
    "one_request_counted_twice": (
        UsageCounter(total=10),
        [
            op(Release("r"), 0, 1, GRANTED),
            op(Release("r"), 2, 3, GRANTED),
            op(READ, 4, 5, 2),
        ],
    ),
    "stale_read": (
        UsageCounter(total=10),
        [
            op(ASK, 0, 1, GRANTED),
            op(ASK, 2, 3, GRANTED),
            op(READ, 4, 5, 2),
            op(READ, 6, 7, 1),
        ],
    ),
    "read_of_what_was_not_written_yet": (
        UsageCounter(total=10),
        [op(READ, 0, 1, 1), op(ASK, 2, 3, GRANTED)],
    ),
    "refused_while_there_was_room": (
        UsageCounter(total=2),
        [op(ASK, 0, 1, GRANTED), op(ASK, 2, 3, LIMITED), op(ASK, 4, 5, GRANTED)],
    ),
    "granted_after_a_refusal": (
        UsageCounter(total=1),
        [op(ASK, 0, 5, GRANTED), op(ASK, 0, 1, LIMITED), op(ASK, 6, 7, GRANTED)],
    ),
    "retry_of_a_counted_request_refused": (
        UsageCounter(total=1),
        [op(Release("r"), 0, 1, GRANTED), op(Release("r"), 2, 3, LIMITED)],
    ),
    "unit_lost_by_nobody": (
        UsageCounter(total=3),
        [op(ASK, 0, 1, GRANTED), op(ASK, 2, 3, UNKNOWN), op(READ, 4, 5, 3)],
    ),
    "unknown_done_after_it_was_answered": (
        UsageCounter(total=3),
        [op(ASK, 0, 1, UNKNOWN), op(READ, 2, 3, 0), op(READ, 4, 5, 1)],
    ),
    "hour_filled_twice_by_a_clock_set_back": (
        UsageCounter(per_hour=2),
        [
            op(Release(times=(7200,)), 0, 1, GRANTED),
            op(Release(times=(7200,)), 2, 3, GRANTED),
            op(Release(times=(3600,)), 4, 5, GRANTED),
        ],
    ),
    "hour_filled_twice_within_it": (
        UsageCounter(per_hour=1),
        [
            op(Release(times=(0,)), 0, 1, GRANTED),
            op(Release(times=(3599,)), 2, 3, GRANTED),
        ],
    ),
    "minute_gives_more_than_its_limit": (
        MinuteAllowance(2),
        [op(ASK, at, at + 1.5, GRANTED) for at in range(3)],
    ),
    "nonce_answered_twice": (
        Nonce(),
        [op(Redeem("a"), 0, 1, ANSWER), op(Redeem("a"), 2, 3, OTHER)],
    ),
    "nonce_answered_to_two_requests": (
        Nonce(),
        [op(Redeem("a"), 0, 3, ANSWER), op(Redeem("b"), 1, 2, OTHER)],
    ),
    "same_answer_to_two_requests": (
        Nonce(),
        [op(Redeem("a"), 0, 3, ANSWER), op(Redeem("b"), 1, 2, ANSWER)],
    ),
    "replayed_said_of_a_new_nonce": (Nonce(), [op(Redeem("a"), 0, 1, REPLAYED)]),
    "replayed_said_of_a_retry": (
        Nonce(),
        [op(Redeem("a"), 0, 1, ANSWER), op(Redeem("a"), 2, 3, REPLAYED)],
    ),
    "nonce_of_another_node_answered": (
        Nonce(),
        [op(Redeem("a", home=False), 0, 1, ANSWER)],
    ),
}


@pytest.mark.parametrize("defect", BAD)
def test_known_bad_history_is_rejected(defect: str) -> None:
    spec, history = BAD[defect]
    with pytest.raises(NotLinearizableError):
        explain(history, spec)


GOOD: dict[str, tuple[Specification[Any], list[Operation]]] = {
    "empty": (Nonce(), []),
    "concurrent_grants_in_either_order": (
        UsageCounter(total=2),
        [op(ASK, 0, 9, GRANTED), op(ASK, 1, 2, GRANTED), op(ASK, 1, 9, LIMITED)],
    ),
    "unanswered_was_done": (
        UsageCounter(total=1),
        [op(ASK, 0, None, UNKNOWN), op(ASK, 5, 6, LIMITED)],
    ),
    "unanswered_was_never_done": (
        UsageCounter(total=1),
        [op(ASK, 0, None, UNKNOWN), op(ASK, 5, 6, GRANTED), op(READ, 7, 8, 1)],
    ),
    "unanswered_was_done_late": (
        UsageCounter(total=2),
        [op(ASK, 0, None, UNKNOWN), op(READ, 5, 6, 0), op(READ, 7, 8, 1)],
    ),
    "retry_after_the_limit": (
        UsageCounter(total=1),
        [
            op(Release("r"), 0, 1, UNKNOWN),
            op(ASK, 2, 3, LIMITED),
            op(Release("r"), 4, 5, GRANTED),
        ],
    ),
    "hour_is_over": (
        UsageCounter(per_hour=1),
        [
            op(Release(times=(0,)), 0, 1, GRANTED),
            op(Release(times=(3599,)), 2, 3, LIMITED),
            op(Release(times=(3599, 3600)), 4, 5, GRANTED),
        ],
    ),
    "minute_refuses_early": (
        MinuteAllowance(2),
        [op(ASK, 0, 1, GRANTED), op(ASK, 2, 3, REFUSED), op(ASK, 4, 5, GRANTED)],
    ),
    "retries_get_the_same": (
        Nonce(),
        [
            op(Redeem("a"), 0, None, UNKNOWN),
            op(Redeem("a"), 1, 2, ANSWER),
            op(Redeem("b"), 1, 3, REPLAYED),
            op(Redeem("b", home=False), 1, 3, REFUSED),
            op(Redeem("a"), 4, 5, ANSWER),
        ],
    ),
    "unanswered_redemption_shuts_others_out": (
        Nonce(),
        [op(Redeem("a"), 0, None, UNKNOWN), op(Redeem("b"), 1, 3, REPLAYED)],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_history_is_explained(name: str) -> None:
    spec, history = GOOD[name]
    order = explain(history, spec)
    assert {id(o) for o in history if o.ended is not None} <= {id(o) for o in order}
    replay(order, spec)


def replay(order: Sequence[Operation], spec: Specification[Any]) -> None:
    """The order itself keeps the times, and the specification takes it."""
    for earlier, later in itertools.combinations(order, 2):
        assert later.end >= earlier.began
    states = {spec.first()}
    for operation in order:
        states = {
            after
            for state in states
            for after in spec.after(state, operation.call, operation.answer)
        }
        assert states


# -- against an object that is right by construction, and against brute force ------


def history_of(
    spec: Specification[Any], random: Random, *, count: int, clients: int
) -> list[Operation]:
    """What clients see of one real object; answers are sometimes lost.

    Each operation takes effect at one moment between its begin and its end.
    """
    state: Any = spec.first()
    free = [0.0] * clients
    moments = []
    for _ in range(count):
        client = random.randrange(clients)
        began = free[client] + random.random()
        effect = began + random.random() * 3
        free[client] = effect + random.random() * 3
        moments.append((effect, began, free[client]))
    history = []
    for effect, began, ended in sorted(moments):
        call, answers = a_call(spec, random, now=int(effect * 200))
        fitting = [(a, list(spec.after(state, call, a))) for a in answers]
        answer, states = random.choice([f for f in fitting if f[1]])
        state = random.choice(states)
        lost = random.random()
        if lost < 0.1:
            history.append(op(call, began, None, UNKNOWN))
        elif lost < 0.2:
            history.append(op(call, began, ended, UNKNOWN))
        else:
            history.append(op(call, began, ended, answer))
    return history


def a_call(
    spec: Specification[Any], random: Random, *, now: int
) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(spec, Nonce):
        name = random.choice("abc")
        return Redeem(name), (Response(name), REPLAYED)
    if random.random() < 0.2 and isinstance(spec, UsageCounter):
        return READ, tuple(range(200))
    tag = random.choice([None, None, "r1", "r2", "r3"])
    return Release(tag, (now,)), (GRANTED, LIMITED)


SPECS: dict[str, Specification[Any]] = {
    "total": UsageCounter(total=8),
    "per_hour": UsageCounter(per_hour=5),
    "nonce": Nonce(),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("seed", range(8))
def test_what_a_real_object_does_is_explained(
    spec: Specification[Any], seed: int
) -> None:
    history = history_of(spec, Random(seed), count=60, clients=5)
    replay(explain(history, spec), spec)


def by_brute_force(history: Sequence[Operation], spec: Specification[Any]) -> bool:
    """Every subset of the unanswered, in every order."""
    known = [o for o in history if o.ended is not None]
    unanswered = [o for o in history if o.ended is None]
    for many in range(len(unanswered) + 1):
        for chosen in itertools.combinations(unanswered, many):
            for order in itertools.permutations([*known, *chosen]):
                try:
                    replay(order, spec)
                except AssertionError:
                    continue
                return True
    return False


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_search_says_what_brute_force_says(spec: Specification[Any]) -> None:
    """Small histories, half of them with an answer changed to a wrong one."""
    said = []
    for seed in range(50):
        random = Random(seed)
        small = UsageCounter(total=2) if isinstance(spec, UsageCounter) else spec
        small = UsageCounter(per_hour=2) if spec is SPECS["per_hour"] else small
        history = history_of(small, random, count=5, clients=3)
        if seed % 2:
            at = random.randrange(len(history))
            old = history[at]
            _, answers = a_call(small, random, now=0)
            if old.call == READ:
                answers = (0, 1, 2, 3)
            history[at] = op(
                old.call, old.began, old.ended or old.began + 9, random.choice(answers)
            )
        try:
            explain(history, small)
        except NotLinearizableError:
            said.append(False)
        else:
            said.append(True)
        assert said[-1] == by_brute_force(history, small), f"seed {seed}"
    # Both verdicts were compared, or this compares nothing.
    assert 4 < said.count(False) < 46


def test_one_wrong_read_among_thousands_is_found() -> None:
    random = Random(5)
    spec = UsageCounter(total=1200)
    history, total = [], 0
    for at in range(300):
        for client in range(4):
            total += 1
            history.append(op(ASK, at + client * 0.1, at + 0.9, GRANTED))
        history.append(op(READ, at + 0.92, at + 0.95, total))
    explain(history, spec)
    at = random.choice([i for i, o in enumerate(history) if o.call == READ])
    wrong = history[at]
    history[at] = op(READ, wrong.began, wrong.ended, wrong.answer - 1)
    with pytest.raises(NotLinearizableError, match="can be explained"):
        explain(history, spec)


def test_many_unanswered_alike_are_one_question() -> None:
    """2 to the power of 60 subsets, and 61 that differ."""
    lost = [op(ASK, at, None, UNKNOWN) for at in range(60)]
    spec = UsageCounter(total=100)
    explain([*lost, op(READ, 70, 71, 37)], spec)
    with pytest.raises(NotLinearizableError):
        explain([*lost, op(READ, 70, 71, 61)], spec)


def test_a_search_without_an_end_is_no_verdict() -> None:
    lost = [op(Release(f"r{at}"), at, None, UNKNOWN) for at in range(40)]
    spec = UsageCounter(total=100)
    with pytest.raises(UndecidedError):
        explain([*lost, op(READ, 50, 51, 41)], spec, max_steps=2000)


def test_objects_are_judged_one_by_one() -> None:
    ours = [Operation("a", ASK, 0, 1, GRANTED), Operation("b", ASK, 2, None)]
    judged = check(ours, lambda _name: UsageCounter(total=1))
    assert (judged.objects, judged.operations, judged.unanswered) == (2, 2, 1)
    twice = [*ours, Operation("a", ASK, 2, 3, GRANTED)]
    with pytest.raises(NotLinearizableError, match=r"^a: "):
        check(twice, lambda _name: UsageCounter(total=1))
    with pytest.raises(ValueError, match="ended before"):
        check([Operation("a", ASK, 1, 0, GRANTED)], lambda _name: UsageCounter(total=1))
    assert math.isinf(ours[1].end)

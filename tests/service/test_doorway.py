# SPDX-License-Identifier: Apache-2.0
"""Where strangers wait while they are a flood: turns, room, and what does not wait."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from service_harness import (
    Running,
    ScriptedProvider,
    ask_http,
    connect,
    http_request,
    parse_http,
    receive_all,
    running,
    scripted_settings,
    until,
)

from tightseal.model import wire
from tightseal.model.wire_operator import POLICY_PATH
from tightseal.service.connections import Phase
from tightseal.service.doorway import AFTERWARDS, AT_ONCE, GRACE_SECONDS, Doorway
from tightseal.service.listen_settings import HttpSettings


@dataclass(eq=False)
class Guest:
    peer: str
    came_in: list["Guest"]
    phase: Phase = Phase.READING

    def let_in(self) -> None:
        self.phase = Phase.SERVING
        self.came_in.append(self)


@dataclass
class Rig:
    """A doorway by a clock of its own."""

    pressed: bool = True
    known: set[str] = field(default_factory=set)
    came_in: list[Guest] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.time = lambda: self.now  # type: ignore[method-assign]
        self.doorway = Doorway(
            self.loop,
            pressed=lambda: self.pressed,
            known=lambda source: source in self.known,
        )

    def guests(self, source: str, count: int) -> list[Guest]:
        made = [Guest(source, self.came_in) for _ in range(count)]
        for guest in made:
            self.doorway.wait(guest)
        return made

    def sources(self) -> list[str]:
        return [guest.peer for guest in self.came_in]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.loop.close()


def test_only_strangers_wait_and_only_in_a_flood(rig: Rig) -> None:
    rig.known.add("a friend")
    assert rig.doorway.closed_to("a stranger")
    assert not rig.doorway.closed_to("a friend")
    rig.pressed = False
    assert not rig.doorway.closed_to("a stranger")


def test_few_are_let_in_at_once_and_the_next_when_one_was_answered(rig: Rig) -> None:
    rig.guests("one", AT_ONCE + 3)
    assert len(rig.came_in) == AT_ONCE
    rig.doorway.leave(rig.came_in[0])
    assert len(rig.came_in) == AT_ONCE + 1
    assert len(rig.doorway) == 2


def test_sources_take_turns_whatever_they_send(rig: Rig) -> None:
    inside = rig.guests("first", AT_ONCE)
    rig.guests("many", 50)
    rig.guests("few", 2)
    for guest in inside:
        rig.doorway.leave(guest)
    assert rig.sources()[AT_ONCE:] == ["many", "few", "many", "few"]


def test_who_does_not_go_on_keeps_nobody_waiting(rig: Rig) -> None:
    for guest in rig.guests("slow", AT_ONCE):
        guest.phase = Phase.READING
    rig.guests("next", 1)
    assert len(rig.came_in) == AT_ONCE
    rig.now += GRACE_SECONDS + 0.01
    rig.guests("one more", 1)
    assert rig.sources()[AT_ONCE:] == ["next", "one more"]


def test_who_is_gone_is_not_let_in(rig: Rig) -> None:
    rig.guests("inside", AT_ONCE)
    (gone,) = rig.guests("gone", 1)
    rig.doorway.leave(gone)
    rig.doorway.leave(rig.came_in[0])
    assert gone not in rig.came_in
    assert len(rig.doorway) == 0


def test_after_the_flood_they_come_in_by_and_by(rig: Rig) -> None:
    rig.guests("many", AT_ONCE + AFTERWARDS + 5)
    rig.pressed = False
    rig.doorway.leave(rig.came_in[0])
    assert len(rig.came_in) == AT_ONCE + AFTERWARDS
    assert len(rig.doorway) == 5


def test_at_the_end_of_the_worker_nobody_waits_any_more(rig: Rig) -> None:
    rig.guests("many", 200)
    rig.doorway.open()
    assert len(rig.came_in) == 200
    assert not rig.doorway.closed_to("many")


# -- over sockets -------------------------------------------------------------------


def press(run: Running) -> None:
    """As where strangers mostly fail while somebody known is about."""

    def set_now() -> None:
        run.front.pool._failing = 1.0
        run.front.pool._known_at = run.loop.time() + 1000

    run.loop.call_soon_threadsafe(set_now)
    until(lambda: run.front.pool._failing == 1.0)


def ask_all(run: Running, count: int, body: bytes) -> list[threading.Thread]:
    threads = [
        threading.Thread(
            target=ask_http, args=(run.http_port, "POST", wire.KEYS_PATH, body)
        )
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("size", [2, 200_000], ids=["short", "longer than read ahead"])
def test_strangers_wait_unanswered_and_all_get_their_answer(size: int) -> None:
    gate = threading.Event()
    provider = ScriptedProvider(gate=gate)
    body = json.dumps({"x": "y" * size}).encode()
    with running(provider) as run:
        press(run)
        threads = ask_all(run, 3 * AT_ONCE, body)
        until(lambda: run.front.budget.held >= 2 * AT_ONCE)
        # Two of the pool's threads are busy: strangers are paced besides.
        assert len(provider.seen) <= AT_ONCE
        # Health has no turn to wait for, and neither have operators.
        assert ask_http(run.http_port, "GET", "/healthz").status == 200
        gate.set()
        assert ask_http(run.http_port, "POST", POLICY_PATH, b"{}").status == 200
        gate.clear()
        run.loop.call_soon_threadsafe(lambda: setattr(run.front.pool, "_failing", 0.0))
        provider.open_gate()
        for thread in threads:
            thread.join(20)
        assert len(provider.seen) == 3 * AT_ONCE + 1
        until(lambda: run.front.budget.held == 0)


def test_who_waits_too_long_is_told_so() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    settings = scripted_settings(http=HttpSettings(request_seconds=0.4))
    with running(provider, settings) as run:
        press(run)
        links = [connect(run.http_port) for _ in range(AT_ONCE + 1)]
        for link in links:
            link.sendall(http_request("POST", wire.KEYS_PATH, b"{}"))
            time.sleep(0.02)
        answer = parse_http(receive_all(links[-1]))
        for link in links:
            link.close()
        provider.open_gate()
    assert (answer.status, answer.json["code"]) == (503, "overloaded")


def test_who_leaves_while_waiting_gives_everything_back() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run:
        press(run)
        links = [connect(run.http_port) for _ in range(4 * AT_ONCE)]
        for link in links:
            link.sendall(http_request("POST", wire.KEYS_PATH, b"{}"))
        until(lambda: run.front.budget.held > 0)
        for link in links:
            link.close()
        provider.open_gate()
        until(lambda: run.front.budget.held == 0)
        run.loop.call_soon_threadsafe(lambda: setattr(run.front.pool, "_failing", 0.0))
        assert ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}").status == 200

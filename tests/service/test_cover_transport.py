# SPDX-License-Identifier: Apache-2.0
"""Answers that wait hold no thread, no buffer and no turn of those that need nobody."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from service_harness import (
    NOW,
    ScriptedProvider,
    Served,
    ask_framed,
    ask_http,
    connect,
    frame,
    http_request,
    scripted_front,
    scripted_settings,
    serving,
    until,
)

from tightseal.errors import Code
from tightseal.model.exchange import LogPromise
from tightseal.model.logclass import LogClass, LogCover, LogNeed
from tightseal.model.wire import KEYS_PATH
from tightseal.release.begun import Begun, Finished
from tightseal.release.hold import Held
from tightseal.release.legacy import LegacyAnswer
from tightseal.service.cover import LogCovers, Waiting
from tightseal.service.settings import WitnessSettings

COVER = LogCover(LogClass.COSIGNED, 1, bytes(32))
NEED = LogNeed(LogClass.COSIGNED, ("w",), 1)
MOST = 24


class Desk:
    """Covers nobody until it is told to."""

    def __init__(self) -> None:
        self.why = ""
        self.open = threading.Event()
        self.came: list[Waiting] = []

    def put(self, waiting: Waiting) -> None:
        self.came.append(waiting)
        if self.open.is_set():
            waiting.finish(COVER, b"")

    def cover_all(self) -> None:
        self.open.set()
        for waiting in list(self.came):
            waiting.finish(COVER, b"")

    def look(self) -> None:
        """Nobody is asked."""

    def close(self) -> None:
        """Nothing runs."""


def held(answer: bytes) -> Held:
    promise = LogPromise("key", bytes(32))
    return Held(NEED, promise, 0, lambda _cover, _proof: answer)


class Provider(ScriptedProvider):
    """Holds answers to bodies that say so."""

    def begin(self, body: bytes, *, now: int) -> Begun:
        if not body.startswith(b'{"held"'):
            return super().begin(body, now=now)
        assert now == NOW
        done = Finished(b"", held=held(b'{"covered":true}'))
        return Begun(b"", lambda _now: done)

    def legacy(self, quote: bytes, *, now: int) -> Any:
        assert (quote, now) == (b"\x01", NOW)
        return LegacyAnswer(b"\x01", b"\x02", "scripted", held(b""))


@contextmanager
def waiting(**how: Any) -> Iterator[tuple[Served, Desk, LogCovers]]:
    desk = Desk()
    settings = WitnessSettings(**{"wait_seconds": 25, "max_waiting": MOST, **how})
    covers = LogCovers({LogClass.COSIGNED: desk}, settings)
    front = scripted_front(Provider(), scripted_settings(max_buffered_bytes=8 << 20))
    front.health.look()
    with serving(replace(front, cover=covers)) as served:
        yield served, desk, covers


BODY = b'{"held":"%b"}' % (b"x" * 700_000)
"""Twenty-four of these are more than may be buffered at once."""


def test_those_that_wait_hold_neither_threads_nor_buffers() -> None:
    with waiting() as (served, desk, covers), ThreadPoolExecutor(MOST) as guests:
        asked = []
        for number in range(MOST):
            asked.append(
                guests.submit(ask_http, served.http_port, "POST", KEYS_PATH, BODY)
            )
            until(lambda: covers.waiting == number + 1, 30)  # noqa: B023 (now)
        assert served.front.pool.in_flight == 0
        assert served.front.quote_pool.in_flight == 0
        for _ in range(8):
            answer = ask_http(served.http_port, "POST", KEYS_PATH, b'{"x":1}' * 1000)
            assert answer.status == 200
        # One more than may wait is told at once, and to come back.
        late = ask_http(served.http_port, "POST", KEYS_PATH, b'{"held":1}')
        assert late.json["code"] == Code.LOG_NOT_WITNESSED.value
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        assert not any(one.done() for one in asked)
        desk.cover_all()
        for one in asked:
            assert one.result(30).json == {"covered": True}
        assert covers.waiting == 0


def test_too_late_is_refused_and_the_same_bytes_may_come_again() -> None:
    with waiting(wait_seconds=0.1) as (served, desk, _):
        late = ask_http(served.http_port, "POST", KEYS_PATH, b'{"held":1}')
        assert late.json["code"] == Code.LOG_NOT_WITNESSED.value
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        desk.cover_all()
        again = ask_http(served.http_port, "POST", KEYS_PATH, b'{"held":1}')
        assert again.json == {"covered": True}


def test_an_answer_is_not_given_out_where_nobody_can_cover_it() -> None:
    front = scripted_front(Provider(), scripted_settings())
    front.health.look()
    with serving(front) as served:
        answer = ask_http(served.http_port, "POST", KEYS_PATH, b'{"held":1}')
        assert answer.json["code"] == Code.LOG_NOT_WITNESSED.value
        assert ask_framed(served.framed_port, b'{"quote":[1]}') == b""


def test_the_old_protocol_waits_and_closes_where_it_waits_in_vain() -> None:
    with waiting() as (served, desk, covers), ThreadPoolExecutor(1) as guest:
        asked = guest.submit(ask_framed, served.framed_port, b'{"quote":[1]}', 30)
        until(lambda: covers.waiting == 1, 30)
        assert not asked.done()
        desk.cover_all()
        assert b'"encrypted_key":[1]' in asked.result(30)
    with waiting(wait_seconds=0.1) as (served, _, _):
        assert ask_framed(served.framed_port, b'{"quote":[1]}') == b""


def test_a_guest_that_is_gone_over_the_old_protocol_ends_in_nothing() -> None:
    with waiting(wait_seconds=0.5) as (served, _, covers):
        with connect(served.framed_port) as connection:
            connection.sendall(frame(b'{"quote":[1]}'))
            until(lambda: covers.waiting == 1, 30)
        until(lambda: covers.waiting == 0, 30)


def test_a_guest_that_is_gone_makes_room() -> None:
    with waiting(wait_seconds=0.5, max_waiting=1) as (served, desk, covers):
        with connect(served.http_port) as connection:
            connection.sendall(http_request("POST", KEYS_PATH, b'{"held":1}'))
            until(lambda: covers.waiting == 1, 30)
        until(lambda: covers.waiting == 0, 30)
        desk.cover_all()
        again = ask_http(served.http_port, "POST", KEYS_PATH, b'{"held":1}')
        assert again.json == {"covered": True}

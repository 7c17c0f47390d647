# SPDX-License-Identifier: Apache-2.0
"""Bytes of HTTP connections, in pieces of any size; the first byte says which."""

import asyncio
import atexit
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn.server import ServerState

from tightseal.errors import Code, RequestError, TightsealError
from tightseal.model.settings import ReleaseSettings
from tightseal.model.wire_operator import ActionDone
from tightseal.release.begun import Finished
from tightseal.release.leases import Leases
from tightseal.service.admission import Admission
from tightseal.service.connections import ByteBudget, ConnectionTable
from tightseal.service.doorway import Doorway
from tightseal.service.front import Front
from tightseal.service.health import Health
from tightseal.service.http import http_app
from tightseal.service.http_guard import HttpGuard, server_config
from tightseal.service.listen_settings import HostLimits, HttpSettings
from tightseal.service.metrics import Metrics
from tightseal.service.settings import HostSettings, Settings

LOOP = asyncio.new_event_loop()
atexit.register(LOOP.close)
TURNS = 40
"""Of the loop, in which every request that came whole is answered."""


class Complaints(logging.Handler):
    """The server catches what the application raises, and only logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            FOUND.append(self.format(record))


FOUND: list[str] = []
logging.getLogger("uvicorn.error").addHandler(Complaints())
logging.getLogger("uvicorn.error").propagate = False


class Pool:
    """Runs what it is given at once."""

    def submit(self, call: Callable[[], Any], **_: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(call())
        except TightsealError as error:
            future.set_exception(error)
        return future


class Provider:
    """Takes actions, and refuses all else."""

    def admit(self, action: bytes, *, now: int) -> None:
        assert isinstance(action, bytes)
        assert now

    def act(self, action: bytes, *, now: int) -> ActionDone:
        assert isinstance(action, bytes)
        assert now
        return ActionDone(entry_id="AA")

    def settings(self) -> ReleaseSettings:
        return SETTINGS.release

    def _refuse(self, *_: object, **__: object) -> Any:
        raise RequestError(Code.REQUEST_MALFORMED, "fuzzed")

    begin = challenge = public_key = publish = hand_over = confirm_handoff = _refuse
    info = _refuse


SETTINGS = Settings(host=HostSettings(http=HttpSettings(metrics=False)))


class FakeFront:
    """All that the routes ask for."""

    settings = SETTINGS
    provider = Provider()
    metrics = Metrics()
    health = Health({})
    pool = quote_pool = operator_pool = Pool()
    budget = ByteBudget(1 << 20)
    operator_budget = ByteBudget(1 << 20)
    admission = Admission(HostLimits(requests_per_second=0, failures_per_second=0))
    leases = Leases(None)

    def clock(self) -> int:
        return 1

    async def covered(self, finished: Finished) -> bytes:
        return finished.ready()


FRONT = FakeFront()
CONFIG = server_config(http_app(cast("Front", FRONT)))
CONFIG.load()


class Transport(asyncio.Transport):
    """Like one of the server's: a write after the end raises."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.closing = self.lost = False

    def write(self, data: Any) -> None:
        assert not self.lost
        if not self.closing:
            self.said += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        """Bytes come all the same."""

    def resume_reading(self) -> None:
        """They never stopped."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default


def seeds() -> list[bytes]:
    action = (
        b"POST /v1/actions HTTP/1.1\r\nhost: t\r\nconnection: %b\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    kept, last = action % b"keep-alive", action % b"close"
    chunked = (
        b"POST /v1/keys HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2;x=y\r\n{}\r\n0\r\nx: y\r\n\r\n"
    )
    waits = kept.replace(b"host: t", b"expect: 100-continue")
    head = b"HEAD /healthz?x=%00 HTTP/1.0\r\nupgrade: h2c\r\n\r\n"
    streams = (last, kept * 6, chunked + head + last, waits + chunked, kept[:-1])
    return [bytes([size]) + stream for stream in streams for size in (0, 7)]


def one(data: bytes) -> None:
    LOOP.run_until_complete(_connection(data))
    assert not FOUND, FOUND


async def _connection(data: bytes) -> None:
    transport, state = Transport(), ServerState()
    table = ConnectionTable(max_total=4, max_per_peer=4)
    guard = HttpGuard(
        SETTINGS.host.http,
        table,
        CONFIG,
        state,
        simulated=False,
        doorway=Doorway(
            LOOP,
            pressed=lambda: bool(data and data[0] & 1),
            known=lambda _source: False,
        ),
        budget=ByteBudget(1 << 20),
    )
    protocol = guard.protocol()
    protocol.connection_made(transport)
    size = (data[0] if data else 0) or len(data) or 1
    stream = data[1:]
    for at in range(0, len(stream), size):
        protocol.data_received(stream[at : at + size])
        await asyncio.sleep(0)
    # Some leave before they are answered.
    for _ in range(TURNS if size % 2 == 0 else 0):
        await asyncio.sleep(0)
    protocol.expire()
    protocol.connection_lost(None)
    assert guard.budget.held == 0
    assert len(guard.doorway) == 0
    transport.lost = True
    await asyncio.gather(*state.tasks)
    assert b"HTTP/1.1 500" not in transport.said
    assert FRONT.budget.held == FRONT.operator_budget.held == 0
    assert len(table) == 0

# SPDX-License-Identifier: Apache-2.0
"""The legacy protocol's frames, in pieces of any size; the first byte says which."""

import asyncio
import atexit
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from tightseal.errors import TightsealError
from tightseal.model.settings import ReleaseSettings
from tightseal.release.begun import Finished
from tightseal.release.leases import Leases
from tightseal.service.admission import Admission
from tightseal.service.connections import ByteBudget, ConnectionTable, Phase
from tightseal.service.framed import FramedProtocol, decode_request
from tightseal.service.front import Front
from tightseal.service.listen_settings import HostLimits
from tightseal.service.metrics import Metrics
from tightseal.service.settings import Settings

LOOP = asyncio.new_event_loop()
atexit.register(LOOP.close)
METRICS = Metrics()
SETTINGS = Settings()


class Pool:
    """Runs what it is given at once."""

    def submit(self, call: Callable[[], Any], **_: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(call())
        except TightsealError as error:
            future.set_exception(error)
        return future


class Answer:
    encrypted_key = bytes(80)
    provider_quote = bytes(16)
    tenant = "fuzzed"


class Provider:
    def legacy(self, quote: bytes, *, now: int) -> Answer:
        assert isinstance(quote, bytes)
        assert now
        return Answer()

    def settings(self) -> ReleaseSettings:
        return SETTINGS.release


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.said += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default


class FakeFront:
    settings = SETTINGS
    metrics = METRICS
    quote_pool = Pool()
    provider = Provider()

    def __init__(self) -> None:
        self.budget = ByteBudget(1 << 20)
        self.admission = Admission(HostLimits(failures_per_second=0))
        self.leases = Leases(None)

    def clock(self) -> int:
        return 1

    async def covered(self, finished: Finished) -> bytes:
        return finished.ready()


def seeds() -> list[bytes]:
    bodies = (b'{"quote":[1,2,3]}', b'{"quote":[]}', b'{"quote":[256]}', b"{}")
    frames = [len(body).to_bytes(4, "big") + body for body in bodies]
    return [bytes([size]) + frame for frame in frames for size in (0, 3)]


def one(data: bytes) -> None:
    with suppress(TightsealError):
        decode_request(data[1:])
    LOOP.run_until_complete(_connection(data))


async def _connection(data: bytes) -> None:
    front, transport = FakeFront(), Transport()
    table = ConnectionTable(max_total=4, max_per_peer=4)
    protocol = FramedProtocol(cast("Front", front), table)
    protocol.connection_made(transport)
    size = (data[0] if data else 0) or len(data) or 1
    stream = data[1:]
    for at in range(0, len(stream), size):
        protocol.data_received(stream[at : at + size])
    protocol.eof_received()
    await asyncio.sleep(0)
    protocol.expire()
    protocol.connection_lost(None)
    assert front.budget.held == 0
    assert len(table) == 0
    assert protocol.phase in Phase

# SPDX-License-Identifier: Apache-2.0
"""The framed TCP protocol of gramine-sealing-key-provider and dstack, byte for byte.

One connection carries one request and one response, each a 32-bit big-endian length
and that many bytes of JSON; byte strings are arrays of numbers. The protocol has no
error: a refusal closes the connection, and the reason stands in our log. A release
setting sends a framed ``{"error","message"}`` before closing instead.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Final, cast

import msgspec
import structlog

from tightseal.errors import Code, RequestError, ServiceError, TightsealError
from tightseal.evidence.claimed import platform_claim
from tightseal.model import wire
from tightseal.release.begun import Begun, Finished
from tightseal.service.admitted import admitted
from tightseal.service.connections import ConnectionTable, Phase, peer_of
from tightseal.service.front import Front, Request

__all__ = [
    "MAX_QUOTE_BYTES",
    "FramedProtocol",
    "decode_request",
    "encode_error",
    "encode_response",
]

LENGTH_BYTES: Final = 4
MAX_QUOTE_BYTES: Final = wire.MAX_EVIDENCE_BYTES
"""Longest quote: the most that release settings can allow, and what the systems that
this replaces allow."""

SPARE_COMMAS: Final = 64
"""Commas that fields other than the quote may take."""


class _Request(msgspec.Struct, frozen=True):
    """Unknown fields are ignored, as upstream does."""

    quote: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, le=255)]],
        msgspec.Meta(max_length=MAX_QUOTE_BYTES),
    ]


log = structlog.get_logger("tightseal.framed")

_decoder = msgspec.json.Decoder(_Request)


def decode_request(payload: bytes) -> bytes:
    """The quote of a request's JSON.

    Raises:
        RequestError: ``request_malformed`` or ``request_too_large``.
    """
    # Counted before decoding, so that a list of millions of numbers is never built.
    if payload.count(b",") > MAX_QUOTE_BYTES + SPARE_COMMAS:
        detail = f"quote: more than {MAX_QUOTE_BYTES} bytes"
        raise RequestError(Code.REQUEST_TOO_LARGE, detail)
    if payload.count(b'"quote"') > 1:
        raise RequestError(Code.REQUEST_MALFORMED, "quote is given twice")
    try:
        return bytes(_decoder.decode(payload).quote)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        raise RequestError(Code.REQUEST_MALFORMED, f"request: {e}") from e


def encode_response(encrypted_key: bytes, provider_quote: bytes) -> bytes:
    """The response frame, length included."""
    return _frame(
        b'{"encrypted_key":%b,"provider_quote":%b}'
        % (_numbers(encrypted_key), _numbers(provider_quote))
    )


def encode_error(error: TightsealError, *, simulated: bool = False) -> bytes:
    """The error frame: stable code and public sentence, never the detail."""
    body: dict[str, str | bool] = {"error": error.code.value, "message": error.public}
    if simulated:
        body["simulated"] = True
    return _frame(msgspec.json.encode(body))


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def _numbers(data: bytes) -> bytes:
    return b"[%b]" % ",".join(map(str, data)).encode()


class FramedProtocol(asyncio.Protocol):
    """One connection. All but the answer itself happens on the event loop."""

    __slots__ = (
        "_buffer",
        "_front",
        "_held",
        "_limits",
        "_loop",
        "_request",
        "_started",
        "_table",
        "_task",
        "_transport",
        "_wanted",
        "deadline",
        "peer",
        "phase",
    )

    def __init__(self, front: Front, table: ConnectionTable) -> None:
        self._front = front
        self._limits = front.settings.host.framed
        self._table = table
        self._loop = asyncio.get_running_loop()
        self._buffer: bytearray | None = None
        self._held = 0
        self._wanted = 0
        self._request: Request | None = None
        self.phase = Phase.WAITING
        self.peer = ""

    # -- asyncio ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place in the table, or leave at once."""
        # The event loop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._started = self._loop.time()
        self.deadline = self._started + self._limits.first_byte_seconds
        self.peer = peer_of(transport.get_extra_info("peername"))
        if not self._table.admit(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Gather the frame; nothing is allocated for a length that is only claimed."""
        if self.phase is Phase.SERVING or self._transport.is_closing():
            return
        try:
            self._gather(data)
        except TightsealError as e:
            self._refuse(e)

    def eof_received(self) -> bool:
        """A half-closed connection still gets its answer."""
        if self.phase is Phase.SERVING:
            return True
        if self.phase is Phase.READING:
            got = len(self._buffer or b"")
            detail = f"closed after {got} bytes of a request of {self._wanted}"
            self._refuse(RequestError(Code.REQUEST_MALFORMED, detail))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back whatever the connection held."""
        del exc
        self._table.drop(self)
        self._release_buffer()

    # -- the table ----------------------------------------------------------------

    def expire(self) -> None:
        """Refuse what is late; abort who does not take the answer."""
        if self._transport.is_closing():
            self._transport.abort()
        elif self.phase is Phase.WAITING:
            self._transport.close()
        elif self.phase is Phase.READING:
            detail = f"{len(self._buffer or b'')} bytes of {self._wanted} came in time"
            self._refuse(RequestError(Code.REQUEST_TIMEOUT, detail))
        else:
            detail = f"no answer within {self._limits.total_seconds} s"
            self._refuse(ServiceError(Code.OVERLOADED, detail))

    def evict(self) -> None:
        """Close at once, to make room."""
        self._transport.abort()

    # -- one request --------------------------------------------------------------

    def _gather(self, data: bytes) -> None:
        if self._buffer is None:
            self._front.admission.door(self.peer)
            self._buffer = bytearray()
            self._enter(Phase.READING, self._limits.read_seconds)
        self._front.budget.take(len(data))
        self._held += len(data)
        self._buffer += data
        if not self._wanted and len(self._buffer) >= LENGTH_BYTES:
            self._wanted = self._frame_end(self._buffer[:LENGTH_BYTES])
        if self._wanted and len(self._buffer) >= self._wanted:
            payload = bytes(memoryview(self._buffer)[LENGTH_BYTES : self._wanted])
            self._serve(payload)

    def _frame_end(self, prefix: bytearray) -> int:
        length = int.from_bytes(prefix, "big")
        limit = self._limits.max_frame_bytes
        if not 1 <= length <= limit:
            code = Code.REQUEST_TOO_LARGE if length else Code.REQUEST_MALFORMED
            raise RequestError(code, f"frame of {length} bytes; 1 to {limit} expected")
        return LENGTH_BYTES + length

    def _serve(self, payload: bytes) -> None:
        self._enter(Phase.SERVING, self._limits.total_seconds)
        self._buffer = None
        self._request = Request("legacy", self.peer, self._front.metrics)
        self._task = self._loop.create_task(self._answer(payload))
        self._task.add_done_callback(self._answered)

    async def _answer(self, payload: bytes) -> bytes:
        front = self._front
        begin = partial(_begin, front, payload)
        del payload
        finished = await admitted(front, front.quote_pool, self.peer, begin)
        # What waits for others to see it must not hold memory from those who need not.
        del begin
        self._release_buffer()
        return await front.covered(finished)

    def _answered(self, answer: asyncio.Future[bytes]) -> None:
        self._release_buffer()
        if answer.cancelled():
            self._transport.abort()
            return
        error = answer.exception()
        if self._transport.is_closing():
            log.warning("answer_not_taken", peer=self.peer)
        elif error is not None:
            self._refuse(error)
        else:
            assert self._request is not None
            self._request.granted()
            self._close_with(answer.result())

    def _refuse(self, error: BaseException) -> None:
        request = self._request or Request("legacy", self.peer, self._front.metrics)
        public = request.refused(error)
        told = self._front.provider.settings().legacy.json_errors
        simulated = self._front.settings.simulated
        frame = encode_error(public, simulated=simulated) if told else b""
        self._close_with(frame)

    def _close_with(self, data: bytes) -> None:
        if data:
            self._transport.write(data)
        self._enter(Phase.SERVING, self._limits.write_seconds, whole=False)
        self._transport.close()

    def _enter(self, phase: Phase, seconds: float, *, whole: bool = True) -> None:
        """Enter a phase; the total since connecting bounds all but the writing."""
        deadline = self._loop.time() + seconds
        if whole:
            deadline = min(deadline, self._started + self._limits.total_seconds)
        self._table.move(self, phase, deadline=deadline)

    def _release_buffer(self) -> None:
        self._front.budget.give_back(self._held)
        self._held = 0
        self._buffer = None


def _begin(front: Front, payload: bytes) -> Begun:
    """On a worker thread: the quote of a request, and the platform that it claims."""
    quote = decode_request(payload)

    def finish(now: int) -> Finished:
        answer = front.provider.legacy(quote, now=now)
        frame = encode_response(answer.encrypted_key, answer.provider_quote)
        if answer.held is None:
            return Finished(frame, answer.tenant)
        held = replace(answer.held, complete=lambda _cover, _proof: frame)
        return Finished(b"", answer.tenant, held)

    return Begun(platform_claim(quote), finish)

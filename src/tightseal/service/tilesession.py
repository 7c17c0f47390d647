# SPDX-License-Identifier: Apache-2.0
"""One connection to the database that holds tiles, for calls from threads."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import asyncpg

from tightseal.errors import Code, ServiceError

__all__ = ["TileSession"]

CONNECT_SECONDS: Final = 10
COMMAND_SECONDS: Final = 15
"""Longest wait for the database, in seconds: to connect, and for one statement."""

_SESSION: Final = {
    "application_name": "tightseal-log",
    "synchronous_commit": "on",
    "lock_timeout": "0",
    "jit": "off",
}
_READ_ONLY: Final = {"default_transaction_read_only": "on"}
_FAULTS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
    OverflowError,
)

_T = TypeVar("_T")


class TileSession:
    """One connection, made when first needed, and made anew after a fault.

    asyncpg runs in an event loop of its own, inside of whichever thread calls.

    Args:
        dsn: address of the database.
        read_only: whether the session may only read.
        seconds: after which nothing is begun any more.

    Attributes:
        name: for people; no password in it.
        held: whether a lock of the session is relied on, so that a lost connection is
            an error, and not made anew.

    Raises:
        ServiceError: ``settings_invalid``, where ``dsn`` is no address.
    """

    def __init__(self, dsn: str, *, read_only: bool, seconds: float = math.inf) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        try:
            parts = urlsplit(dsn)
            self.name = f"postgresql {parts.hostname or 'local'}{parts.path}"
        except ValueError as e:
            detail = "log database: not an address of a database"
            raise ServiceError(Code.SETTINGS_INVALID, detail) from e
        self._dsn = dsn
        self._settings = _SESSION | (_READ_ONLY if read_only else {})
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: asyncpg.Connection[Any] | None = None
        self.held = False

    def run(
        self, work: Callable[[asyncpg.Connection[Any]], Coroutine[Any, Any, _T]]
    ) -> _T:
        """Run a coroutine over the connection.

        Raises:
            ServiceError: ``log_unreachable`` for all that the database says;
                ``settings_invalid``, where the address cannot be read.
        """
        if time.monotonic() >= self._end:
            detail = f"{self.name}: the log was not read in {self._seconds:g} s"
            raise ServiceError(Code.LOG_UNREACHABLE, detail)
        with self._lock:
            idle = self.connected and not self.held
            try:
                return self._try(work)
            except _FAULTS as e:
                # A connection that was idle may be gone since long, at no fault of now.
                again = idle and not self.connected
                self._drop()
                if not again:
                    raise self._unreachable(e) from e
            try:
                return self._try(work)
            except _FAULTS as e:
                self._drop()
                raise self._unreachable(e) from e

    def _try(
        self, work: Callable[[asyncpg.Connection[Any]], Coroutine[Any, Any, _T]]
    ) -> _T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(self._on_connection(work))

    def _unreachable(self, error: BaseException) -> ServiceError:
        detail = f"{self.name}: {type(error).__name__}: {error}"
        return ServiceError(Code.LOG_UNREACHABLE, detail)

    async def _on_connection(
        self, work: Callable[[asyncpg.Connection[Any]], Coroutine[Any, Any, _T]]
    ) -> _T:
        if self._connection is None or self._connection.is_closed():
            if self.held:
                # Its lock went with it, and another one may write by now.
                message = "the connection was lost while writing"
                raise ConnectionResetError(message)
            self._connection = await self._connect()
        return await work(self._connection)

    async def _connect(self) -> asyncpg.Connection[Any]:
        try:
            return await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                server_settings=self._settings,
            )
        except ValueError as e:
            # What the driver quotes may be part of a password.
            detail = f"{self.name}: the address of the database cannot be read"
            raise ServiceError(Code.SETTINGS_INVALID, detail) from e

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._loop is not None:
            connection.terminate()
            # Lets the transport's end be noticed.
            self._loop.run_until_complete(asyncio.sleep(0))

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as was noticed."""
        return self._connection is not None and not self._connection.is_closed()

    def close(self) -> None:
        """End the connection and its loop."""
        with self._lock:
            loop, self._loop = self._loop, None
            connection, self._connection = self._connection, None
            if loop is None:
                return
            if connection is not None:
                with suppress(*_FAULTS):
                    loop.run_until_complete(connection.close(timeout=CONNECT_SECONDS))
            loop.close()

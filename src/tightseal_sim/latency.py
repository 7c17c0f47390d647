# SPDX-License-Identifier: Apache-2.0
"""How real hardware quotes: slowly, and one at a time for the whole host."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CLOUD_TDX_QUOTE_SECONDS", "QuoteGate"]

CLOUD_TDX_QUOTE_SECONDS: Final = 0.040
"""About what one quote takes on a cloud TDX host."""


class QuoteGate:
    """Lets one quote through at a time, each taking ``seconds``.

    Args:
        lock_file: shared by all processes of one simulated host; ``None`` where the
            host lives in this process alone.
        seconds: time for one quote; 0 switches the gate off.
        sleep: how to wait; handed in, so that tests need not.
    """

    def __init__(
        self,
        lock_file: Path | None = None,
        *,
        seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._lock_file = lock_file
        self._seconds = seconds
        self._sleep = sleep
        self._alone = threading.Lock()

    @contextmanager
    def one_quote(self) -> Iterator[None]:
        """Hold the host's only quoting slot for the time that a quote takes."""
        if self._seconds <= 0:
            yield
            return
        with self._alone, _host_lock(self._lock_file):
            self._sleep(self._seconds)
            yield


@contextmanager
def _host_lock(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

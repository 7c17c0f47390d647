# SPDX-License-Identifier: Apache-2.0
"""Who uses a keyring: many at once, or one alone, by a lock beside its file.

Workers and commands hold it shared; renewing the keyring key needs it alone. The system
drops it with the process. It keeps our own processes on one machine from each other,
and nobody else: providers on another machine, or in another enclave where each has
locks of its own, are not seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tightseal.errors import Code, ServiceError

__all__ = ["alone", "use"]

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_USED: Final = "a provider or a command uses it: stop them first"
_RENEWED: Final = "its key is being renewed: start again when that has ended"


class _ReadOnlyError(Exception):
    """The lock's file can be neither made nor opened for writing."""


@dataclass(slots=True)
class _Held:
    """POSIX locks exclude processes, not threads: closing one file drops all of ours.

    So a process has one file open for a lock, and counts who needs it.
    """

    handle: int
    pid: int
    alone: bool
    count: int = 1


_HELD: Final[dict[str, _Held]] = {}
_HELD_LOCK: Final = threading.Lock()


def use(keyring: Path) -> Callable[[], None]:
    """Say that a keyring is in use, until what is returned is called.

    Where the folder cannot be written, nothing is said: nobody renews a key there.

    Raises:
        ServiceError: ``state_conflict``, where somebody has it alone;
            ``state_unavailable``, where the lock cannot be had.
    """
    path = _path(keyring)
    try:
        _take(path, alone=False)
    except _ReadOnlyError:
        return lambda: None
    return _Leave(path)


@contextmanager
def alone(keyring: Path) -> Iterator[None]:
    """Have a keyring for oneself.

    Raises:
        ServiceError: ``state_conflict``, where somebody uses it; ``state_unavailable``.
    """
    path = _path(keyring)
    try:
        _take(path, alone=True)
    except _ReadOnlyError as e:
        raise ServiceError(Code.STATE_UNAVAILABLE, str(e)) from e
    leave = _Leave(path)
    try:
        yield
    finally:
        leave()


@dataclass(slots=True)
class _Leave:
    """Gives a lock back, once."""

    path: str
    done: bool = False

    def __call__(self) -> None:
        if self.done:
            return
        self.done = True
        with _HELD_LOCK:
            held = _HELD.get(self.path)
            if held is None or held.pid != os.getpid():
                return
            held.count -= 1
            if not held.count:
                del _HELD[self.path]
                os.close(held.handle)


def _path(keyring: Path) -> str:
    return f"{keyring.absolute()}.in-use"


def _take(path: str, *, alone: bool) -> None:
    why = _USED if alone else _RENEWED
    with _HELD_LOCK:
        held = _HELD.get(path)
        if held is not None and held.pid == os.getpid():
            if alone or held.alone:
                raise ServiceError(Code.STATE_CONFLICT, f"{path}: {why}")
            held.count += 1
            return
        handle = _locked(path, alone=alone, why=why)
        _HELD[path] = _Held(handle, os.getpid(), alone)


def _locked(path: str, *, alone: bool, why: str) -> int:
    try:
        handle = os.open(path, _FLAGS, 0o600)
    except OSError as e:
        detail = f"{path}: {e.strerror}"
        if e.errno in _READ_ONLY:
            raise _ReadOnlyError(detail) from e
        raise ServiceError(Code.STATE_UNAVAILABLE, detail) from e
    try:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.lockf(handle, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as e:
        # POSIX says EACCES or EAGAIN where it is taken.
        os.close(handle)
        raise ServiceError(Code.STATE_CONFLICT, f"{path}: {why}") from e
    except OSError as e:
        os.close(handle)
        detail = f"{path}: cannot be locked: {e.strerror}"
        raise ServiceError(Code.STATE_UNAVAILABLE, detail) from e
    return handle

# SPDX-License-Identifier: Apache-2.0
"""What a simulated world remembers: one small JSON file, shared by processes.

Only decisions are kept (which platforms exist, what was updated, published, revoked).
Keys, certificates and collateral are derived from the seed whenever they are needed.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from tightseal.errors import Code, SettingsError

__all__ = [
    "FolderStore",
    "IntelState",
    "MemoryStore",
    "PlatformState",
    "Store",
    "WorldState",
]

STATE_FILE: Final = "world.json"
_LOCK_FILE: Final = "world.lock"
_MAX_STATE_BYTES: Final = 1 << 20


class PlatformState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One machine: its PCK CA and how often it was updated."""

    ca: Literal["platform", "processor"]
    microcode: int = 0
    tdx_module: int = 0


class IntelState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Intel's side of the world has published.

    Attributes:
        platforms: machines by name.
        recoveries: per TCB recovery the advisories that it closed.
        module_recoveries: the same for the TDX module.
        status: status of the newest TCB level; ``UpToDate`` unless published.
        advisories: advisories of the newest TCB level.
        revoked: platform name and microcode level of each revoked PCK certificate.
        publications: how often TCB info was republished; raises the evaluation number.
    """

    platforms: dict[str, PlatformState] = {}
    recoveries: tuple[tuple[str, ...], ...] = ()
    module_recoveries: tuple[tuple[str, ...], ...] = ()
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    revoked: tuple[tuple[str, int], ...] = ()
    publications: int = 0


class WorldState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    version: Literal[1]
    seed: str
    intel: IntelState = IntelState()


class Store(Protocol):
    """Where the state of a world lives."""

    def read(self) -> WorldState:
        """The state as of now."""
        ...

    def update(self, change: Callable[[WorldState], WorldState]) -> WorldState:
        """Apply a change to the newest state, alone among all processes."""
        ...


class MemoryStore:
    """A world that ends with its process."""

    def __init__(self, state: WorldState) -> None:
        self._state = state
        self._lock = threading.Lock()

    def read(self) -> WorldState:
        """The state as of now."""
        return self._state

    def update(self, change: Callable[[WorldState], WorldState]) -> WorldState:
        """Apply a change to the newest state."""
        with self._lock:
            self._state = change(self._state)
            return self._state


class FolderStore:
    """A world in a folder: atomic writes, seen by every process that opens it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / STATE_FILE
        self._seen: tuple[tuple[int, int, int], WorldState] | None = None

    @classmethod
    def create(cls, folder: Path, state: WorldState) -> FolderStore:
        """Write the first state.

        Raises:
            SettingsError: ``settings_invalid``, where a world is there already, or the
                folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                if (folder / STATE_FILE).exists():
                    detail = f"{folder}: a simulated world is there already"
                    raise SettingsError(Code.SETTINGS_INVALID, detail)
                _write(folder, state)
        except OSError as e:
            detail = f"simulated world {folder}: {e.strerror}"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        return cls(folder)

    def read(self) -> WorldState:
        """The state as of now; read again only where the file changed.

        Raises:
            SettingsError: ``settings_invalid``, where there is no readable world.
        """
        try:
            stat = self._path.stat()
            key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            seen = self._seen
            if seen is not None and seen[0] == key:
                return seen[1]
            with self._path.open("rb") as file:
                data = file.read(_MAX_STATE_BYTES)
            state = msgspec.json.decode(data, type=WorldState)
        except (OSError, msgspec.MsgspecError) as e:
            detail = f"no simulated world in {self.folder}: {e}"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        self._seen = (key, state)
        return state

    def update(self, change: Callable[[WorldState], WorldState]) -> WorldState:
        """Apply a change to the newest state, alone among all processes.

        Raises:
            SettingsError: ``settings_invalid``, where the folder cannot be written.
        """
        try:
            with _locked(self.folder):
                state = change(self.read())
                _write(self.folder, state)
        except OSError as e:
            detail = f"simulated world {self.folder}: {e.strerror}"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        return state


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the world's lock; each holder opens the file itself, so threads count."""
    path = folder / _LOCK_FILE
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(folder: Path, state: WorldState) -> None:
    """Replace the file so that a reader sees the old state or the new, never half."""
    partial = folder / f"{STATE_FILE}.{os.getpid()}.{threading.get_ident()}"
    with partial.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / STATE_FILE)

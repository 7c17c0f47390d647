# SPDX-License-Identifier: Apache-2.0
"""Processes that die or are read by others: what of their memory comes out."""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
CAP_SYS_PTRACE = 19
PR_CAPBSET_DROP = 24
"""From ``linux/capability.h`` and ``linux/prctl.h``."""

READER = """
import sys
wanted, found, read = bytes.fromhex(sys.argv[2]), 0, 0
try:
    with open(f"/proc/{sys.argv[1]}/mem", "rb", 0) as memory:
        with open(f"/proc/{sys.argv[1]}/maps") as maps:
            places = [line.split()[:2] for line in maps]
        for place, rights in places:
            start, end = (int(part, 16) for part in place.split("-"))
            if rights.startswith("rw"):
                memory.seek(start)
                data = memory.read(end - start)
                read += len(data)
                found += data.count(wanted)
except PermissionError:
    print("refused")
else:
    print("found" if found else f"not in {read} bytes")
"""
"""Looks for bytes, given in hex, in the memory of a process."""


def core_files(folder: Path) -> list[Path]:
    """The core dumps that the kernel wrote into a process's working directory."""
    return [path for path in folder.iterdir() if path.name.startswith("core")]


def require_cores_in_cwd() -> None:
    """Skip where this kernel puts dumps elsewhere: nothing could be seen here."""
    pattern = CORE_PATTERN.read_text().strip()
    if not pattern.startswith("core") or "/" in pattern:
        pytest.skip(f"this kernel's core_pattern is {pattern!r}")


@contextmanager
def cores_allowed() -> Iterator[None]:
    """What is started meanwhile inherits no limit on its core dumps."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] != resource.RLIM_INFINITY:
        pytest.skip(f"core dumps are limited to {before[1]} bytes here")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def without_ptrace(call: Callable[[], T]) -> T:
    """Call where children of root may not look into everybody's memory either."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if os.geteuid() == 0:
                _drop_ptrace()
            results.append(call())
        except BaseException as e:  # noqa: BLE001
            errors.append(e)

    # Capabilities are of a thread, and this one cannot take it back.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _drop_ptrace() -> None:
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) == 0


def read_memory(pid: int, wanted: bytes) -> str:
    """What another process of this user finds: ``found``, ``refused``, or nothing."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(pid), wanted.hex()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    return done.stdout.decode().strip()


def require_readable_neighbours() -> None:
    """Skip where nobody may read anybody: a refusal would show nothing."""
    if YAMA.exists() and YAMA.read_text().strip() != "0":
        pytest.skip(f"ptrace_scope is {YAMA.read_text().strip()} here")

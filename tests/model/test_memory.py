# SPDX-License-Identifier: Apache-2.0
"""Where secrets lie: out of dumps, out of swap, blank after a fork, wiped when gone."""

import ctypes
import errno
import gc
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core_support import core_files, cores_allowed, require_cores_in_cwd
from tightseal.model import memory
from tightseal.model.secret import Secret

SHOWN = bytes(range(100, 132))
LONG = bytes(range(200)) * 3

CARRIER = """
import os, signal, sys
from tightseal.model.secret import Secret

plain = bytes((i * 37 + 11) % 256 for i in range(32))
made = bytearray(32)
for i in range(32):
    made[i] = (i * 53 + 7) % 256
secret = Secret(made)
for i in range(32):
    made[i] = 0
# What copied it last leaves it in registers, which a dump has: do something else.
import json, pathlib
json.dumps([json.loads(str(n)) for n in range(1000)])
sorted(bytes([n % 256]) * 4096 for n in range(1000))
"""
"""Holds 32 bytes in a secret alone, and 32 others in the open."""

PLAIN = bytes((i * 37 + 11) % 256 for i in range(32))
HIDDEN = bytes((i * 53 + 7) % 256 for i in range(32))


def flags_of(view: memoryview) -> set[str]:
    """What the kernel says about the pages that these bytes lie in (proc(5))."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(part, 16) for part in found.groups())
            here = start <= address < end
        elif here and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError("not mapped")


def run(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("data", [SHOWN, LONG], ids=["key", "longer than a cell"])
def test_pages_of_secrets_are_locked_undumped_and_blank_in_a_fork(data: bytes) -> None:
    secret = Secret(data)
    wanted = {"MAP_LOCKED": "lo", "MADV_DONTDUMP": "dd", "MADV_WIPEONFORK": "wf"}
    held = {flag for name, flag in wanted.items() if name not in memory.refused()}
    assert held <= flags_of(secret._data)
    assert not set(wanted.values()) & flags_of(memoryview(bytearray(SHOWN)))


@pytest.mark.parametrize("size", [0, 1, 32, 64, 65, 4096, 100_000])
def test_secrets_of_every_length_keep_their_bytes(size: int) -> None:
    data = os.urandom(size)
    secrets = [Secret(data) for _ in range(3)]
    secrets[0].wipe()
    assert secrets[0].reveal() == bytes(size)
    assert {secret.reveal() for secret in secrets[1:]} == {data}
    assert [len(secret) for secret in secrets] == [size] * 3


def test_secrets_that_live_at_once_share_no_byte() -> None:
    many = [os.urandom(32) for _ in range(3 * memory.CHUNK_BYTES // 64)]
    secrets = [Secret(data) for data in many]
    assert [secret.reveal() for secret in secrets] == many


@pytest.mark.parametrize("data", [SHOWN, LONG], ids=["key", "longer than a cell"])
def test_a_secret_that_nobody_holds_is_overwritten(data: bytes) -> None:
    secret = Secret(data)
    cell = secret._cell
    del secret
    gc.collect()
    assert bytes(cell) == bytes(len(cell))


def test_a_constructor_that_fails_leaves_nothing_behind() -> None:
    with pytest.raises(TypeError):
        Secret("text")  # type: ignore[arg-type]
    gc.collect()
    assert Secret(SHOWN).reveal() == SHOWN


@pytest.mark.parametrize("number", [errno.EPERM, errno.EAGAIN])
def test_where_locking_is_refused_a_secret_holds_and_says_so(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real: Callable[..., mmap.mmap] = mmap.mmap

    def limited(descriptor: int, size: int, *, flags: int) -> mmap.mmap:
        if flags & memory.MAP_LOCKED:
            raise OSError(number, os.strerror(number))
        return real(descriptor, size, flags=flags)

    monkeypatch.setattr(memory.mmap, "mmap", limited)
    monkeypatch.setattr(memory._Here, "arena", memory.Arena())
    assert Secret(SHOWN).reveal() == SHOWN
    assert memory.refused() == {"MAP_LOCKED": os.strerror(number)}


def test_advice_that_the_kernel_does_not_know_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arena = memory.Arena()
    monkeypatch.setitem(memory._ADVICE, "MADV_DONTDUMP", 9999)
    monkeypatch.setattr(memory._Here, "arena", arena)
    assert Secret(SHOWN).reveal() == SHOWN
    assert memory.refused()["MADV_DONTDUMP"] == os.strerror(errno.EINVAL)


def test_a_secret_does_not_cross_a_fork(tmp_path: Path) -> None:
    script = f"""{CARRIER}
from tightseal.model import memory
from tightseal.model.secret import Secret as S
if os.fork():
    ended = os.waitstatus_to_exitcode(os.wait()[1])
    assert secret.reveal() == bytes((i * 53 + 7) % 256 for i in range(32))
    raise SystemExit(ended)
for attempt in (secret.reveal, lambda: secret == S(b"x"), lambda: S(b"x") == secret):
    try:
        attempt()
    except RuntimeError:
        continue
    os._exit(1)
if any(secret._data) and "MADV_WIPEONFORK" not in memory.refused():
    os._exit(2)
secret.wipe()
del secret
os._exit(0 if S(b"new").reveal() == b"new" else 3)
"""
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_core_dump_has_what_lies_open_and_no_secret(tmp_path: Path) -> None:
    require_cores_in_cwd()
    if "MADV_DONTDUMP" in memory.refused():
        pytest.skip("this kernel leaves no pages out of dumps")
    with cores_allowed():
        done = run(f"{CARRIER}os.abort()", tmp_path)
    assert done.returncode == -signal.SIGABRT
    (core,) = core_files(tmp_path)
    dumped: Any = core.read_bytes()
    assert PLAIN in dumped
    assert HIDDEN not in dumped

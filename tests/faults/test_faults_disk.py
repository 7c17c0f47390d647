# SPDX-License-Identifier: Apache-2.0
"""The disk under journal, state and log file full under load, then with room again."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import NoReturn

import pytest
from fault_support import MACHINES, MANY, Counts, Drill, Watch, drill, port_of, until

SIZE_MIB = 96
CHUNK = bytes(1 << 20)
REFUSED = ["journal_failed", "state_unavailable"]


@pytest.fixture
def small_disk(tmp_path: Path, cannot_run: Callable[[str], NoReturn]) -> Iterator[Path]:
    """A file system of its own, which can be filled without harm."""
    if os.geteuid() != 0:
        cannot_run("a small disk of its own is mounted by root alone")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True)
    if done.returncode:
        cannot_run(f"no tmpfs can be mounted here: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def told(run: Drill) -> str:
    """The end of the provider's log."""
    return run.provider.log.read_text(errors="replace")[-3000:]


def pour(sink: RawIOBase, part: bytes) -> NoReturn:
    """Write until that is refused."""
    while True:
        sink.write(part)


def fill(folder: Path) -> Path:
    """Leave not one byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as sink:
        for size in (len(CHUNK), 4096, 1):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                pour(sink, CHUNK[:size])
    return filler


def test_full_under_load(tmp_path: Path, small_disk: Path) -> None:
    filled(tmp_path, small_disk, rounds=1, each=8, total=6)


@pytest.mark.soak
def test_full_for_long(tmp_path: Path, small_disk: Path) -> None:
    filled(tmp_path, small_disk, rounds=10, each=60, total=300, machines=MANY).say()


def filled(
    tmp_path: Path,
    disk: Path,
    *,
    rounds: int,
    each: int,
    total: int,
    machines: int = MACHINES,
) -> Counts:
    """Filled to the last byte until nothing is released, then emptied."""
    counts = Counts("disk full")
    counts.more["expected"] = REFUSED
    host = {"workers": 2, "log": {"level": "info"}}
    with drill(disk, total=total, host=host, machines=machines) as run:
        with Watch(port_of(run.provider)) as watch:
            run.more(each)
            for _ in range(rounds):
                filler = fill(disk)
                before = len(run.seen)
                until(
                    lambda at=before: any(  # type: ignore[misc]
                        a.outcome in REFUSED for a in list(run.seen[at:])
                    ),
                    "a refusal for lack of room",
                )
                until(
                    lambda: "journal: journal_failed" in watch.troubles,
                    lambda: f"unreadiness: {watch.troubles} {watch.last} {told(run)}",
                )
                remedy = watch.troubles["journal: journal_failed"]
                assert remedy
                assert remedy.startswith("Make room on the journal's disk")
                filler.unlink()
                run.more(each)
                until(lambda: watch.ready, "readiness")
            run.use_up()
        run.judge(tmp_path, counts)
        counts.named_by_readyz = sorted(watch.troubles)
    assert run.provider.process.returncode == 0
    assert run.restarts == 0
    assert counts.refused["usage_limit_reached"] > 0
    return counts

# SPDX-License-Identifier: Apache-2.0
"""Workers, and a provider with all its workers, killed under load, again and again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_support import MACHINES, MANY, Counts, Drill, Watch, drill, port_of, until

WORKERS = 2


def workers_of(supervisor: int) -> dict[int, str]:
    """The worker processes below a supervisor, with their start times."""
    found = {}
    for task in Path(f"/proc/{supervisor}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                started = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1]
            except OSError:
                continue
            if b"spawn_main" in command:
                found[int(child)] = started.split()[19]
    return found


def times_serving(run: Drill) -> int:
    """How often all workers were ready since the supervisor started."""
    return run.provider.log.read_text().count('"event":"serving"')


def kill_a_worker(run: Drill) -> None:
    """The supervisor starts another one by itself."""
    # A worker that dies before all were ready once ends the start.
    until(lambda: times_serving(run) > 0, "every worker")
    supervisor = run.provider.process.pid
    before, times = workers_of(supervisor), times_serving(run)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: times_serving(run) > times, "another worker")
    now = workers_of(supervisor)
    assert victim not in now
    assert len(now) == len(before) == WORKERS
    run.restarts += 1


def kill_everything(run: Drill) -> None:
    """Supervisor and workers at once, as a machine that loses its power."""
    supervisor = run.provider.process
    for pid in (supervisor.pid, *workers_of(supervisor.pid)):
        os.kill(pid, signal.SIGKILL)
    supervisor.wait(10)
    run.start_again()


def kill_the_supervisor(run: Drill) -> None:
    """The supervisor alone: its workers end, and a new one takes their place."""
    supervisor = run.provider.process
    orphans = workers_of(supervisor.pid)
    supervisor.kill()
    supervisor.wait(10)
    until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans),
        "the end of the orphans",
    )
    run.start_again()


def test_killed_again_and_again(tmp_path: Path) -> None:
    killed(tmp_path, [kill_a_worker, kill_everything], each=8, total=6)


@pytest.mark.soak
def test_killed_for_long(tmp_path: Path) -> None:
    rounds = [kill_a_worker, kill_everything, kill_a_worker, kill_the_supervisor] * 4
    killed(tmp_path, rounds, each=60, total=400, machines=MANY).say()


def killed(
    tmp_path: Path,
    rounds: list[Callable[[Drill], None]],
    *,
    each: int,
    total: int,
    machines: int = MACHINES,
) -> Counts:
    counts = Counts("a provider killed under load")
    host = {"workers": WORKERS, "log": {"level": "info"}}
    with drill(tmp_path, total=total, host=host, machines=machines) as run:
        with Watch(port_of(run.provider)) as watch:
            run.more(each)
            for fault in rounds:
                fault(run)
                # Back by itself: releases go on, and readiness says so.
                run.more(each)
                until(lambda: watch.ready, "readiness")
            run.use_up()
        run.judge(tmp_path, counts)
    assert counts.restarts == len(rounds)
    assert counts.counted_granted > 0
    assert counts.refused["usage_limit_reached"] > 0
    return counts

# SPDX-License-Identifier: Apache-2.0
"""The database that holds the state, stopped and started under load."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import store_postgres
from fault_support import MACHINES, MANY, Counts, Watch, drill, port_of, until
from store_postgres import MissingError, Server


@pytest.fixture
def database(cannot_run: Callable[[str], NoReturn]) -> Iterator[Server]:
    # Not below pytest's folder: a socket's path is short, and "postgres" must enter.
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        try:
            with store_postgres.running(Path(folder)) as server:
                yield server
        except MissingError as missing:
            cannot_run(str(missing))


def test_restarted_under_load(tmp_path: Path, database: Server) -> None:
    restarted(tmp_path, database, ["immediate", "fast"], each=8, total=6)


@pytest.mark.soak
def test_restarted_for_long(tmp_path: Path, database: Server) -> None:
    modes = ["fast", "immediate"] * 8
    restarted(tmp_path, database, modes, each=60, total=400, machines=MANY).say()


def restarted(
    tmp_path: Path,
    database: Server,
    modes: list[str],
    *,
    each: int,
    total: int,
    machines: int = MACHINES,
) -> Counts:
    """Stopped in each of these ways; in the last one until readiness says so."""
    counts = Counts("the database restarted under load")
    counts.more["expected"] = ["state_unavailable"]
    host = {
        "workers": 2,
        "log": {"level": "warning"},
        "state": {"engine": "postgres", "url": database.new_address()},
    }
    with drill(tmp_path, total=total, host=host, machines=machines) as run:
        with Watch(port_of(run.provider)) as watch:
            run.more(each)
            for number, mode in enumerate(modes, 1):
                database.stop(mode)
                if number == len(modes):
                    until(lambda: not watch.ready, "unreadiness")
                    assert watch.troubles["policy: state_unavailable"]
                database.start()
                run.more(each)
                until(lambda: watch.ready, "readiness")
                run.restarts += 1
            run.use_up()
        run.judge(tmp_path, counts)
        counts.named_by_readyz = sorted(watch.troubles)
    assert set(counts.named_by_readyz) <= {"policy: state_unavailable"}
    assert counts.refused["state_unavailable"] > 0
    assert counts.refused["usage_limit_reached"] > 0
    # The provider itself went on all the time.
    assert run.provider.process.returncode == 0
    return counts

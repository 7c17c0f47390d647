# SPDX-License-Identifier: Apache-2.0
"""Places for state stores: one of each engine."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import store_postgres
from store_places import MemoryPlace, Place, PostgresPlace, SqlitePlace
from store_postgres import MissingError, Server

Skip = Callable[[str], NoReturn]


@contextmanager
def a_server(cannot_run: Skip) -> Iterator[Server]:
    # Not below pytest's folder: a socket's path is short, and "postgres" must enter.
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        try:
            with store_postgres.running(Path(folder)) as server:
                yield server
        except MissingError as missing:
            cannot_run(str(missing))


@pytest.fixture(scope="session")
def postgres(cannot_run: Skip) -> Iterator[Server]:
    """A running PostgreSQL server of the tests' own."""
    with a_server(cannot_run) as server:
        yield server


@pytest.fixture
def own_postgres(cannot_run: Skip) -> Iterator[Server]:
    """A server for one test to stop and start; recovery syncs every database in it."""
    with a_server(cannot_run) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty place of each engine."""
    kind = request.param
    made: Place
    if kind == "memory":
        made = MemoryPlace()
    elif kind == "sqlite":
        made = SqlitePlace(tmp_path / "state.db")
    else:
        made = PostgresPlace(request.getfixturevalue("postgres").new_address())
    yield made
    made.close()

# SPDX-License-Identifier: Apache-2.0
"""A database for state that the version before had in one."""

from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from tile_places import Server, postgres_server


@pytest.fixture(scope="session")
def postgres(cannot_run: Callable[[str], NoReturn]) -> Iterator[Server]:
    """A running PostgreSQL server of the tests' own."""
    with postgres_server(cannot_run) as server:
        yield server

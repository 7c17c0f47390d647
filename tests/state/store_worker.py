# SPDX-License-Identifier: Apache-2.0
"""A process of its own that writes to a store, to be raced and killed.

Arguments: ``count PLACE TIMES`` or ``write PLACE PREFIX``; what was acknowledged goes
to standard output, line by line.
"""

import sys
from pathlib import Path

from store_places import sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.state import Create, Replace
from tightseal.state.postgres import PostgresEngine
from tightseal.state.rows import Engine
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore

NOW = 1


def engine_of(place: str) -> Engine:
    if place.startswith("postgresql://"):
        return PostgresEngine(place)
    return SqliteEngine(Path(place))


def count(store: SealedStore, times: int) -> None:
    """Add one to the shared counter so many times, whoever else does the same.

    Between the first look and the first write it waits for a line, so that of several
    that were told at once only one can win.
    """
    lost = 0
    held = store.open("counter", "shared", now=NOW)
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for _ in range(times):
        while True:
            more = str(int(held.value) + 1).encode()
            try:
                store.replace("counter", "shared", more, expected=held.version, now=NOW)
            except ServiceError as e:
                if e.code is not Code.STATE_CONFLICT:
                    raise
                lost += 1
                held = store.open("counter", "shared", now=NOW)
            else:
                held = store.open("counter", "shared", now=NOW)
                break
    sys.stdout.write(f"{lost}\n")


def write(store: SealedStore, prefix: str) -> None:
    """Make records and count them in the same batch, for ever."""
    version = store.create("total", prefix, b"0", now=NOW)
    number = 0
    while True:
        number += 1
        name = f"{prefix}-{number}"
        total = Replace("total", prefix, str(number).encode(), version)
        version = store.batch([Create("item", name, b""), total], now=NOW)
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


def main() -> None:
    what, place, argument = sys.argv[1:]
    store = SealedStore.attach(engine_of(place), sealer())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if what == "count":
        count(store, int(argument))
    else:
        write(store, argument)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""How many creates and opens a second a state store takes, by how much it holds.

SQLite in a temporary folder; PostgreSQL too where an address is given, whose schema
must be empty: ``python benchmarks/state.py postgresql://user@host/database``.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tightseal.model.secret import Secret
from tightseal.model.state import Create
from tightseal.state.postgres import PostgresEngine
from tightseal.state.rows import Engine
from tightseal.state.seal import Sealer
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore

SIZES = (1_000, 10_000, 100_000)
ROUNDS = 200
THREADS = 8
BATCH = 250
VALUE = bytes(64)
NOW = 1


def rate(times: int, work: Callable[[int], object]) -> float:
    """How many calls a second."""
    start = time.perf_counter()
    for number in range(times):
        work(number)
    return times / (time.perf_counter() - start)


def threaded_rate(store: SealedStore, size: int) -> float:
    """Creates a second of threads that share one store."""

    def write(which: int) -> None:
        for number in range(ROUNDS // THREADS):
            store.create("usage", f"t{size}-{which}-{number}", VALUE, now=NOW)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(THREADS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ROUNDS / (time.perf_counter() - start)


def measure(name: str, engine: Engine) -> None:
    """Fill a new store step by step and print the rates at each size."""
    store = SealedStore.new(engine, Sealer(Secret(b"k" * 32), trust_domain="bench"))
    filled = 0
    for size in SIZES:
        while filled < size:
            names = [f"n{filled + i}" for i in range(BATCH)]
            store.batch([Create("usage", n, VALUE) for n in names], now=NOW)
            filled += BATCH
        creates = rate(
            ROUNDS, lambda i, s=size: store.create("usage", f"s{s}-{i}", VALUE, now=NOW)
        )
        opens = rate(
            ROUNDS, lambda i, s=size: store.open("usage", f"n{i * 7 % s}", now=NOW)
        )
        print(
            f"{name:<10} {size:>7} records  {creates:6.0f} creates/s"
            f"  {threaded_rate(store, size):6.0f} by {THREADS} threads"
            f"  {opens:6.0f} opens/s",
            flush=True,
        )
    store.close()


def main() -> None:
    """Measure every engine that was named."""
    with tempfile.TemporaryDirectory() as folder:
        measure("sqlite", SqliteEngine(Path(folder) / "state.db"))
    for dsn in sys.argv[1:]:
        measure("postgresql", PostgresEngine(dsn))


if __name__ == "__main__":
    main()

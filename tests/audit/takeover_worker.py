# SPDX-License-Identifier: Apache-2.0
"""Takes a journal over again and again, and dies before each statement in its turn.

Usage: takeover_worker.py FILE. Copies of FILE lie beside it afterwards, as ``FILE.N``
where process N was killed before statement N. Prints how many there are.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from unittest import mock

from journal_worker import NOW, log_key

from tightseal.audit.upgrade import take_over_journal
from tightseal.durable import connect

ENTRY_ID = b"taken over here."


def dying(at: int) -> "mock._patch[object]":
    """Connections whose process is killed before statement ``at``."""
    statements = itertools.count()

    def connected(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
        connection = connect(path, busy_seconds=busy_seconds)

        def before(_statement: str) -> None:
            if next(statements) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        connection.set_trace_callback(before)
        return connection

    return mock.patch("tightseal.audit.upgrade.connect", connected)


def killed(path: Path, at: int) -> bool:
    """Whether a process that was to die before statement ``at`` came that far."""
    child = os.fork()
    if child == 0:
        with dying(at):
            take_over_journal(path, log_key, entry_id=ENTRY_ID, now=NOW)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    original = Path(sys.argv[1])
    for at in itertools.count():
        copy = original.with_name(f"{original.name}.{at}")
        shutil.copyfile(original, copy)
        if not killed(copy, at):
            sys.stdout.write(f"{at}\n")
            return


if __name__ == "__main__":
    main()

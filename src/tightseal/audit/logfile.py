# SPDX-License-Identifier: Apache-2.0
"""What is done to a journal's log while no provider runs: checked, and signed anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tightseal.audit.checkpoint import Trust
from tightseal.audit.log import (
    Head,
    LogKey,
    check_log,
    log_signer,
    read_head,
    require_checkpoint,
    sign_head,
)
from tightseal.audit.note import NoteKey
from tightseal.audit.schema import BUSY_SECONDS, check_file, wrapped
from tightseal.durable import connect
from tightseal.errors import ServiceError

__all__ = ["check_journal", "is_signed", "rekey"]


def check_journal(
    path: Path, log_key: LogKey | NoteKey, *, whole: bool = False
) -> Head:
    """Check file and log before a provider starts; see ``log.check_log``.

    Args:
        path: the journal's file.
        log_key: derives the log's key, or its public half.
        whole: hash all entries again, not only the newest.

    Returns:
        the head of the log.

    Raises:
        ServiceError: ``journal_failed``, ``log_tampered``.
    """
    check_file(path)
    with _looking(path) as connection:
        connection.execute("BEGIN")
        if not isinstance(log_key, NoteKey):
            log_key = log_signer(read_head(connection).log_id, log_key).key
        return check_log(connection, Trust(log_key), whole=whole, let_go=True)


def is_signed(path: Path, log_key: LogKey | None = None) -> bool:
    """Whether the log has a signed head: by this key, where one is given.

    Raises:
        ServiceError: ``journal_failed``; ``log_tampered``, where it has no form.
    """
    with _looking(path) as connection:
        head = read_head(connection)
        if log_key is not None:
            key = log_signer(head.log_id, log_key).key
            try:
                require_checkpoint(head, Trust(key))
            except ServiceError:
                return False
        return bool(head.checkpoint)


def rekey(path: Path, *, before: LogKey, after: LogKey) -> None:
    """Sign the head with another key, after the log was checked under the old one.

    Readers of the log need the new key from then on; what the old one signed stays
    true of the same tree.

    Raises:
        ServiceError: ``journal_failed``, ``log_tampered``.
    """
    check_file(path)
    with _looking(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        log_id = read_head(connection).log_id
        head = check_log(connection, Trust(log_signer(log_id, before).key))
        sign_head(connection, head, log_signer(log_id, after))
        connection.execute("COMMIT")


@contextmanager
def _looking(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of its own; what is not committed when it ends is undone."""
    try:
        with closing(connect(path, busy_seconds=BUSY_SECONDS)) as connection:
            yield connection
    except (sqlite3.Error, OSError) as e:
        raise wrapped(e, f"reading the log in {path}") from e

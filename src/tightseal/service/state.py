# SPDX-License-Identifier: Apache-2.0
"""The state folder: made once and whole, opened from then on.

A sidecar may start with nothing, so an empty folder gets a fresh journal and a fresh
guard. A folder with one of the two and without the other was tampered with or half
restored, and is refused: what is missing must not become a fresh start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.audit.journal import FileMode, SqliteJournal
from tightseal.audit.schema import BUSY_SECONDS
from tightseal.collateral.guardfile import FileGuard
from tightseal.durable import connect
from tightseal.errors import Code, ServiceError
from tightseal.model.canonical import labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.service.settings import HostSettings, PlatformKind

__all__ = ["guard_path", "own_secret", "prepare_state", "probe_journal"]

SECRET_BYTES: Final = 32
MIN_FREE_BYTES: Final = 16 << 20
"""Less free space than this in the state folder, and the journal is not in order."""

log = structlog.get_logger("tightseal.state")


def guard_path(host: HostSettings) -> Path:
    """Where the guard against older collateral remembers."""
    return Path(host.state_dir) / "collateral-guard.json"


def own_secret(root: Secret, label: Label) -> Secret:
    """A secret of the provider's own, 32 bytes, one KDF step from a root."""
    derived = HKDF(
        algorithm=hashes.SHA256(),
        length=SECRET_BYTES,
        salt=None,
        info=labelled(label, None),
    ).derive(root.reveal())
    return Secret(derived)


def prepare_state(host: HostSettings, *, guard_key: Secret) -> None:
    """Make the state of a provider that has none; before any worker starts.

    Raises:
        ServiceError: ``journal_failed``, where one part is there and the other is not,
            or the folder cannot be used.
        CollateralError: ``collateral_guard_broken``, where the guard cannot be made.
    """
    journal, guard = host.journal_path, guard_path(host)
    try:
        Path(host.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        detail = f"host.state_dir {host.state_dir}: {e.strerror}"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e
    there = [path.exists() for path in (journal, guard)]
    if all(there):
        return
    if any(there):
        missing = guard if there[0] else journal
        detail = f"{missing} is missing beside the rest of the state; restore it"
        raise ServiceError(Code.JOURNAL_FAILED, detail)
    # Gramine shares no file mappings between processes, which a WAL needs.
    gramine = host.platform.kind is PlatformKind.GRAMINE
    mode = FileMode.ROLLBACK if gramine else FileMode.WAL
    SqliteJournal.create(journal, mode=mode).close()
    FileGuard.create(guard, key=guard_key)
    log.warning("state_created", folder=host.state_dir)


def probe_journal(path: Path) -> None:
    """Whether the journal can take an entry: lockable for writing, with space left.

    Raises:
        ServiceError: ``journal_failed``.
    """
    try:
        free = os.statvfs(path.parent)
        connection = connect(path, busy_seconds=BUSY_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except Exception as e:
        detail = f"{path}: {type(e).__name__}: {e}"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e
    if free.f_bavail * free.f_frsize < MIN_FREE_BYTES:
        detail = f"{path.parent}: less than {MIN_FREE_BYTES} bytes left"
        raise ServiceError(Code.JOURNAL_FAILED, detail)

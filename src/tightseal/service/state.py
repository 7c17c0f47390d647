# SPDX-License-Identifier: Apache-2.0
"""The state folder: made once and whole, opened from then on.

A provider may start with nothing, so an empty folder gets a fresh journal and a fresh
guard, and a fresh state store where a policy root is pinned. A folder with a part of
them and without the rest was tampered with or half restored, and is refused: what is
missing must not become a fresh start. Only ``host.state.create`` adds a store to a
folder that was used without one, and only where ``host.state.ended_logs`` names a log
does a missing journal get a new one in its place.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.audit.journal import ENTRY_ID_BYTES, FileMode, SqliteJournal
from tightseal.audit.log import LogKey, log_signer
from tightseal.audit.logfile import check_journal
from tightseal.audit.schema import BUSY_SECONDS
from tightseal.audit.upgrade import take_over_journal
from tightseal.collateral.guardfile import FileGuard
from tightseal.durable import connect
from tightseal.errors import Code, ServiceError
from tightseal.model.canonical import Value, labelled
from tightseal.model.claims import Vendor
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.service.settings import HostSettings, PlatformKind, StateEngine
from tightseal.state.rows import Engine
from tightseal.state.seal import Sealer
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore

__all__ = [
    "guard_path",
    "log_key",
    "open_engine",
    "open_store",
    "own_secret",
    "prepare_folder",
    "prepare_state",
    "probe_journal",
    "store_sealer",
]

SECRET_BYTES: Final = 32
_STORE_DOMAIN: Final = {
    PlatformKind.GRAMINE: Vendor.INTEL.value,
    PlatformKind.SEV_GUEST: Vendor.AMD.value,
    PlatformKind.SIM: Vendor.SIMULATED.value,
}
"""What a store is sealed under besides its key: whose hardware guards the key."""

MIN_FREE_BYTES: Final = 16 << 20
"""Less free space than this in the state folder, and the journal is not in order."""

log = structlog.get_logger("tightseal.state")


def guard_path(host: HostSettings) -> Path:
    """Where the guard against older collateral remembers."""
    return Path(host.state_dir) / "collateral-guard.json"


def own_secret(root: Secret, label: Label, value: Value = None) -> Secret:
    """A secret of the provider's own, 32 bytes, one KDF step from a root.

    Args:
        root: that it is derived from.
        label: what it is for.
        value: what else it belongs to.
    """
    derived = HKDF(
        algorithm=hashes.SHA256(),
        length=SECRET_BYTES,
        salt=None,
        info=labelled(label, value),
    ).derive(root.reveal())
    return Secret(derived)


def log_key(secret: Callable[[Label, Value], Secret]) -> LogKey:
    """Derives the keys of logs from a provider's own secrets: a key for each log id.

    Args:
        secret: a secret of the provider's own, by label and value.
    """
    return lambda log_id: secret(Label.KDF_LOG_KEY, log_id).reveal()


def prepare_folder(host: HostSettings) -> None:
    """Make the state folder, where there is none.

    Raises:
        ServiceError: ``journal_failed``.
    """
    try:
        Path(host.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        detail = f"host.state_dir {host.state_dir}: {e.strerror}"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e


def prepare_state(
    host: HostSettings,
    *,
    guard_key: Secret,
    store_key: Secret | None,
    log_key: LogKey,
    now: int,
) -> None:
    """Make the state of a provider that has none; before any worker starts.

    The log of one that has state is checked as far as a start may take. A journal of
    before the log is given one.

    Args:
        host: where it lies.
        guard_key: of the guard against older collateral.
        store_key: of the state store; ``None`` where no policy root needs one.
        log_key: derives the log's key.
        now: Unix seconds, of the entry that ends a journal of before the log.

    Raises:
        ServiceError: ``journal_failed``, where one part is there and the other is not,
            or the folder cannot be used; ``state_missing``, where only the store is
            missing; ``log_tampered``, where the log was cut or changed; else as of the
            store.
        CollateralError: ``collateral_guard_broken``, where the guard cannot be made.
    """
    prepare_folder(host)
    journal, guard = host.journal_path, guard_path(host)
    there = [path.exists() for path in (journal, guard)]
    anew = there == [False, True] and bool(host.state.ended_logs)
    if any(there) and not all(there) and not anew:
        missing = guard if there[0] else journal
        detail = f"{missing} is missing beside the rest of the state; restore it"
        raise ServiceError(Code.JOURNAL_FAILED, detail)
    if store_key is not None:
        # Before the files, which say from then on that a store has to be there.
        _prepare_store(host, store_key, fresh=not any(there))
    if anew:
        SqliteJournal.create(journal, mode=_file_mode(host)).close()
        log.warning("journal_created", path=str(journal))
    elif not any(there):
        _make_files(host, guard_key=guard_key)
    entry_id = secrets.token_bytes(ENTRY_ID_BYTES)
    taken = take_over_journal(journal, log_key, entry_id=entry_id, now=now)
    if taken is not None:
        log.warning("journal_taken_over", entries=taken.entries, root=taken.root.hex())
    head = check_journal(journal, log_key)
    key = log_signer(head.log_id, log_key).key
    log.info("log_checked", entries=head.frontier.size, log_verifier=str(key))


def _file_mode(host: HostSettings) -> FileMode:
    # Gramine shares no file mappings between processes, which a WAL needs.
    gramine = host.platform.kind is PlatformKind.GRAMINE
    return FileMode.ROLLBACK if gramine else FileMode.WAL


def _make_files(host: HostSettings, *, guard_key: Secret) -> None:
    SqliteJournal.create(host.journal_path, mode=_file_mode(host)).close()
    FileGuard.create(guard_path(host), key=guard_key)
    log.warning("state_created", folder=host.state_dir)


def _prepare_store(host: HostSettings, key: Secret, *, fresh: bool) -> None:
    engine = open_engine(host)
    try:
        if engine.schema() != 0:
            if fresh and host.state.engine is StateEngine.SQLITE:
                _require_unused(engine, store_sealer(host, key))
            return
        if not fresh and not host.state.create:
            detail = (
                f"{engine.name}: there is no state beside the other files: restore it, "
                "or, where there never was one, set host.state.create once"
            )
            raise ServiceError(Code.STATE_MISSING, detail)
        SealedStore.new(engine, store_sealer(host, key))
        log.warning("state_store_created", engine=engine.name)
    except ServiceError as e:
        # Another provider of the same database came first.
        if e.code is not Code.STATE_EXISTS:
            raise
    finally:
        engine.close()


def _require_unused(engine: Engine, sealer: Sealer) -> None:
    """A store of this folder that was used had a journal beside it."""
    if SealedStore.attach(engine, sealer).freshness().head.counter:
        detail = f"the journal is missing beside {engine.name}; restore it"
        raise ServiceError(Code.JOURNAL_FAILED, detail)


def open_store(host: HostSettings, key: Secret) -> SealedStore:
    """The state store; raises ``ServiceError``, as ``SealedStore.attach``."""
    return SealedStore.attach(open_engine(host), store_sealer(host, key))


def store_sealer(host: HostSettings, key: Secret) -> Sealer:
    """What seals the state store under a key."""
    return Sealer(key, trust_domain=_STORE_DOMAIN[host.platform.kind])


def open_engine(host: HostSettings) -> Engine:
    """Where the state store lies; the caller closes it.

    Raises:
        ServiceError: ``state_unavailable``, where the driver is missing.
    """
    if host.state.engine is StateEngine.SQLITE:
        # Gramine shares no file mappings between processes, which a WAL needs.
        shared = host.platform.kind is not PlatformKind.GRAMINE
        return SqliteEngine(host.state_path, shared_memory=shared)
    # Late: the driver is an extra.
    try:
        from tightseal.state.postgres import PostgresEngine  # noqa: PLC0415
    except ImportError as e:
        detail = "host.state.engine is postgres: pip install tightseal[postgres]"
        raise ServiceError(Code.STATE_UNAVAILABLE, detail) from e
    return PostgresEngine(host.state.url)


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

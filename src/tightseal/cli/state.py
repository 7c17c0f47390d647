# SPDX-License-Identifier: Apache-2.0
"""``tightseal state``: look after what a provider remembers.

A store is named by its file, or by ``postgresql://user@host/database``. Its key never
leaves the provider, so on a host these commands work on sealed records: they copy and
they find accidents. Where the key is at hand (inside the TEE, or in development),
``--key-file`` lets them verify everything.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.model.secret import Secret
from tightseal.state.backup import backup as write_backup
from tightseal.state.backup import restore as restore_backup
from tightseal.state.check import StateReport
from tightseal.state.check import check as check_store
from tightseal.state.migrate import migrate as migrate_store
from tightseal.state.rows import SCHEMA, Engine
from tightseal.state.seal import STORE_KEY_BYTES, Sealer
from tightseal.state.sqlite import SqliteEngine

__all__ = ["state_app"]

POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://")

_KEY_CHARS: Final = 2 * STORE_KEY_BYTES

state_app = App(
    name="state",
    help="Check, migrate, back up and restore what a provider remembers.",
    default_parameter=Parameter(negative=()),
)

KeyFile = Annotated[Path | None, Parameter("--key-file")]
TrustDomain = Annotated[str | None, Parameter("--trust-domain")]
Json = Annotated[bool, Parameter("--json")]


@state_app.command
def check(
    store: str,
    /,
    *,
    key_file: KeyFile = None,
    trust_domain: TrustDomain = None,
    as_json: Json = False,
) -> int:
    """Read the whole store and hold it together: 0 in order, 1 not, with the code.

    Args:
        store: File, or postgresql:// address.
        key_file: The store's key, 64 hex digits; without it only accidents are found.
        trust_domain: Of the key, such as intel or simulated:KEY_ID.
        as_json: One JSON document on stdout.
    """
    sealer = _sealer(key_file, trust_domain)
    with _engine(store) as engine:
        report = check_store(engine, sealer)
    _show("in order", report, as_json=as_json)
    return ui.EXIT_YES


@state_app.command
def migrate(
    store: str,
    /,
    *,
    key_file: Annotated[Path, Parameter("--key-file")],
    trust_domain: Annotated[str, Parameter("--trust-domain")],
    as_json: Json = False,
) -> int:
    """Bring a store of an older version to this one's schema, at once or not at all.

    Args:
        store: File, or postgresql:// address.
        key_file: The store's key, 64 hex digits: the head names the schema.
        trust_domain: Of the key.
        as_json: One JSON document on stdout.
    """
    sealer = _sealer(key_file, trust_domain)
    if sealer is None:
        raise SettingsError(Code.SETTINGS_INVALID, "--key-file: expected")
    with _engine(store) as engine:
        done = migrate_store(engine, sealer)
    if as_json:
        ui.print_json({"schema": SCHEMA, "steps": list(done)})
        return ui.EXIT_YES
    ui.verdict("migrated" if done else "nothing to do", f"schema {SCHEMA}", tone="yes")
    ui.facts([("step", step) for step in done])
    return ui.EXIT_YES


@state_app.command
def backup(store: str, out: Path, /, *, as_json: Json = False) -> int:
    """Copy one moment of a store that may be in use, still sealed. Needs no key.

    Args:
        store: File, or postgresql:// address.
        out: The new file; never overwritten.
        as_json: One JSON document on stdout.
    """
    with _engine(store) as engine, _new_file(out) as file:
        records = write_backup(engine, file)
    if as_json:
        ui.print_json({"written": str(out), "records": records})
    else:
        ui.verdict("backed up", f"{records} records to {out}", tone="yes")
    return ui.EXIT_YES


@state_app.command
def restore(
    store: str,
    source: Path,
    /,
    *,
    key_file: KeyFile = None,
    trust_domain: TrustDomain = None,
    as_json: Json = False,
) -> int:
    """Make a store from a backup where there is none. What was written since is lost.

    Args:
        store: File, or postgresql:// address.
        source: The backup.
        key_file: The store's key, 64 hex digits; without it only accidents are found.
        trust_domain: Of the key.
        as_json: One JSON document on stdout.
    """
    sealer = _sealer(key_file, trust_domain)
    try:
        with source.open("rb") as file, _engine(store) as engine:
            report = restore_backup(engine, file, sealer)
    except OSError as e:
        raise _unusable(source, e) from e
    _show("restored", report, as_json=as_json)
    return ui.EXIT_YES


@contextmanager
def _engine(store: str) -> Iterator[Engine]:
    engine: Engine
    if store.startswith(POSTGRES_SCHEMES):
        try:
            from tightseal.state.postgres import PostgresEngine  # noqa: PLC0415 (extra)
        except ModuleNotFoundError as e:
            detail = "PostgreSQL needs the extra: pip install 'tightseal[postgres]'"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        engine = PostgresEngine(store)
    else:
        engine = SqliteEngine(Path(store))
    try:
        yield engine
    finally:
        engine.close()


def _sealer(key_file: Path | None, trust_domain: str | None) -> Sealer | None:
    if key_file is None and trust_domain is None:
        return None
    if key_file is None or trust_domain is None:
        detail = "--key-file and --trust-domain: expected both or neither"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    try:
        with key_file.open("rb") as file:
            text = file.read(_KEY_CHARS + 2).strip()
    except OSError as e:
        raise _unusable(key_file, e) from e
    key = b""
    with suppress(ValueError):
        key = bytes.fromhex(text.decode("ascii", "replace"))
    if len(key) != STORE_KEY_BYTES:
        detail = f"{key_file}: expected {_KEY_CHARS} hex digits and nothing else"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return Sealer(Secret(key), trust_domain=trust_domain)


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all, and replaces none."""
    if path.exists():
        detail = f"{path}: there is a file already"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, fails where the name was taken meanwhile.
            path.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        raise _unusable(path, e) from e


def _unusable(path: Path, error: OSError) -> ServiceError:
    return SettingsError(Code.SETTINGS_INVALID, f"{path}: {error.strerror}")


def _show(word: str, report: StateReport, *, as_json: bool) -> None:
    records = sum(kind.records for kind in report.kinds)
    if as_json:
        ui.print_json(_document(word, report))
        return
    verified = report.head is not None
    summary = f"{records} records, head {'verified' if verified else 'not verified'}"
    ui.verdict(word, summary, tone="yes" if verified else "unsure")
    facts = [("store", report.store_id.hex()), ("schema", str(report.schema))]
    if report.head is not None:
        facts.append(("counter", str(report.head.counter)))
    ui.facts([*facts, ("not noticed", report.not_noticed)])
    for kind in report.kinds:
        ui.heading(kind.kind)
        size = str(kind.sealed_bytes)
        ui.facts([("records", str(kind.records)), ("sealed bytes", size)])


def _document(word: str, report: StateReport) -> dict[str, Any]:
    head = report.head
    return {
        "result": word,
        "store": report.store_id.hex(),
        "schema": report.schema,
        "verified": head is not None,
        "counter": None if head is None else head.counter,
        "kinds": {
            kind.kind: {"records": kind.records, "sealed_bytes": kind.sealed_bytes}
            for kind in report.kinds
        },
        "not_noticed": report.not_noticed,
    }

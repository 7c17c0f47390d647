# SPDX-License-Identifier: Apache-2.0
"""``tightseal audit export | verify | prove``: the log as tiles, checked and proved."""

from __future__ import annotations

import os
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from tightseal.audit.checkpoint import Trust, VerifiedCheckpoint
from tightseal.audit.entry import parse_entry
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_origin
from tightseal.audit.logfile import check_journal
from tightseal.audit.merkle import MAX_SIZE, leaf_hash
from tightseal.audit.note import base64_text
from tightseal.audit.proof import MAX_LOG_PROOF_BYTES, LogProof, verify_log_proof
from tightseal.audit.publish import publish
from tightseal.audit.tiles import TileSource
from tightseal.audit.verify import find_entry, prove_entry, read_checkpoint, verify_log
from tightseal.cli import ui
from tightseal.cli.audit_keys import LogKeys
from tightseal.cli.audit_text import plain
from tightseal.cli.audit_tiles import (
    Fetch,
    Progress,
    Tiles,
    read_tiles,
    written_tiles,
)
from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.service.load import DEFAULT_CONFIG, SettingsFiles

__all__ = ["export", "prove", "verify"]

Json = Annotated[bool, Parameter("--json")]
Config = Annotated[Path, Parameter(name=["--config", "-c"])]
HostConfig = Annotated[Path | None, Parameter(name=["--host-config"])]

ENTRY_ID_CHARS: Final = 32


def export(
    *,
    tiles: Tiles,
    config: Config = DEFAULT_CONFIG,
    host_config: HostConfig = None,
    as_json: Json = False,
) -> int:
    """Write the log as C2SP tiles, or bring them up to date: 0 done, 1 refused.

    A folder can be served by any web server; a database can have the logs of many
    nodes. Nothing in them is secret from whoever may read the log. A journal that does
    not lead to what was written before is refused: it was cut or changed.

    Args:
        tiles: the folder, or ``postgresql://user@host/database`` for rows.
        config: the provider's settings file; says where its journal is.
        host_config: the host file, as for ``tightseal serve``.
        as_json: one JSON document on stdout.
    """
    with closing(_journal(config, host_config)) as journal:
        origin = log_origin(journal.head().log_id)
        with written_tiles(tiles, origin) as store, store.alone(wait=True):
            head = publish(journal, store)
    if as_json:
        root = base64_text(head.root)
        ui.print_json({"origin": head.origin, "size": head.size, "root": root})
        return ui.EXIT_YES
    ui.verdict("written", f"{head.size} entries to {tiles}", tone="yes")
    ui.facts([("origin", head.origin), ("root", base64_text(head.root))])
    return ui.EXIT_YES


def verify(
    *,
    keys: LogKeys,
    tiles: Tiles = "",
    fetch: Fetch | None = None,
    proof: Annotated[Path | None, Parameter("--proof")] = None,
    config: Config = DEFAULT_CONFIG,
    host_config: HostConfig = None,
    min_size: Annotated[int, Parameter(validator=Number(gte=0, lte=MAX_SIZE))] = 0,
    as_json: Json = False,
) -> int:
    """Check every byte of a log: 0 whole, 1 changed or cut, 2 there is none.

    Without ``--tiles`` and ``--proof`` it checks the journal itself. What no check of
    one copy can see is a log that was cut together with its checkpoint: say with
    ``--min-size`` what was there before, and ask for witnesses.

    Args:
        keys: whose signatures are needed.
        tiles: folder that ``audit export`` wrote, ``postgresql://…``, or the address
            ``https://…`` or ``http://…`` of a log that is served.
        fetch: how tiles of a server or a database are read.
        proof: a proof of one entry, in place of a whole log.
        config: the provider's settings file; says where its journal is.
        host_config: the host file, as for ``tightseal serve``.
        min_size: fewer entries than this are too few.
        as_json: one JSON document on stdout.
    """
    trust = keys.trust()
    if proof is not None:
        return _verify_proof(proof, trust, min_size=min_size, as_json=as_json)
    if tiles:
        progress = Progress("checked")
        with read_tiles(tiles, trust.log.name, fetch or Fetch()) as source:
            audited = verify_log(source, trust, each=lambda at, _: progress.at(at))
        head, ahead = audited.head, audited.ahead
        _require_size(head.checkpoint.size, min_size)
        if as_json:
            ui.print_json(_head_json(head) | {"ahead": list(ahead)})
            return ui.EXIT_YES
        ui.verdict("whole", f"{head.checkpoint.size} entries in {tiles}", tone="yes")
        ui.facts(_head_rows(head))
        if ahead:
            ui.note(f"{len(ahead)} files are of a newer checkpoint: not covered")
        return ui.EXIT_YES
    if trust.threshold:
        detail = "the journal has no cosignatures; with --threshold give --tiles"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    path = _journal_path(config, host_config)
    checked = check_journal(path, trust.log, whole=True).frontier
    _require_size(checked.size, min_size)
    root = base64_text(checked.root())
    origin = trust.log.name
    if as_json:
        ui.print_json(
            {"origin": origin, "size": checked.size, "root": root, "witnesses": []}
            | {"ahead": []}
        )
        return ui.EXIT_YES
    ui.verdict("whole", f"{checked.size} entries in {path}", tone="yes")
    ui.facts([("origin", origin), ("root", root)])
    return ui.EXIT_YES


def prove(
    *,
    tiles: Tiles,
    keys: LogKeys,
    out: Path,
    fetch: Fetch | None = None,
    index: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    entry_id: str = "",
    as_json: Json = False,
) -> int:
    """Write the proof that an entry is in the log: 0 written, 1 changed, 2 not there.

    The file is of C2SP ``tlog-proof``, with the entry as its extra data; it is checked
    offline with ``tightseal audit verify --proof``.

    Args:
        tiles: folder that ``audit export`` wrote, ``postgresql://…``, or the address
            of a log that is served.
        keys: whose signatures the checkpoint needs.
        out: the file to write.
        fetch: how tiles of a server or a database are read.
        index: place of the entry in the log, from 0.
        entry_id: id of the entry in hex, as a receipt names it, in place of an index;
            reads the log from the start.
        as_json: one JSON document on stdout.
    """
    trust = keys.trust()
    if (index is None) is not bool(entry_id):
        raise SettingsError(Code.SETTINGS_INVALID, "give --index or --entry-id")
    wanted = _entry_id(entry_id) if index is None else b""
    with read_tiles(tiles, trust.log.name, fetch or Fetch()) as source:
        if index is None:
            index = _find(source, trust, wanted)
        made = prove_entry(source, trust, index)
    try:
        out.write_bytes(made.encode())
    except OSError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{out}: {e.strerror}") from e
    if as_json:
        ui.print_json({"index": index, "proof": str(out), "entry": _entry(made.extra)})
        return ui.EXIT_YES
    ui.verdict("proved", f"entry {index}, in {out}", tone="yes")
    return ui.EXIT_YES


def _find(source: TileSource, trust: Trust, entry_id: bytes) -> int:
    progress, seen = Progress("searched"), count()

    def wanted(entry: bytes) -> bool:
        progress.at(next(seen))
        return parse_entry(entry).entry_id == entry_id

    size = read_checkpoint(source, trust).checkpoint.size
    return find_entry(source, size, wanted)


def _verify_proof(file: Path, trust: Trust, *, min_size: int, as_json: bool) -> int:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_LOG_PROOF_BYTES + 1)
    except OSError as e:
        raise ServiceError(Code.LOG_MISSING, f"{file}: {e.strerror}") from e
    proof = LogProof.parse(data)
    if not proof.extra:
        detail = f"{file}: the entry itself is not in it, so it proves nothing alone"
        raise ServiceError(Code.LOG_MALFORMED, detail)
    head = verify_log_proof(proof, leaf=leaf_hash(proof.extra), trust=trust)
    _require_size(head.checkpoint.size, min_size)
    entry = _entry(proof.extra)
    if as_json:
        ui.print_json(_head_json(head) | {"index": proof.index, "entry": entry})
        return ui.EXIT_YES
    ui.verdict("proved", f"entry {proof.index} of {head.checkpoint.size}", tone="yes")
    ui.facts(
        [*_head_rows(head), *((name, str(value)) for name, value in entry.items())]
    )
    return ui.EXIT_YES


def _entry(data: bytes) -> dict[str, Any]:
    entry = parse_entry(data)
    return {
        "entry_id": entry.entry_id.hex(),
        "time": entry.time,
        "granted": entry.granted,
        "protocol_class": entry.protocol_class,
        "code": entry.code,
        "body": plain(entry.body),
        "body_hash": entry.body_hash.hex(),
    }


def _head_json(head: VerifiedCheckpoint) -> dict[str, Any]:
    checkpoint = head.checkpoint
    return {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": base64_text(checkpoint.root),
        "witnesses": [{"name": w.key.name, "time": w.time} for w in head.witnesses],
    }


def _head_rows(head: VerifiedCheckpoint) -> list[tuple[str, str]]:
    checkpoint = head.checkpoint
    rows = [("origin", checkpoint.origin), ("root", base64_text(checkpoint.root))]
    return rows + [(w.key.name, f"cosigned at {w.time}") for w in head.witnesses]


def _require_size(size: int, at_least: int) -> None:
    if size < at_least:
        detail = f"log: {size} entries, and there were {at_least} before: it was cut"
        raise ServiceError(Code.LOG_TAMPERED, detail)


def _entry_id(text: str) -> bytes:
    try:
        if len(text) != ENTRY_ID_CHARS:
            raise ValueError
        return bytes.fromhex(text)
    except ValueError as e:
        detail = f"--entry-id: expected {ENTRY_ID_CHARS} characters of hex"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def _journal_path(config: Path, host_config: Path | None) -> Path:
    path = (
        SettingsFiles(config, host_config).load(os.environ).settings.host.journal_path
    )
    if not path.exists():
        raise ServiceError(Code.LOG_MISSING, f"there is no journal at {path}")
    return path


def _journal(config: Path, host_config: Path | None) -> SqliteJournal:
    return SqliteJournal.open(_journal_path(config, host_config))

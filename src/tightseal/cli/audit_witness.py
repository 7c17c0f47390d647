# SPDX-License-Identifier: Apache-2.0
"""``tightseal audit witness | cosign``: whoever sees that a log only grows."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tightseal.audit.checkpoint import Trust, VerifiedCheckpoint
from tightseal.audit.note import NoteKey
from tightseal.audit.tilefiles import FileTileStore, alone_in
from tightseal.audit.tiles import CHECKPOINT_PATH, TileStore
from tightseal.audit.verify import prove_consistency, read_checkpoint
from tightseal.audit.witness import Witness, merge_cosignatures
from tightseal.cli import ui
from tightseal.cli.audit_keys import LogKeys
from tightseal.cli.audit_tiles import Tiles, written_tiles
from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.guest.http import Bounds
from tightseal.service.witness import (
    new_witness_key,
    read_witness_key,
    serve_witness,
)
from tightseal.service.witness_client import WitnessClient

__all__ = ["cosign", "witness_app"]

BOUNDS: Final = Bounds(read=30.0, write=30.0, total=60.0, attempts=1)
KEY_NAME: Final = "witness-key.json"
MAX_PORT: Final = 65_535

Json = Annotated[bool, Parameter("--json")]

witness_app = App(
    name="witness",
    help="Run a witness: it cosigns checkpoints of logs that only grow.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


@witness_app.command
def init(folder: Path, *, name: str, as_json: Json = False) -> int:
    """Make a witness's key: 0 made, 1 there is one.

    Args:
        folder: of the witness; its key and what it remembers lie here.
        name: of the key: a name of yours that nobody else uses, without a scheme, such
            as ``witness.example.org/1``.
        as_json: one JSON document on stdout.
    """
    with alone_in(folder, wait=False):
        signer = new_witness_key(folder / KEY_NAME, name, entropy=secrets.token_bytes)
    if as_json:
        ui.print_json({"name": name, "key": str(signer.key)})
        return ui.EXIT_YES
    ui.verdict("made", f"the key of {name}", tone="yes")
    ui.facts([("verifier key", str(signer.key))])
    return ui.EXIT_YES


@witness_app.command
def serve(
    folder: Path,
    *,
    log: Annotated[list[str], Parameter("--log")],
    address: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=MAX_PORT))] = 3480,
) -> int:
    """Cosign checkpoints over HTTP until a signal ends it (C2SP tlog-witness).

    TLS is a proxy's. Keep the folder: a witness that forgot what it saw cosigns any
    tree once more.

    Args:
        folder: of the witness, after ``tightseal audit witness init``.
        log: verifier key of a log that is watched; can be given several times.
        address: to listen on.
        port: likewise.
    """
    try:
        logs = [NoteKey.parse(text) for text in log]
    except ServiceError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"--log: {e.detail}") from e
    with alone_in(folder, wait=False):
        signer = read_witness_key(folder / KEY_NAME)
        store = FileTileStore(folder / "logs")
        ui.note(f"witness {signer.key} at {address}:{port}")
        serve_witness(
            Witness(signer, logs, store),
            host=address,
            port=port,
            clock=lambda: int(time.time()),
        )
    return ui.EXIT_YES


def cosign(
    *,
    tiles: Tiles,
    keys: LogKeys,
    url: Annotated[list[str], Parameter("--url")],
    as_json: Json = False,
) -> int:
    """Have witnesses cosign the published checkpoint: 0 enough did, 1 too few.

    Each address is asked, and its cosignature kept beside the log's signature where it
    is by a key given with ``--witness``.

    Args:
        tiles: folder that ``audit export`` wrote, or ``postgresql://…``.
        keys: the log's key, the witnesses', and how many must have cosigned; all of
            them, where no threshold is given.
        url: submission prefix of a witness; can be given several times.
        as_json: one JSON document on stdout.
    """
    trust = keys.trust()
    if not trust.witnesses:
        raise SettingsError(Code.SETTINGS_INVALID, "give the witnesses' --witness")
    anyhow = Trust(trust.log, trust.witnesses)
    refused: list[str] = []
    with written_tiles(tiles, trust.log.name) as store:
        for address in url:
            try:
                answer = _submit(address, store, read_checkpoint(store, anyhow))
                with store.alone(wait=True):
                    _keep(store, answer, anyhow)
            except ServiceError as e:
                refused.append(f"{address}: {e.code.value}: {e.detail}")
        head = read_checkpoint(store, anyhow)
    names = [one.key.name for one in head.witnesses]
    wanted = trust.threshold or len(trust.witnesses)
    if as_json:
        ui.print_json(
            {
                "size": head.checkpoint.size,
                "cosigned": names,
                "wanted": wanted,
                "refused": refused,
            }
        )
    else:
        tone, word = ("yes", "cosigned") if len(names) >= wanted else ("no", "too few")
        ui.verdict(word, f"{len(names)} of {wanted} witnesses", tone=tone)
        ui.facts([("size", str(head.checkpoint.size)), ("by", ", ".join(names))])
    for line in refused:
        ui.note(line)
    return ui.EXIT_YES if len(names) >= wanted else ui.EXIT_NO


def _keep(store: TileStore, answer: bytes, trust: Trust) -> None:
    """Put cosignatures beside the log's own; of a newer checkpoint they are not.

    Raises:
        ServiceError: ``log_malformed``; ``log_undersigned``, where they are not over
            what is published now.
    """
    # Read anew: another cosignature, or a newer checkpoint, may have come meanwhile.
    head = read_checkpoint(store, trust)
    note = merge_cosignatures(head.note, answer, trust.witnesses)
    store.write(CHECKPOINT_PATH, note.encode())
    store.flush()


def _submit(address: str, store: TileStore, head: VerifiedCheckpoint) -> bytes:
    """The signature lines that a witness answers with; raises as ``WitnessClient``."""
    size = head.checkpoint.size
    client = WitnessClient(address, bounds=BOUNDS)
    try:
        return client.submit(
            head.note.encode(),
            size=size,
            prove=lambda old: prove_consistency(store, old, size),
        )
    finally:
        client.close()

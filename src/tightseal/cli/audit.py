# SPDX-License-Identifier: Apache-2.0
"""``tightseal audit``: what a provider decided, its log, and witnesses of it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tightseal.audit.journal import MAX_LISTED, SqliteJournal
from tightseal.cli import ui
from tightseal.cli.audit_keys import LogKeys
from tightseal.cli.audit_log import export, prove, verify
from tightseal.cli.audit_query import query
from tightseal.cli.audit_read import last_of_tiles, trust_for
from tightseal.cli.audit_text import document, line
from tightseal.cli.audit_tiles import Fetch, Tiles, logs
from tightseal.cli.audit_witness import cosign, witness_app
from tightseal.service.load import DEFAULT_CONFIG, SettingsFiles

__all__ = ["audit_app"]

audit_app = App(
    name="audit",
    help="What a provider decided: its journal, the log over it, and witnesses.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
audit_app.command(query)
audit_app.command(export)
audit_app.command(verify)
audit_app.command(prove)
audit_app.command(cosign)
audit_app.command(logs)
audit_app.command(witness_app)


@audit_app.command
def tail(
    *,
    tiles: Tiles = "",
    keys: LogKeys | None = None,
    fetch: Fetch | None = None,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = DEFAULT_CONFIG,
    host_config: Annotated[Path | None, Parameter(name=["--host-config"])] = None,
    after: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    count: Annotated[int, Parameter(validator=Number(gte=1, lte=MAX_LISTED))] = 20,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Print the last entries, oldest first: 0 read, 1 not in order, 2 no settings.

    Out of the journal, which holds no key: what is printed is what the file says, and
    whoever can write to it can change it. Or, with ``--tiles``, out of the published
    log: each entry is proved to be in it.

    Args:
        tiles: folder that ``audit export`` wrote, ``postgresql://…``, or the address
            of a log that is served, in place of the journal.
        keys: whose signatures its checkpoint needs.
        fetch: how tiles of a server or a database are read.
        config: the provider's settings file; says where its journal is.
        host_config: the host file, as for ``tightseal serve``.
        after: entries behind this number; by default the last ones.
        count: most entries.
        as_json: one JSON document on stdout, with everything that an entry holds.
    """
    trust = trust_for(tiles, keys)
    if trust is not None:
        latest, entries = last_of_tiles(
            tiles, trust, fetch or Fetch(), after=after, count=count
        )
    else:
        host = SettingsFiles(config, host_config).load(os.environ).settings.host
        with closing(SqliteJournal.open(host.journal_path)) as journal:
            latest = journal.latest()
            start = max(0, latest - count) if after is None else after
            entries = journal.entries(after=start, limit=count)
    if as_json:
        ui.print_json({"latest": latest, "entries": [document(e) for e in entries]})
        return ui.EXIT_YES
    for recorded in entries:
        ui.facts([(str(recorded.seq), line(recorded))])
    if not entries:
        ui.note(f"no entries there; the last one is {latest}")
    return ui.EXIT_YES

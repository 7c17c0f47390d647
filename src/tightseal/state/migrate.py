# SPDX-License-Identifier: Apache-2.0
"""Bringing a store of an older version to this one's schema."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tightseal.errors import Code, ServiceError
from tightseal.state.faults import tampered
from tightseal.state.heads import read_head
from tightseal.state.rows import SCHEMA, HeadRow

if TYPE_CHECKING:
    from tightseal.state.rows import Engine
    from tightseal.state.seal import Sealer

__all__ = ["migrate"]


def migrate(engine: Engine, sealer: Sealer) -> tuple[str, ...]:
    """Run every step after the schema found, all in one transaction.

    The counter stays, so anchors must take the migrated head as the same moment: the
    head's digest does not cover the schema.

    Returns:
        the names of the steps that were run; none where the schema is this version's.

    Raises:
        ServiceError: ``state_missing``; ``state_schema_unsupported``, where it is newer
            than this version; ``state_tampered``; ``state_unavailable``.
    """
    if engine.schema() == 0:
        raise ServiceError(Code.STATE_MISSING, f"{engine.name}: there is no state")

    def rewrite(row: HeadRow) -> HeadRow:
        body = read_head(row, sealer)
        if body.schema != row.schema or body.schema >= SCHEMA:
            raise tampered(f"head of schema {body.schema} in tables of {row.schema}")
        sealed = sealer.seal_head(row.store_id, replace(body, schema=SCHEMA).as_value())
        return HeadRow(row.store_id, SCHEMA, sealed)

    return engine.migrate(rewrite)

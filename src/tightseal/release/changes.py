# SPDX-License-Identifier: Apache-2.0
"""What the journal gets to know of changes of a keyring that no action asked for.

The form is that of an action's entry: what was done in place of the action, no role,
and nobody who signed. Who typed a command is not known: whoever was on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tightseal.errors import Code
from tightseal.keys.keyring import Header
from tightseal.model.canonical import Value
from tightseal.model.ports import JournalEntry

__all__ = ["ChangeBy", "KeyringChange"]


class ChangeBy(StrEnum):
    """What stands in place of a protocol class."""

    COMMAND = "command"
    """A command on the machine; nobody signed."""

    START = "start"
    """A provider at its first start: what it found, however that was made."""

    AGE = "age"
    """The provider itself, since the release settings say so."""


@dataclass(frozen=True, slots=True)
class KeyringChange:
    """A change that is about to be made.

    Attributes:
        kind: what is done: that of the action that does the same, where there is one.
        by: who.
        header: of the keyring before it.
        parameters: what of it; never a secret.
    """

    kind: str
    by: ChangeBy
    header: Header
    parameters: Mapping[str, Value]

    def entry(
        self, *, entry_id: bytes, now: int, refusal: Code | None = None
    ) -> JournalEntry:
        """The entry before the change; with a refusal, the one after it failed."""
        return JournalEntry(
            entry_id=entry_id,
            time=now,
            granted=refusal is None,
            protocol_class=self.by.value,
            code="granted" if refusal is None else refusal.value,
            body={
                "action": {
                    "kind": self.kind,
                    "keyring_id": self.header.keyring_id,
                    "policy_root": self.header.policy_root,
                    "parameters": {
                        "counter": self.header.counter,
                        **self.parameters,
                    },
                },
                "role": None,
                "signers": [],
            },
        )

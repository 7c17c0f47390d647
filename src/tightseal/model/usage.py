# SPDX-License-Identifier: Apache-2.0
"""Usage rules: how often, and where, a workload may have a key.

They need a memory: what was released is counted in a record of the state store, one for
each purpose of a workload, whatever the labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.model.canonical import labelled
from tightseal.model.labels import Label

__all__ = [
    "MAX_PER_HOUR",
    "MAX_TOTAL",
    "UsageDemand",
    "UsageRule",
    "key_record",
    "wrapped_record",
]

MAX_PER_HOUR: Final = 1000
MAX_TOTAL: Final = 1 << 32
"""Highest limits that a rule may name."""


def key_record(*, tenant: str, workload: str, purpose: str) -> str:
    """The name of a record about one purpose of a workload; 64 hex digits."""
    value = labelled(Label.KEY_RECORD, [tenant, workload, purpose])
    return hashlib.sha256(value).hexdigest()


def wrapped_record(*, tenant: str, workload: str, purpose: str, label: str) -> str:
    """The name of the record of one wrapped key of a workload; 64 hex digits."""
    value = labelled(Label.WRAPPED_RECORD, [tenant, workload, purpose, label])
    return hashlib.sha256(value).hexdigest()


@dataclass(frozen=True, slots=True)
class UsageRule:
    """What must be counted before a key leaves.

    Attributes:
        per_hour: most releases in any 3600 seconds.
        total: most releases ever.
        first_platform: the first platform that asks is the only one from then on, until
            a signed action releases it.
        without_anchor: whether the rule may run where putting the whole state back
            would go unnoticed.
    """

    per_hour: int | None = None
    total: int | None = None
    first_platform: bool = False
    without_anchor: bool = False


@dataclass(frozen=True, slots=True)
class UsageDemand:
    """A rule that a grant stands under.

    Attributes:
        purpose: of the key; for texts.
        record: the name of its record; see :func:`key_record`.
        rule: what to count.
        times: how many releases and uses one request stands for.
    """

    purpose: str
    record: str
    rule: UsageRule
    times: int = 1

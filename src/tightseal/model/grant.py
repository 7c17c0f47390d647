# SPDX-License-Identifier: Apache-2.0
"""The grant: policy's yes, with the key paths it allows."""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.model.keypath import KeyPath

__all__ = ["Grant", "Reason"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule of a decision: for the operator's log, never for the workload."""

    rule: str
    expected: str
    got: str
    satisfied: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """What policy allows.

    Attributes:
        paths: one key path for each key request, in order.
        reasons: every rule that was looked at.
    """

    paths: tuple[KeyPath, ...]
    reasons: tuple[Reason, ...] = ()

# SPDX-License-Identifier: Apache-2.0
"""The grant: policy's yes, with the key paths it allows."""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.model.keypath import KeyPath
from tightseal.model.logclass import LogClass
from tightseal.model.usage import UsageDemand

__all__ = ["Grant", "Reason", "WrappedUse"]


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule of a decision: for the operator's log, never for the workload."""

    rule: str
    expected: str
    got: str
    satisfied: bool


@dataclass(frozen=True, slots=True)
class WrappedUse:
    """A key that is not derived but lies in a record, wrapped under the root.

    Attributes:
        record: the name of its record; see ``model.usage.wrapped_record``.
        create: make it, where it must not be there; else open it, where it must.
        imported: what is made is an existing key, that the workload hands over.
    """

    record: str
    create: bool = False
    imported: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What policy allows.

    Attributes:
        paths: one key path for each key request, in order.
        reasons: every rule that was looked at.
        workload: ``tenant/name`` of the workload in the policy; empty for the built-in
            policy, which knows no names.
        image: label of the image that fitted; likewise.
        usage: what must be counted before a key leaves; one for each purpose with a
            rule of which a private part was asked for.
        adopted: for each path whose key was adopted from another path, the name of the
            record that says from which; ``None`` for others. In the order of ``paths``.
        wrapped: for each path whose key is wrapped, its record; ``None`` for others. In
            the order of ``paths``.
        log_class: who must have seen the entry before a key leaves, by the documents;
            the release settings may ask for more.
    """

    paths: tuple[KeyPath, ...]
    reasons: tuple[Reason, ...] = ()
    workload: str = ""
    image: str = ""
    usage: tuple[UsageDemand, ...] = ()
    adopted: tuple[str | None, ...] = ()
    wrapped: tuple[WrappedUse | None, ...] = ()
    log_class: LogClass = LogClass.SIGNED

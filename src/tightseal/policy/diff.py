# SPDX-License-Identifier: Apache-2.0
"""What two policies say differently, whatever the order of their texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tightseal.policy.compile import compile_policy
from tightseal.policy.document import ProviderRules, RoleRules, WorkloadRules
from tightseal.policy.read import Parsed

__all__ = ["ABSENT", "Difference", "differences", "plain", "role_name"]

ABSENT: Final = "-"
"""Stands for a side that says nothing."""

_LISTED: Final = {"image": "label", "key": "purpose"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one workload, role or provider.

    Attributes:
        workload: ``tenant/name``; of a role ``role name``, with its tenant before it;
            of a provider ``provider name``.
        field: such as ``image[2026-10].measurements.rtmr2``; empty where the whole
            workload stands on one side alone.
        before: what the first policy says, ``ABSENT`` where nothing.
        after: what the second says.
    """

    workload: str
    field: str
    before: str
    after: str


def differences(
    before: Sequence[Parsed], after: Sequence[Parsed]
) -> tuple[Difference, ...]:
    """Every difference, in the order of workloads and fields.

    Raises:
        SettingsError: ``policy_invalid``, where one side cannot be compiled.
    """
    compile_policy(before)
    compile_policy(after)
    return tuple(_differences(_by_name(before), _by_name(after)))


def plain(rules: WorkloadRules | RoleRules | ProviderRules) -> dict[str, Any]:
    """A workload, role or provider with every default spelled out, as JSON has it."""
    found: dict[str, Any] = _utc(msgspec.to_builtins(rules, builtin_types=(datetime,)))
    return found


def _utc(value: Any) -> Any:
    """Moments in one spelling, lists as JSON has them."""
    if isinstance(value, dict):
        return {name: _utc(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_utc(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def _by_name(documents: Iterable[Parsed]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for parsed in documents:
        for rules in parsed.document.workload:
            found[f"{rules.tenant}/{rules.name}"] = dict(_flat("", plain(rules)))
        for role in parsed.document.role:
            found[role_name(role)] = dict(_flat("", plain(role)))
        for provider in parsed.document.provider:
            found[f"provider {provider.name}"] = dict(_flat("", plain(provider)))
    return found


def role_name(rules: RoleRules) -> str:
    """A role for people; a space is in no name, so it is no workload's."""
    within = "" if rules.tenant is None else f"{rules.tenant}/"
    return f"role {within}{rules.name}"


def _differences(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> Iterator[Difference]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            sides = [ABSENT if side is None else "present" for side in (old, new)]
            yield Difference(name, "", *sides)
            continue
        for field in sorted(old.keys() | new.keys()):
            sides = [old.get(field, ABSENT), new.get(field, ABSENT)]
            if sides[0] != sides[1]:
                yield Difference(name, field, *sides)


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Fields with their values; lists without an order are sorted."""
    if isinstance(value, dict):
        for name, item in value.items():
            if item is None:
                continue
            below = f"{path}.{name}" if path else name
            if name in _LISTED and not path:
                for i, entry in enumerate(item):
                    yield from _flat(f"{below}[{_label(name, item, i)}]", entry)
            else:
                yield from _flat(below, item)
    elif isinstance(value, list):
        yield path, ", ".join(sorted(_inline(item) or "''" for item in value)) or "none"
    else:
        yield path, _inline(value)


def _inline(value: Any) -> str:
    """A table within a list, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, dict):
        return str(value)
    return "; ".join(f"{field} {text}" for field, text in _flat("", value))


def _label(name: str, items: list[dict[str, Any]], index: int) -> str:
    """What an entry is known by; a number besides, where a label stands twice."""
    key = _LISTED[name]
    label = str(items[index][key])
    earlier = sum(str(item[key]) == label for item in items[:index])
    return f"{label}#{earlier + 1}" if earlier else label

# SPDX-License-Identifier: Apache-2.0
"""What signatures over a new bundle approve, against the bundle published last.

Compared are documents, workloads field by field, operator roles, release settings, and
who may sign. A difference is told in words of the documents, not of the metadata.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import Role

from tightseal.policy.bundle.archive import RELEASE, tenant_of_role
from tightseal.policy.bundle.content import Content, read_content
from tightseal.policy.bundle.tree import ROOT, Tree, short_name
from tightseal.policy.diff import ABSENT, Difference, differences

__all__ = ["changes"]

_PRESENT: Final = "present"
_CHANGED: Final = "changed"
_EMPTY: Final = Content((), None, read_content({}).policy)
_NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


def changes(
    before: Tree | None, after: Tree, *, names: Mapping[str, str] = _NO_NAMES
) -> tuple[Difference, ...]:
    """Every difference between what was published and what is to be signed.

    Args:
        before: the published bundle; ``None`` where there is none.
        after: the new one.
        names: what keys are called, by key id.

    Returns:
        differences; the subject is ``approvers``, ``tenant NAME``, ``release
        settings``, ``document PATH``, or as in ``policy.diff``.

    Raises:
        SettingsError: ``policy_invalid``, where documents make no policy.
    """
    old = {} if before is None else before.documents
    content = _EMPTY if before is None else read_content(before.documents)
    new = read_content(after.documents)
    return (
        *_approvers(before, after, names),
        *_release(old.get(RELEASE), after.documents.get(RELEASE)),
        *_documents(old, after.documents),
        *differences(content.documents, new.documents),
    )


def _approvers(
    before: Tree | None, after: Tree, names: Mapping[str, str]
) -> Iterator[Difference]:
    old = {} if before is None else _groups(before, names)
    new = _groups(after, names)
    for subject in sorted(old.keys() | new.keys()):
        yield from _fields(subject, old.get(subject), new.get(subject))


def _groups(tree: Tree, names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    root = tree.roots[-1].signed
    found = {"approvers": _group(root.roles[ROOT], root.keys, names)}
    for name, role in root.roles.items():
        group = _group(role, root.keys, names)
        # All four are made alike; a root that gives one role away must show it.
        if group != found["approvers"]:
            found[f"approvers of {name}"] = group
    if tree.targets is not None and tree.targets.signed.delegations is not None:
        keys = tree.targets.signed.delegations.keys
        for name, role in tree.delegated().items():
            found[f"tenant {tenant_of_role(name)}"] = _group(role, keys, names)
    return found


def _group(
    role: Role, keys: Mapping[str, Key], names: Mapping[str, str]
) -> dict[str, str]:
    people = sorted(short_name(keys[keyid], names) for keyid in role.keyids)
    return {"threshold": str(role.threshold), "keys": ", ".join(people)}


def _release(before: bytes | None, after: bytes | None) -> Iterator[Difference]:
    old = None if before is None else _settings(before)
    new = None if after is None else _settings(after)
    yield from _fields("release settings", old, new)


def _settings(data: bytes) -> dict[str, str]:
    return dict(_flat("", tomllib.loads(data.decode())))


def _documents(
    before: Mapping[str, bytes], after: Mapping[str, bytes]
) -> Iterator[Difference]:
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new or path == RELEASE:
            continue
        sides = [ABSENT if side is None else _PRESENT for side in (old, new)]
        if ABSENT not in sides:
            sides[1] = _CHANGED
        yield Difference(f"document {path}", "", *sides)


def _fields(
    subject: str, before: Mapping[str, str] | None, after: Mapping[str, str] | None
) -> Iterator[Difference]:
    """Fields that differ; of what is new or gone as a whole, all of them."""
    old, new = before or {}, after or {}
    for field in sorted(old.keys() | new.keys()):
        sides = [old.get(field, ABSENT), new.get(field, ABSENT)]
        if sides[0] != sides[1]:
            yield Difference(subject, field, *sides)


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{path}.{name}" if path else name, item)
    elif isinstance(value, list | tuple):
        yield path, ", ".join(sorted(str(item) for item in value)) or "none"
    else:
        yield path, str(value)

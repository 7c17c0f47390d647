# SPDX-License-Identifier: Apache-2.0
"""Metadata of what the documents say, made role by role before it is signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tightseal.policy.bundle.approvers import (
    MAX_DAYS,
    end_after,
    metadata_bytes,
    next_version,
)
from tightseal.policy.bundle.archive import (
    metadata_path,
    tenant_of_role,
    tenant_of_target,
)
from tightseal.policy.bundle.metadata import (
    issued_at,
    read_snapshot,
    read_targets,
    read_timestamp,
)
from tightseal.policy.bundle.schema import ISSUED
from tightseal.policy.bundle.tree import (
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    AnyRole,
    Tree,
    read_tree,
    role_state,
)
from tightseal.policy.bundle.turns import roles_to_sign
from tightseal.policy.bundle.verify import MAX_SKEW

__all__ = ["Draft", "bundle_files", "pending"]

RENEW_BELOW: Final = 3
"""A signed role is renewed once less than 1/3 of the asked time is left."""

_DAY: Final = 86_400
_UNCOMPARED: Final = ("version", "expires", "spec_version", ISSUED)


class Draft:
    """Files on their way to a plan; each step makes one role's metadata."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        published: Mapping[str, bytes] | None,
        *,
        now: int,
        days: int,
        renew: bool,
    ) -> None:
        self.files = dict(files)
        self.tree = read_tree(files)
        self._published = published
        self._floors = {} if published is None else read_tree(published).versions()
        self._now = now
        self._days = days
        self._end = end_after(days, now=now)
        self._renew = renew

    def targets(self, role: str) -> None:
        """Metadata of ``targets``, or of a tenant's documents."""
        tree = self.tree
        current = tree.targets if role == TARGETS else tree.tenants.get(role)
        wanted = Targets(
            version=next_version(current, floor=self._floors.get(role, 0)),
            expires=self._end,
            targets=_target_files(tree.documents_of(role)),
            delegations=None if current is None else current.signed.delegations,
        )
        if tenant_of_role(role) is not None:
            wanted.delegations = None
        if not self._stays(role, current, wanted):
            path = metadata_path(role)
            self.files[path] = metadata_bytes(Metadata(wanted))
            file = read_targets(path, self.files[path])
            if role == TARGETS:
                self.tree = replace(tree, targets=file)
            else:
                self.tree = replace(tree, tenants={**tree.tenants, role: file})

    def snapshot(self) -> None:
        """The snapshot: which versions belong together."""
        tree = self.tree
        assert tree.targets is not None
        listed = {TARGETS: tree.targets}
        listed |= {role: tree.tenants[role] for role in sorted(tree.delegated())}
        wanted = Snapshot(
            version=next_version(tree.snapshot, floor=self._floors.get(SNAPSHOT, 0)),
            expires=self._end,
            meta={
                f"{role}.json": MetaFile(part.version) for role, part in listed.items()
            },
        )
        if not self._stays(SNAPSHOT, tree.snapshot, wanted):
            path = metadata_path(SNAPSHOT)
            self.files[path] = metadata_bytes(Metadata(wanted))
            self.tree = replace(tree, snapshot=read_snapshot(path, self.files[path]))

    def timestamp(self, key: Key) -> None:
        """The timestamp: the one version that rises with everything."""
        tree = self.tree
        assert tree.snapshot is not None
        issued = datetime.fromtimestamp(self._now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        floor = self._floors.get(TIMESTAMP, 0)
        wanted = Timestamp(
            version=next_version(tree.timestamp, floor=floor),
            expires=self._end,
            snapshot_meta=MetaFile(tree.snapshot.version),
            unrecognized_fields={ISSUED: issued},
        )
        stays = self._stays(TIMESTAMP, tree.timestamp, wanted)
        if stays and not self._published_already(key):
            return
        path = metadata_path(TIMESTAMP)
        self.files[path] = metadata_bytes(Metadata(wanted))
        self.tree = replace(tree, timestamp=read_timestamp(path, self.files[path]))

    def _published_already(self, key: Key) -> bool:
        """Whether the timestamp's version is out with other bytes than ours will be."""
        timestamp = self.tree.timestamp
        if self._published is None or timestamp is None:
            return False
        if timestamp.version != self._floors.get(TIMESTAMP):
            return False
        ours = bundle_files(self.tree, self.files)
        return ours != dict(self._published) or any(roles_to_sign(self.tree, key))

    def _stays(
        self,
        role: str,
        current: AnyRole | None,
        wanted: Targets | Snapshot | Timestamp,
    ) -> bool:
        """Whether what is there says the same, and for long enough."""
        if current is None or not current.metadata.signatures:
            return False
        if current.version < self._floors.get(role, 0):
            return False
        if _content(current.signed) != _content(wanted):
            return False
        if role == TIMESTAMP and not self._issued_in_time():
            return False
        left = current.expires - self._now
        if not 0 < left <= MAX_DAYS * _DAY:
            return False
        # A draft too: else the one who completes it and the next one, who renews it,
        # would take turns for ever.
        if left * RENEW_BELOW <= self._days * _DAY:
            return False
        return not self._renew or bool(role_state(self.tree, role, current).missing)

    def _issued_in_time(self) -> bool:
        """A moment in the future would make providers refuse their own clocks."""
        timestamp = self.tree.timestamp
        return timestamp is None or issued_at(timestamp) <= self._now + MAX_SKEW


def bundle_files(tree: Tree, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that make the bundle: not the metadata of tenants that are gone."""
    delegated = tree.delegated()
    gone = {metadata_path(role) for role in tree.tenants if role not in delegated}
    return {path: data for path, data in files.items() if path not in gone}


def pending(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Target paths of documents that are not the signed ones: new, changed or gone."""
    tree = read_tree(files)
    found: set[str] = set()
    for role in (TARGETS, *tree.delegated()):
        part = tree.targets if role == TARGETS else tree.tenants.get(role)
        listed = {} if part is None else part.signed.targets
        there = _target_files(tree.documents_of(role))
        found |= {
            path
            for path in listed.keys() | there.keys()
            if listed.get(path) != there.get(path)
        }
    owned = {tenant_of_role(role) for role in tree.delegated()} | {None}
    found |= {p for p in tree.documents if tenant_of_target(p) not in owned}
    return tuple(sorted(found))


def _content(signed: Targets | Snapshot | Timestamp | Root) -> dict[str, Any]:
    found = signed.to_dict()
    return {name: found[name] for name in found if name not in _UNCOMPARED}


def _target_files(documents: Mapping[str, bytes]) -> dict[str, TargetFile]:
    return {
        path: TargetFile.from_data(path, content)
        for path, content in sorted(documents.items())
    }

# SPDX-License-Identifier: Apache-2.0
"""A bundle's bytes to policy: every signature, version, date and file of it checked.

:func:`verify_bundle` reads like the client workflow of the TUF specification 1.0,
section 5, with the bundle in place of a repository and ``marks`` in place of the
metadata that a client keeps. What differs is in ``docs/adr/0013-signed-bundles.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from tightseal.errors import Code, SettingsError
from tightseal.model.settings import ReleaseSettings
from tightseal.policy.bundle.archive import (
    is_target,
    metadata_path,
    root_path,
    root_versions,
    target_path,
    tenant_of_role,
    tenant_of_target,
    tenant_pattern,
    unpack,
)
from tightseal.policy.bundle.content import read_content
from tightseal.policy.bundle.marks import Marks
from tightseal.policy.bundle.metadata import (
    SignedFile,
    issued_at,
    policy_root_of,
    read_root,
    read_snapshot,
    read_targets,
    read_timestamp,
    require_content,
    root_digest,
)
from tightseal.policy.compile import Policy
from tightseal.policy.read import Parsed

__all__ = [
    "MAX_RISE",
    "MAX_SKEW",
    "ExpiredMetadata",
    "VerifiedBundle",
    "first_root_of",
    "policy_root_of",
    "verify_bundle",
]

MAX_SKEW: Final = 300
"""Seconds by which the signers' clock may be ahead of ours."""

MAX_RISE: Final = 1 << 20
"""Most by which a version may rise at once.

A stolen key cannot use up all versions with one signature: once it is replaced, the
versions go on from where they are.
"""

_TARGETS: Final = "targets"


class ExpiredMetadata(StrEnum):
    """What to do with a role whose end has passed."""

    REFUSE = "refuse"
    """For every bundle that is new."""

    ACCEPT = "accept"
    """Only to load the last good bundle again, after a restart."""


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle that may be used.

    Attributes:
        marks: to be remembered before it is used.
        version: of the timestamp; rises with everything that is published.
        issued_at: Unix time at which the timestamp was signed; raises the floor of
            time.
        expires_at: Unix time of the first second in which one of its roles is no
            longer valid.
        documents: the policy documents, in the order of their paths.
        release: the release settings; ``None`` where the bundle has none.
        policy: all documents, compiled together.
    """

    marks: Marks
    version: int
    issued_at: int
    expires_at: int
    documents: tuple[Parsed, ...]
    release: ReleaseSettings | None
    policy: Policy


def first_root_of(data: bytes) -> bytes:
    """The policy root of a bundle's own first root, 32 bytes; it vouches for nothing.

    Raises:
        SettingsError: ``bundle_malformed``, ``bundle_incomplete``.
    """
    return policy_root_of(_part(unpack(data), root_path(1)))


def verify_bundle(
    data: bytes,
    *,
    policy_root: bytes,
    marks: Marks | None,
    now: int,
    expired: ExpiredMetadata,
) -> VerifiedBundle:
    """Verify a bundle, from its form to its content.

    Args:
        data: the bundle, at most ``archive.MAX_BUNDLE_BYTES``.
        policy_root: the pinned root, 32 bytes; see ``policy_root_of``.
        marks: of the bundle that was accepted last; ``None`` only where none ever was:
            then any good bundle that has not expired is taken, an older one too.
        now: Unix seconds.
        expired: whether an end that has passed is refused.

    Returns:
        the bundle; its marks are to be stored before anything of it is used.

    Raises:
        SettingsError:
            ``bundle_malformed``: not of the documented form, or more than a role may
            say.
            ``bundle_root_mismatch``: its first root is not the pinned one.
            ``bundle_undersigned``: fewer good signatures than a threshold.
            ``bundle_expired``: a role's end has passed.
            ``bundle_rolled_back``: a version fell, or stayed with other bytes.
            ``bundle_incomplete``: a file is missing, is not the one that was listed, or
            was listed by nobody.
            ``clock_behind``: it was issued later than now.
            ``policy_invalid``: a document or ``release.toml``, with its position.

    Not checked: whether an end lies too far ahead, whether keys are held by different
    people, and what ``policy lint`` finds dangerous. Those who sign decide that.
    """
    digest = hashlib.sha256(data).digest()
    given = _Given(unpack(data), marks, digest, now, expired)  # 1. form
    first = _pinned_root(given, policy_root)  # 2. pinned root
    root = _newest_root(given, first)  # 3. later roots
    timestamp = _timestamp(given, root)  # 4. timestamp
    snapshot = _snapshot(given, root, timestamp)  # 5. snapshot
    targets = _targets(given, root, snapshot)  # 6. targets
    tenants = _tenants(given, targets, snapshot)  # 7. delegations
    documents = _files(given, root, targets, tenants)  # 8. files
    content = read_content(documents)  # 9. content
    roles = {file.role: file.version for file in (targets, *tenants)}
    before = dict(marks.roles) if marks else {}
    return VerifiedBundle(
        marks=Marks(
            root=root.version,
            timestamp=timestamp.version,
            snapshot=snapshot.version,
            roles=tuple(sorted((before | roles).items())),
            digest=digest,
        ),
        version=timestamp.version,
        issued_at=issued_at(timestamp),
        expires_at=min(
            root.expires,
            timestamp.expires,
            snapshot.expires,
            *(file.expires for file in (targets, *tenants)),
        ),
        documents=content.documents,
        release=content.release,
        policy=content.policy,
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """What a bundle is judged by."""

    files: Mapping[str, bytes]
    marks: Marks | None
    digest: bytes
    now: int
    expired: ExpiredMetadata

    def part(self, path: str) -> bytes:
        return _part(self.files, path)

    def require_fresh(
        self,
        file: SignedFile[Root]
        | SignedFile[Timestamp]
        | SignedFile[Snapshot]
        | SignedFile[Targets],
    ) -> None:
        """The freeze attack: old metadata, shown for ever."""
        if self.expired is ExpiredMetadata.REFUSE and file.expires <= self.now:
            detail = f"{file.path}: expired at {_told(file.expires)}, now is "
            raise SettingsError(Code.BUNDLE_EXPIRED, detail + _told(self.now))

    def require_risen(self, path: str, version: int, before: int | None) -> None:
        """The rollback attack, and its opposite: all versions used up at once."""
        if before is None:
            return
        if version < before:
            detail = f"{path}: version {version}, and {before} was accepted before"
            raise SettingsError(Code.BUNDLE_ROLLED_BACK, detail)
        if version > before + MAX_RISE:
            detail = f"{path}: version {version} is over {MAX_RISE} above {before}"
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)


def _pinned_root(given: _Given, pinned: bytes) -> SignedFile[Root]:
    """2. The first root is the pinned one, and its own keys signed it (section 5.2)."""
    path = root_path(1)
    first = read_root(path, given.part(path))
    got = root_digest(first)
    if got != pinned:
        detail = f"{path}: policy root {got.hex()}, pinned is {pinned.hex()}"
        raise SettingsError(Code.BUNDLE_ROOT_MISMATCH, detail)
    _require_version(first.path, first.version, 1, by="its name")
    first.require_signed("root", first)
    return first


def _newest_root(given: _Given, first: SignedFile[Root]) -> SignedFile[Root]:
    """3. Every later root is signed by the keys of the one before and by its own.

    Section 5.3.4 (signatures), 5.3.5 (each version, none left out, none older than was
    accepted before), 5.3.10 (only the newest must not have expired). Section 5.3.11,
    which forgets versions once keys were replaced, is left out: see ``MAX_RISE``.
    """
    newest = first
    for version in root_versions(given.files)[1:]:
        path = root_path(newest.version + 1)
        after = read_root(path, given.part(path))
        after.require_signed("root", newest)
        after.require_signed("root", after)
        _require_version(path, after.version, version, by="its name")
        newest = after
    before = given.marks.root if given.marks else None
    given.require_risen(newest.path, newest.version, before)
    given.require_fresh(newest)
    return newest


def _timestamp(given: _Given, root: SignedFile[Root]) -> SignedFile[Timestamp]:
    """4. The timestamp, and the version of the snapshot that it lists.

    Section 5.4.2 (signatures), 5.4.3 (rollback), 5.4.4 (freeze). Beyond it: an equal
    version comes with equal bytes, and it was not issued later than now.
    """
    path = metadata_path(Timestamp.type)
    timestamp = read_timestamp(path, given.part(path))
    timestamp.require_signed(Timestamp.type, root)
    marks = given.marks
    if marks is not None:
        given.require_risen(path, timestamp.version, marks.timestamp)
        listed = timestamp.signed.snapshot_meta.version
        given.require_risen(metadata_path(Snapshot.type), listed, marks.snapshot)
        if timestamp.version == marks.timestamp and given.digest != marks.digest:
            detail = f"{path}: version {timestamp.version} was accepted before, with "
            detail += "another bundle: sign a newer one"
            raise SettingsError(Code.BUNDLE_ROLLED_BACK, detail)
    given.require_fresh(timestamp)
    issued = issued_at(timestamp)
    if issued >= timestamp.expires:
        raise _refused(path, f"issued at {_told(issued)}, after its end")
    if issued > given.now + MAX_SKEW:
        detail = f"{path}: issued at {_told(issued)}, and now is {_told(given.now)}"
        raise SettingsError(Code.CLOCK_BEHIND, detail)
    return timestamp


def _snapshot(
    given: _Given, root: SignedFile[Root], timestamp: SignedFile[Timestamp]
) -> SignedFile[Snapshot]:
    """5. The snapshot is the one that the timestamp lists, and no version in it falls.

    Section 5.5.2 (length and hashes, where given), 5.5.3 (signatures), 5.5.4 (version),
    5.5.5 (rollback), 5.5.6 (freeze). A role may go, which 5.5.5 forbids: every role
    with a delegation must be listed, so it goes only with its delegation, and its mark
    stays.
    """
    path = metadata_path(Snapshot.type)
    listed = timestamp.signed.snapshot_meta
    data = given.part(path)
    require_content(path, data, listed, by=timestamp.path)
    snapshot = read_snapshot(path, data)
    snapshot.require_signed(Snapshot.type, root)
    _require_version(path, snapshot.version, listed.version, by=timestamp.path)
    before = dict(given.marks.roles) if given.marks else {}
    for name, meta in snapshot.signed.meta.items():
        role = name.removesuffix(".json")
        known = role == _TARGETS or tenant_of_role(role) is not None
        if role == name or not known:
            raise _refused(path, f"lists {name!r}, which is no role of a bundle")
        given.require_risen(metadata_path(role), meta.version, before.get(role))
    given.require_fresh(snapshot)
    return snapshot


def _targets(
    given: _Given, root: SignedFile[Root], snapshot: SignedFile[Snapshot]
) -> SignedFile[Targets]:
    """6. The targets, as the snapshot lists them, below no tenant's folder.

    Section 5.6.2 (length and hashes), 5.6.3 (signatures), 5.6.4 (version), 5.6.5
    (freeze).
    """
    targets = _listed(given, _TARGETS, root, snapshot)
    for target in targets.signed.targets:
        if not is_target(target) or tenant_of_target(target) is not None:
            raise _refused(targets.path, f"{target!r} is not for this role to sign")
    return targets


def _tenants(
    given: _Given, targets: SignedFile[Targets], snapshot: SignedFile[Snapshot]
) -> tuple[SignedFile[Targets], ...]:
    """7. Each tenant's role signs what lies in the tenant's folder, and nothing else.

    Section 5.6.7, with one level of delegations, each for one tenant and its folder.
    """
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        return ()
    found = []
    for name, role in delegations.roles.items():
        tenant = tenant_of_role(name)
        if tenant is None or role.paths != [tenant_pattern(tenant)]:
            what = f"delegates {role.paths} to {name!r}; expected tenants/NAME/*.toml"
            raise _refused(targets.path, f"{what} and tenant-NAME")
        file = _listed(given, name, targets, snapshot)
        if file.signed.delegations is not None:
            raise _refused(file.path, "delegates; a tenant's role cannot")
        for target in file.signed.targets:
            if not is_target(target) or tenant_of_target(target) != tenant:
                raise _refused(file.path, f"{target!r} is not for this role to sign")
        found.append(file)
    return tuple(found)


def _files(
    given: _Given,
    root: SignedFile[Root],
    targets: SignedFile[Targets],
    tenants: Iterable[SignedFile[Targets]],
) -> dict[str, bytes]:
    """8. Every target is there as it was listed, and no file that nobody signed.

    Section 5.7.3 (length and hashes).

    Returns:
        what was listed, by path below ``targets/``, in order.
    """
    roles = (Timestamp.type, Snapshot.type)
    signed = {root_path(version) for version in range(1, root.version + 1)}
    signed |= {metadata_path(role) for role in roles}
    found: dict[str, bytes] = {}
    for file in (targets, *tenants):
        signed.add(file.path)
        for target, listed in file.signed.targets.items():
            path = target_path(target)
            signed.add(path)
            found[target] = given.part(path)
            require_content(path, found[target], listed, by=file.path)
    extra = sorted(set(given.files) - signed)
    if extra:
        detail = f"{extra[0]}: nobody signed it; {len(extra)} such files"
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)
    return dict(sorted(found.items()))


def _listed(
    given: _Given,
    role: str,
    by: SignedFile[Root] | SignedFile[Targets],
    snapshot: SignedFile[Snapshot],
) -> SignedFile[Targets]:
    """Metadata of a role as the snapshot lists it, signed as its delegator asks."""
    path = metadata_path(role)
    listed: MetaFile | None = snapshot.signed.meta.get(f"{role}.json")
    if listed is None:
        detail = f"{snapshot.path}: does not list {role}.json"
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)
    data = given.part(path)
    require_content(path, data, listed, by=snapshot.path)
    file = read_targets(path, data)
    file.require_signed(role, by)
    _require_version(path, file.version, listed.version, by=snapshot.path)
    given.require_fresh(file)
    return file


def _part(files: Mapping[str, bytes], path: str) -> bytes:
    try:
        return files[path]
    except KeyError as e:
        raise SettingsError(Code.BUNDLE_INCOMPLETE, f"{path}: missing") from e


def _require_version(path: str, version: int, expected: int, *, by: str) -> None:
    """Mix and match: files that are good each, and were never published together."""
    if version != expected:
        detail = f"{path}: version {version}; {by} says {expected}"
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)


def _told(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _refused(path: str, why: str) -> SettingsError:
    return SettingsError(Code.BUNDLE_MALFORMED, f"{path}: {why}")

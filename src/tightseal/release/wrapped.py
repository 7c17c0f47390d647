# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys: made once at random, kept in the state store, given back on ``open``.

    create: no record -> random key -> sealed under the current generation -> record
    open:   record -> unsealed -> under an older generation: sealed anew -> key

``create`` and ``open`` never stand in for each other. That there is no record is the
store's proven word under its newest head, and as good as its anchor: in an older store,
put back whole, a key may not be there *yet*, and a second one could be created.

A key is made in the decision of a release, after every rule said yes and usage was
counted, and before anything leaves. Its record keeps the hash of the request that made
it. So a retry of the same bytes goes on after a crash in between, and any other
``create`` is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tightseal.errors import Code, KeyReleaseError, PolicyError, ServiceError
from tightseal.model.grant import Grant, Reason, WrappedUse
from tightseal.model.keypath import KeyPath
from tightseal.model.ports import KeyRoots
from tightseal.model.secret import Secret
from tightseal.model.state import Change, Create, Record, Replace, StateStore
from tightseal.release.wrapped_floor import Floor, read_floor
from tightseal.release.wrapped_record import Entropy, WrappedRecord, random_key

__all__ = [
    "KINDS",
    "MAX_ATTEMPTS",
    "Unwrapped",
    "Wanted",
    "WrappedKeys",
    "kind_of",
    "wrapped_of",
]

KINDS: Final = tuple(f"wrapped-{digit}" for digit in "0123456789abcdef")
"""Kinds of the records. A store reads a kind whole where it reads all of it: sixteen of
them bound the memory of going through every key to a sixteenth."""

MAX_ATTEMPTS: Final = 64
"""Most times that a key is read again because others changed its record meanwhile."""

_LOST_RACE: Final = frozenset(
    {Code.STATE_CONFLICT, Code.STATE_EXISTS, Code.STATE_MISSING}
)


def kind_of(name: str) -> str:
    """The kind of the record of this name: by its first hex digit."""
    return f"wrapped-{name[0]}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A wrapped key of a grant.

    Attributes:
        path: as granted, under the current generation.
        use: its record, and whether it is to be created.
        imported: the key to keep; ``None`` where it is to be a random one.
    """

    path: KeyPath
    use: WrappedUse
    imported: Secret | None = None


def wrapped_of(
    grant: Grant, imported: tuple[Secret | None, ...] = ()
) -> tuple[Wanted, ...]:
    """The wrapped keys of a grant, in order.

    Args:
        grant: of policy.
        imported: for each path the key that is handed over, or ``None``; empty where
            none is.
    """
    if not any(grant.wrapped):
        return ()
    keys = imported or (None,) * len(grant.paths)
    found = zip(grant.paths, grant.wrapped, keys, strict=True)
    wanted = tuple(Wanted(path, use, key) for path, use, key in found if use)
    if any(one.use.imported != (one.imported is not None) for one in wanted):
        # A random key must never stand in for one that was handed over.
        raise ServiceError(Code.INTERNAL, "wrapped key: an import without its key")
    return wanted


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A key, and the path that it is wrapped along from now on."""

    path: KeyPath
    key: Secret


class WrappedKeys:
    """Creates and opens wrapped keys over one state store. Safe for threads.

    Any number of them, in any number of providers, may share a store.

    Args:
        store: holds the records; they never expire.
        roots: what the keys are wrapped under.
        entropy: random bytes, for keys and nonces; replaced in tests.
    """

    def __init__(
        self,
        store: StateStore,
        roots: KeyRoots,
        *,
        entropy: Entropy = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._roots = roots
        self._entropy = entropy

    def require(self, wanted: Sequence[Wanted], *, tag: bytes, now: int) -> None:
        """Refuse what could not be released, before it is counted; changes nothing.

        Args:
            wanted: of one grant.
            tag: SHA-256 of the whole request, 32 bytes.
            now: Unix seconds.

        Raises:
            PolicyError: ``key_missing``, ``key_exists``, ``key_terms_changed``,
                ``generation_unknown``; nothing was changed.
            ServiceError: ``state_tampered``; what else the store raises.
        """
        for one in wanted:
            held = self._held(one.use.record, now=now)
            if held is None:
                if not one.use.create:
                    raise self._missing(one.path)
                continue
            record = held[1]
            if one.use.create and record.created_by != tag:
                raise _exists(one.path)
            self._check(record, one.path)

    def create(self, wanted: Sequence[Wanted], *, tag: bytes, now: int) -> None:
        """Make the keys that are to be created: all of them, or none.

        Args:
            wanted: of one grant; those to be opened are passed over.
            tag: SHA-256 of the whole request, 32 bytes; a key that this very request
                has created before is left as it is.
            now: Unix seconds.

        Raises:
            PolicyError: ``key_exists``; ``generation_unknown``.
            ServiceError: ``provider_not_ready``, where the current generation is closed
                for new keys; ``state_unavailable``: they may have been made, and the
                same bytes again say so; what else the store raises.
        """
        paths = {one.use.record: one.path for one in wanted if one.use.create}
        imported = {one.use.record: one.imported for one in wanted}
        for _ in range(MAX_ATTEMPTS):
            missing = self._not_created(paths, tag=tag, now=now)
            if not missing:
                return
            floor = read_floor(self._store, now=now)
            changes: list[Change] = [
                Create(
                    kind_of(name),
                    name,
                    self._made(name, path, tag, floor, imported[name]),
                )
                for name, path in missing.items()
            ]
            if self._written([*changes, floor.expected], now=now):
                return
        raise _overtaken()

    def open(
        self, path: KeyPath, name: str, *, now: int, rewrap: bool = True
    ) -> Unwrapped:
        """Give a key back, wrapped under the current generation from now on.

        Where another provider is ahead, the key stays under that one's generation.

        Args:
            path: as granted, under the current generation.
            name: of its record.
            now: Unix seconds.
            rewrap: whether a key under an older generation is wrapped anew; without it
                nothing is written.

        Returns:
            the key, which the caller wipes, with the generation that it is under now.

        Raises:
            PolicyError: ``key_missing``; ``key_terms_changed``, where it was created on
                other terms than the path has; ``generation_unknown``.
            ServiceError: ``state_tampered``, where the record is another key's, or does
                not open; what else the store raises.
        """
        for _ in range(MAX_ATTEMPTS):
            held = self._held(name, now=now)
            if held is None:
                raise self._missing(path)
            before, record = held
            self._check(record, path)
            key = record.open(name=name, root=self._root(record.path))
            try:
                target = _target(record.path, path) if rewrap else record.path
                if target == record.path:
                    return Unwrapped(target, key)
                floor = read_floor(self._store, now=now)
                if target.generation < floor.lowest:
                    return Unwrapped(record.path, key)  # Our keyring is behind.
                moved = self._moved(before, record, key, target)
                if self._written([moved, floor.expected], now=now):
                    return Unwrapped(target, key)
            except BaseException:
                key.wipe()
                raise
            key.wipe()
        raise _overtaken()

    def _moved(
        self, before: Record, record: WrappedRecord, key: Secret, target: KeyPath
    ) -> Replace:
        """The change that wraps a key along another path."""
        moved = WrappedRecord.seal(
            key,
            name=before.name,
            root=self._root(target),
            path=target,
            created_by=record.created_by,
            entropy=self._entropy,
        )
        return Replace(before.kind, before.name, moved.encode(), before.version)

    def _written(self, changes: Sequence[Change], *, now: int) -> bool:
        """Write all changes or none; whether nobody came first."""
        try:
            self._store.batch(changes, now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE:
                raise
            return False
        return True

    # -- records ------------------------------------------------------------------

    def _held(self, name: str, *, now: int) -> tuple[Record, WrappedRecord] | None:
        """The record, or that there is none, which is the store's proven word."""
        try:
            held = self._store.open(kind_of(name), name, now=now)
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            return None
        return held, WrappedRecord.decode(held.value)

    def _not_created(
        self, paths: dict[str, KeyPath], *, tag: bytes, now: int
    ) -> dict[str, KeyPath]:
        missing = {}
        for name, path in paths.items():
            held = self._held(name, now=now)
            if held is None:
                missing[name] = path
            elif held[1].created_by != tag:
                raise _exists(path)
        return missing

    def _made(
        self,
        name: str,
        path: KeyPath,
        tag: bytes,
        floor: Floor,
        imported: Secret | None,
    ) -> bytes:
        """A new key, or one that was handed over, as the value of its record."""
        floor.require(path.generation)
        if imported is None:
            key = random_key(path, self._entropy)
        else:
            key = Secret(imported.reveal())  # The caller's stays for another attempt.
        try:
            return WrappedRecord.seal(
                key,
                name=name,
                root=self._root(path),
                path=path,
                created_by=tag,
                entropy=self._entropy,
            ).encode()
        finally:
            key.wipe()

    # -- what a record must be ----------------------------------------------------

    def _check(self, record: WrappedRecord, path: KeyPath) -> None:
        """It is the key of this path, and can be opened."""
        if _owner(record.path) != _owner(path):
            detail = "wrapped key: the record of another workload, purpose or label"
            raise ServiceError(Code.STATE_TAMPERED, detail)
        changed = tuple(_changed(record.path, path))
        if changed:
            created = ", ".join(f"{field} {old}" for field, old, _ in changed)
            got = ", ".join(f"{field} {new}" for field, _, new in changed)
            raise _refused(Code.KEY_TERMS_CHANGED, path, f"as created: {created}", got)
        generations = self._roots.generations()
        number = record.path.generation
        if number not in generations.open:
            got = f"generation {number}: destroyed, or newer than this keyring"
            expected = f"a generation that opens: {generations}"
            raise _refused(Code.GENERATION_UNKNOWN, path, expected, got)

    def _root(self, path: KeyPath) -> Secret:
        """A root that was there a moment ago; it may be destroyed at any time."""
        try:
            return self._roots.root(path.generation)
        except KeyReleaseError as e:
            expected = f"a generation that opens: {self._roots.generations()}"
            got = f"generation {path.generation}: {e.detail}"
            raise _refused(Code.GENERATION_UNKNOWN, path, expected, got) from e

    def _missing(self, path: KeyPath) -> PolicyError:
        freshness = self._store.freshness()
        got = f"none, under anchor {freshness.anchor.value}"
        return _refused(Code.KEY_MISSING, path, "a key that was created", got)


def _target(held: KeyPath, granted: KeyPath) -> KeyPath:
    """The path that a key should be wrapped along: never an older generation's."""
    newest = max(held.generation, granted.generation)
    return replace(held, generation=newest, kdf=granted.kdf)


def _owner(path: KeyPath) -> tuple[str, str | None, str, str]:
    return path.tenant, path.workload.name, path.purpose, path.label


def _changed(before: KeyPath, after: KeyPath) -> Iterable[tuple[str, object, object]]:
    """What a key cannot follow. The KDF may change: it only serves to wrap."""
    yield from (
        (field, old, new)
        for field, old, new in (
            ("type", before.key_type.value, after.key_type.value),
            ("length", before.length, after.length),
            ("trust domain", before.trust_domain, after.trust_domain),
            ("tee", before.workload.tee.value, after.workload.tee.value),
        )
        if old != new
    )
    same = replace(
        before,
        kdf=after.kdf,
        generation=after.generation,
        key_type=after.key_type,
        length=after.length,
        trust_domain=after.trust_domain,
        workload=replace(before.workload, tee=after.workload.tee),
    )
    if same != after:
        yield "authority or way in", "another", "another"


def _exists(path: KeyPath) -> PolicyError:
    return _refused(Code.KEY_EXISTS, path, "none yet", "one, by another request")


def _refused(code: Code, path: KeyPath, expected: str, got: str) -> PolicyError:
    label = f" {path.label!r}" if path.label else ""
    rule = f"key of {path.purpose}{label}"
    error = PolicyError(code, f"{rule}: expected {expected}, got {got}")
    error.reasons = (Reason(rule, expected, got, satisfied=False),)
    return error


def _overtaken() -> ServiceError:
    detail = f"wrapped key: others came first {MAX_ATTEMPTS} times"
    return ServiceError(Code.OVERLOADED, detail)

# SPDX-License-Identifier: Apache-2.0
"""The policy in force: the newest good bundle, remembered in the state store.

    bundle -> verify under the pinned root, not older -> store -> in force

Whatever is wrong with a new bundle, the last good one stays. It lies in the store
whole: a restart finds it, and all providers over one store decide by the same one.
What the store cannot notice (see its anchor) is that all of it was put back: then an
older bundle that was good once may come back with it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Final

from tightseal.errors import (
    Code,
    RequestError,
    ServiceError,
    SettingsError,
    TightsealError,
)
from tightseal.model.canonical import decode, encode
from tightseal.model.exchange import PolicyInForce
from tightseal.model.keypath import Authority
from tightseal.model.settings import FIRST_START, ExpiredPolicy, ReleaseSettings
from tightseal.model.state import Change, Create, Delete, Record, Replace, StateStore
from tightseal.policy.builtin import builtin_policy
from tightseal.policy.bundle.archive import unpack
from tightseal.policy.bundle.marks import Marks
from tightseal.policy.bundle.verify import (
    ExpiredMetadata,
    VerifiedBundle,
    policy_root_of,
    verify_bundle,
)
from tightseal.policy.compile import Policy

__all__ = ["CHUNK_BYTES", "InForce", "PolicyKeeper"]

CHUNK_BYTES: Final = 480 * 1024
"""Bytes of a bundle in one record; a bundle of 32 MiB takes 70."""

FIRST_ROOT: Final = "metadata/1.root.json"

MAX_CHUNKS: Final = 120
"""Most chunks of one bundle; two bundles' fit into one batch of the store."""

MAX_READS: Final = 8
"""Most times that a bundle is read while others put newer ones in its place."""

_LOST_RACE: Final = frozenset(
    {Code.STATE_EXISTS, Code.STATE_CONFLICT, Code.STATE_MISSING}
)
_KIND: Final = "policy"
_CHUNK_KIND: Final = "policy-bundle"
_NAME: Final = "in-force"
_FORM: Final = 1


@dataclass(frozen=True, slots=True)
class InForce:
    """What decides at the moment.

    Attributes:
        policy: the compiled rules.
        settings: the release settings.
        authority: what stands behind both; enters every key path.
        policy_root: the pinned root, 32 bytes; ``None`` for the built-in policy.
        version, digest: of the bundle: its version, and SHA-256 of the whole of it.
        issued_at: when it was signed, as its signers say; 0 for the built-in policy.
        expires_at: when the first of its signatures expires; ``None`` for never.
        settings_digest: of the release settings, 64 bytes.
    """

    policy: Policy = field(repr=False, compare=False)
    settings: ReleaseSettings
    authority: Authority
    policy_root: bytes | None = None
    version: int | None = None
    digest: bytes | None = None
    issued_at: int = 0
    expires_at: int | None = None
    settings_digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Take the settings' digest once: every release names it."""
        object.__setattr__(self, "settings_digest", self.settings.digest())

    @classmethod
    def builtin(cls, settings: ReleaseSettings) -> InForce:
        """The built-in policy over measured release settings."""
        return cls(
            policy=builtin_policy(settings),
            settings=settings,
            authority=settings.authority(),
        )

    def said(self) -> PolicyInForce | None:
        """What receipts say of it; ``None`` for the built-in policy."""
        if self.version is None or self.digest is None:
            return None
        return PolicyInForce(self.version, self.digest)

    def expired(self, *, now: int) -> bool:
        """Whether a signature of it has expired."""
        return self.expires_at is not None and self.expires_at <= now

    def require_fresh(self, *, now: int) -> None:
        """Refuse where it has expired; for health.

        Raises:
            ServiceError: ``policy_expired``.
        """
        if self.expired(now=now):
            detail = f"policy {self.version} expired at {self.expires_at}, now {now}"
            raise ServiceError(Code.POLICY_EXPIRED, detail)

    def require_deciding(self, *, now: int) -> None:
        """Refuse where it has expired and its settings end it then.

        It decides nothing any more: no release, no public half, and no action by roles
        that a newer policy, kept away by the host, may have taken back.

        Raises:
            ServiceError: ``policy_expired``.
        """
        if self.settings.expired_policy is ExpiredPolicy.REFUSE:
            self.require_fresh(now=now)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The record that says which bundle is in force."""

    marks: Marks
    policy_root: bytes
    size: int

    @property
    def chunks(self) -> int:
        return -(-self.size // CHUNK_BYTES)

    def names(self) -> list[str]:
        return [f"{self.marks.digest.hex()}/{i}" for i in range(self.chunks)]

    def encode(self) -> bytes:
        return encode([_FORM, self.marks.as_value(), self.policy_root, self.size])

    @classmethod
    def decode(cls, data: bytes) -> _Kept:
        try:
            value = decode(data)
        except RequestError as e:
            raise _strange("not an encoding of ours") from e
        match value:
            case [1, marks, bytes(root), int(size)] if (
                0 < size <= (MAX_CHUNKS * CHUNK_BYTES)
            ):
                return cls(Marks.from_value(marks), root, size)
        raise _strange("of another form")


class PolicyKeeper:
    """Holds the policy in force, takes newer ones, and forgets none. Thread-safe.

    Args:
        measured: the release settings of the measured configuration.
        store: where bundles are kept; ``None`` only without a policy root.

    Raises:
        ServiceError: ``internal``, where a policy root is pinned and there is no store.
    """

    def __init__(
        self, measured: ReleaseSettings, *, store: StateStore | None = None
    ) -> None:
        self._measured = measured
        self._store = store
        self._lock = threading.Lock()
        self._kept: Record | None = None
        self._current: InForce | None = None
        self._refused: TightsealError | None = None
        if not measured.policy_root:
            self._current = InForce.builtin(measured)
        elif store is None:
            raise ServiceError(Code.INTERNAL, "a policy root without a state store")

    def current(self) -> InForce:
        """What decides now; cheap.

        Raises:
            ServiceError: ``policy_missing``, before the first bundle came.
        """
        current = self._current
        if current is None:
            detail = "no bundle under the pinned policy root has come yet"
            raise ServiceError(Code.POLICY_MISSING, detail)
        return current

    def settings(self) -> ReleaseSettings:
        """The release settings in force; before the first bundle the measured ones."""
        current = self._current
        return self._measured if current is None else current.settings

    @property
    def refused(self) -> TightsealError | None:
        """Why the newest bundle that came was refused; ``None`` once one was taken."""
        return self._refused

    def offer(self, bundle: bytes, *, now: int) -> InForce:
        """Verify a bundle, keep it, and let it decide from now on.

        The same bundle may be offered again and changes nothing.

        Raises:
            RequestError: ``not_found``, where no policy root is pinned.
            SettingsError: what is wrong with the bundle; the last good one stays.
            ServiceError: the store failed.
        """
        store = self._store
        if not self._measured.policy_root or store is None:
            detail = "policy_root is not set: the built-in policy decides"
            raise RequestError(Code.NOT_FOUND, detail)
        with self._lock:
            for _ in range(MAX_READS - 1):
                try:
                    return self._offer(store, bundle, now=now)
                except ServiceError as e:
                    # Another worker or provider kept one first: judged against that.
                    if e.code not in _LOST_RACE:
                        raise
            return self._offer(store, bundle, now=now)

    def _offer(self, store: StateStore, bundle: bytes, *, now: int) -> InForce:
        kept = self._look(store, now=now)
        if kept and hashlib.sha256(bundle).digest() == kept.marks.digest:
            # Anybody can send what is in force; it must not cost us anything.
            return self.current()
        try:
            verified = verify_bundle(
                bundle,
                policy_root=self._root(bundle, kept),
                marks=kept.marks if kept else None,
                now=now,
                expired=ExpiredMetadata.REFUSE,
            )
            _require_later(verified, self._current if kept else None)
        except TightsealError as e:
            # A copy: the error's own frames hold the bundle and what was read of it,
            # and anybody may send one.
            self._refused = copy(e)
            raise
        self._keep(store, bundle, verified, before=kept, now=now)
        self._refused = None
        return self.current()

    def look(self, *, now: int) -> None:
        """Take over what another worker or provider accepted; cheap where nothing.

        Raises:
            ServiceError: the store failed, or what it keeps is not what was accepted.
            SettingsError: likewise.
        """
        if self._store is None or not self._measured.policy_root:
            return
        with self._lock:
            self._look(self._store, now=now)

    def _look(self, store: StateStore, *, now: int) -> _Kept | None:
        record = self._record(store, now=now)
        if record is None:
            return None
        if self._kept is not None and record.version == self._kept.version:
            return _Kept.decode(record.value)
        for _ in range(MAX_READS):
            kept = _Kept.decode(record.value)
            try:
                bundle = b"".join(
                    store.open(_CHUNK_KIND, name, now=now).value
                    for name in kept.names()
                )
            except ServiceError as e:
                newer = self._record(store, now=now)
                if e.code is not Code.STATE_MISSING or newer in {None, record}:
                    raise
                # Another provider put a newer bundle in its place in between.
                assert newer is not None
                record = newer
                continue
            self._take(self._load(bundle, kept, now=now), kept)
            self._kept = record
            return kept
        detail = f"policy: newer bundles came first {MAX_READS} times"
        raise ServiceError(Code.OVERLOADED, detail)

    def _record(self, store: StateStore, *, now: int) -> Record | None:
        """The record that says which bundle is in force; ``None`` before the first."""
        try:
            return store.open(_KIND, _NAME, now=now)
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            if self._kept is not None:
                raise _strange("it was there before") from e
            return None

    def _load(self, bundle: bytes, kept: _Kept, *, now: int) -> VerifiedBundle:
        if hashlib.sha256(bundle).digest() != kept.marks.digest:
            raise _strange("its bundle is another one")
        pinned = self._root(bundle, kept)
        if pinned != kept.policy_root:
            raise _strange("it was accepted under another policy root")
        return verify_bundle(
            bundle,
            policy_root=pinned,
            marks=kept.marks,
            now=now,
            expired=ExpiredMetadata.ACCEPT,
        )

    def _root(self, bundle: bytes, kept: _Kept | None) -> bytes:
        if self._measured.policy_root != FIRST_START:
            return bytes.fromhex(self._measured.policy_root)
        if kept is not None:
            return kept.policy_root
        return policy_root_of(unpack(bundle).get(FIRST_ROOT, b""))

    def _keep(
        self,
        store: StateStore,
        bundle: bytes,
        verified: VerifiedBundle,
        *,
        before: _Kept | None,
        now: int,
    ) -> None:
        kept = _Kept(verified.marks, self._root(bundle, before), len(bundle))
        parts = (
            bundle[i : i + CHUNK_BYTES] for i in range(0, len(bundle), CHUNK_BYTES)
        )
        changes: list[Change] = [
            Create(_CHUNK_KIND, name, part)
            for name, part in zip(kept.names(), parts, strict=True)
        ]
        if before is None or self._kept is None:
            changes.append(Create(_KIND, _NAME, kept.encode()))
        else:
            changes.append(
                Replace(_KIND, _NAME, kept.encode(), expected=self._kept.version)
            )
            versions = self._versions(store, before, now=now)
            changes += [Delete(_CHUNK_KIND, n, v) for n, v in versions.items()]
        store.batch(changes, now=now)
        # Read back what was written: what decides is what a restart would find.
        self._look(store, now=now)

    @staticmethod
    def _versions(store: StateStore, kept: _Kept, *, now: int) -> Mapping[str, int]:
        return {
            name: store.open(_CHUNK_KIND, name, now=now).version
            for name in kept.names()
        }

    def _take(self, verified: VerifiedBundle, kept: _Kept) -> None:
        signed = verified.release
        settings = self._measured if signed is None else signed.under(self._measured)
        self._current = InForce(
            policy=verified.policy,
            settings=settings,
            authority=settings.authority(kept.policy_root),
            policy_root=kept.policy_root,
            version=verified.version,
            digest=verified.marks.digest,
            issued_at=verified.issued_at,
            expires_at=verified.expires_at,
        )


def _require_later(verified: VerifiedBundle, before: InForce | None) -> None:
    """Signed time does not fall: else windows shut, and the clock may go back."""
    if before is not None and verified.issued_at < before.issued_at:
        detail = (
            f"policy {verified.version} was issued at {verified.issued_at}, and "
            f"{before.version} in force at {before.issued_at}: sign a newer one"
        )
        raise SettingsError(Code.BUNDLE_ROLLED_BACK, detail)


def _strange(why: str) -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, f"the policy in force: {why}")

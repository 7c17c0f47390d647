# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys over a store in memory and a keyring that rotates at a word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tightseal.errors import Code, KeyReleaseError, TightsealError
from tightseal.model.claims import Tee
from tightseal.model.generation import Generations
from tightseal.model.grant import WrappedUse
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.secret import Secret
from tightseal.model.state import Change, Record, StateStore
from tightseal.model.usage import wrapped_record
from tightseal.release.wrapped import Wanted, WrappedKeys, kind_of
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore

NOW = 1_790_000_000
TAG = b"t" * 32
OTHER_TAG = b"o" * 32


@dataclass
class Roots:
    """A keyring that rotates and destroys at a word."""

    current: int = 1
    open: set[int] = field(default_factory=lambda: {1})
    keyring_id: bytes = bytes(32)
    simulated: bool = True

    def generations(self) -> Generations:
        return Generations(self.current, None, frozenset(self.open))

    def root(self, generation: int) -> Secret:
        if generation not in self.open:
            raise KeyReleaseError(Code.GENERATION_UNKNOWN, str(generation))
        return Secret(generation.to_bytes(2, "big") * 16)

    def rotate(self) -> None:
        self.current += 1
        self.open.add(self.current)


def new_store() -> SealedStore:
    sealer = Sealer(Secret(b"\x55" * 32), trust_domain="simulated")
    return SealedStore.new(MemoryEngine(), sealer)


def path_of(
    purpose: str = "disk",
    label: str = "",
    *,
    name: str = "database",
    generation: int = 1,
    **changes: Any,
) -> KeyPath:
    base = KeyPath(
        kdf=Kdf.HKDF_SHA256,
        trust_domain="intel",
        tenant="acme",
        workload=WorkloadBinding(
            identity=IdentityKind.NAMED,
            name=name,
            tee=Tee.TDX,
            attributes=(),
            measurements=(),
            authority=Authority("policy_root", b"\x22" * 32),
        ),
        protocol_class=ProtocolClass.V1,
        generation=generation,
        purpose=purpose,
        label=label,
    )
    return replace(base, **changes)


def name_of(path: KeyPath) -> str:
    return wrapped_record(
        tenant=path.tenant,
        workload=path.workload.name or "",
        purpose=path.purpose,
        label=path.label,
    )


def make(keys: WrappedKeys, path: KeyPath, tag: bytes = TAG) -> bytes:
    wanted = (Wanted(path, WrappedUse(name_of(path), create=True)),)
    keys.require(wanted, tag=tag, now=NOW)
    keys.create(wanted, tag=tag, now=NOW)
    return get(keys, path)


def get(keys: WrappedKeys, path: KeyPath) -> bytes:
    return keys.open(path, name_of(path), now=NOW).key.reveal()


def held(store: StateStore, path: KeyPath) -> Record:
    name = name_of(path)
    return store.open(kind_of(name), name, now=NOW)


def overwrite(store: StateStore, path: KeyPath, value: bytes) -> None:
    """As whoever holds the store's key could, and nobody else."""
    before = held(store, path)
    store.replace(before.kind, before.name, value, expected=before.version, now=NOW)


def refusal(attempt: Callable[[], object]) -> TightsealError:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value


class Meddled:
    """A store in which something happens before or after a batch."""

    def __init__(self, store: StateStore, **when: Callable[[], None]) -> None:
        self._store = store
        self._before = when.get("before", lambda: None)
        self._after = when.get("after", lambda: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        self._before()
        version = self._store.batch(changes, now=now)
        self._after()
        return version

# SPDX-License-Identifier: Apache-2.0
"""What tests of keyrings stand on: slots of a pretended machine, terms, an anchor."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    Keyring,
    OpenedKeyring,
    Terms,
    new_keyring,
    open_keyring,
)
from tightseal.keys.keyring.generation import open_root
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.model.state import AnchorClass

NOW = 1_800_000_000
INTEL = "intel"
SIMULATED = "simulated:" + "ab" * 48
POLICY_ROOT = bytes(range(32))
ALL = frozenset(SlotClass)


@dataclass
class Machine:
    """What a slot's key comes from; another machine has another secret."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    works: bool = True


@dataclass
class FakeSlot:
    """A slot key that a machine gives; says why, where it does not.

    Attributes:
        hint: why its slots should be made anew.
        more: parameters that it stores besides.
        fixed: the key that it gives in place of the machine's.
        given: every key that it gave.
    """

    slot_class: SlotClass = SlotClass.GRAMINE
    machine: Machine = field(default_factory=Machine)
    hint: str = ""
    more: Mapping[str, Value] = field(default_factory=dict)
    fixed: bytes | None = None
    given: list[Secret] = field(default_factory=list)

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        parameters: dict[str, Value] = {"salt": secrets.token_bytes(16)}
        key = self.open(parameters, keyring_id=keyring_id, slot_id=slot_id)
        return parameters | dict(self.more), key

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        if not self.machine.works:
            why = f"{self.slot_class.value}: the machine is gone"
            raise KeyReleaseError(Code.SLOT_UNAVAILABLE, why)
        salt = parameters.get("salt")
        if not isinstance(salt, bytes):
            why = f"{self.slot_class.value}: parameters without a salt"
            raise KeyReleaseError(Code.SLOT_UNAVAILABLE, why)
        covered = salt + keyring_id + slot_id + self.slot_class.value.encode()
        derived = hmac.digest(self.machine.secret, covered, "sha256")
        key = Secret(derived if self.fixed is None else self.fixed)
        self.given.append(key)
        return key

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        assert "salt" in parameters
        return self.hint or None


@dataclass
class FakePair:
    """A slot key of two factors."""

    first: FakeSlot
    second: FakeSlot

    @property
    def slot_class(self) -> SlotClass:
        return self.first.slot_class

    @property
    def factors(self) -> tuple[SlotClass, ...]:
        return (self.first.slot_class, self.second.slot_class)

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        one, a = self.first.create(keyring_id=keyring_id, slot_id=slot_id)
        two, b = self.second.create(keyring_id=keyring_id, slot_id=slot_id)
        parameters: dict[str, Value] = {"one": one, "two": two}
        return parameters, _both(a, b)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        one, two = parameters.get("one"), parameters.get("two")
        if not isinstance(one, Mapping) or not isinstance(two, Mapping):
            raise KeyReleaseError(Code.SLOT_UNAVAILABLE, "parameters of no pair")
        a = self.first.open(one, keyring_id=keyring_id, slot_id=slot_id)
        b = self.second.open(two, keyring_id=keyring_id, slot_id=slot_id)
        return _both(a, b)


def _both(a: Secret, b: Secret) -> Secret:
    return Secret(hmac.digest(a.reveal(), b.reveal(), "sha256"))


@dataclass
class FakeAnchor:
    """Remembers counters, and in which order it was told."""

    anchor_class: AnchorClass = AnchorClass.TPM
    counters: dict[bytes, int] = field(default_factory=dict)

    def remembered(self, keyring_id: bytes) -> int | None:
        return self.counters.get(keyring_id)

    def remember(self, keyring_id: bytes, counter: int) -> None:
        self.counters[keyring_id] = max(counter, self.counters.get(keyring_id, 0))


def made(
    *keys: SlotKey,
    trust_domain: str = INTEL,
    policy_root: bytes | None = POLICY_ROOT,
    minimum: int = 3,
    classes: Iterable[SlotClass] = ALL,
) -> Keyring:
    """A new keyring."""
    return new_keyring(
        keys,
        trust_domain=trust_domain,
        policy_root=policy_root,
        minimum_policy_version=minimum,
        slot_classes=classes,
        now=NOW,
    )


TERMS = Terms(trust_domain=INTEL, policy_root=POLICY_ROOT, policy_version=3)
DEVELOPMENT = replace(TERMS, trust_domain=SIMULATED)


def opened(
    data: bytes, *keys: SlotKey, terms: Terms = TERMS, anchor: FakeAnchor | None = None
) -> OpenedKeyring:
    """Open a file with these slot keys."""
    return open_keyring(data, terms=terms, slot_keys=keys, anchor=anchor)


def roots(keyring: Keyring) -> dict[int, bytes]:
    """Every root that is still there, pre-active ones too."""
    keyring_id = keyring.header.keyring_id
    return {
        g.number: open_root(g, key=keyring.key, keyring_id=keyring_id).reveal()
        for g in keyring.generations
        if g.living
    }


def everything(keyring: Keyring) -> tuple[object, ...]:
    """What two keyrings must have alike to be the same."""
    return (keyring.header, keyring.generations, keyring.slots, roots(keyring))


def by_each_slot(
    data: bytes, keys: Sequence[SlotKey], *, terms: Terms = TERMS
) -> list[Keyring]:
    """The keyring as each key alone opens it."""
    return [opened(data, key, terms=terms).keyring for key in keys]

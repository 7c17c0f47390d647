# SPDX-License-Identifier: Apache-2.0
"""The header: whose keyring it is, and under which terms it opens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tightseal.keys.keyring import fields
from tightseal.keys.keyring.faults import malformed
from tightseal.model.canonical import Value
from tightseal.model.keypath import MAX_NAME_CHARS
from tightseal.model.provider import branch_keyring_id
from tightseal.model.slots import SlotClass

__all__ = [
    "KEYRING_ID_BYTES",
    "MAX_COUNTER",
    "POLICY_ROOT_BYTES",
    "Branch",
    "Header",
    "is_simulated",
]

KEYRING_ID_BYTES: Final = 32
POLICY_ROOT_BYTES: Final = 32

MAX_COUNTER: Final = 1 << 53
"""Highest counter, and highest policy version."""

_TRUST_DOMAIN: Final = re.compile(r"intel|amd|simulated:[0-9a-f]{96}")
_NAMES: Final = frozenset(
    {
        "keyring_id",
        "trust_domain",
        "policy_root",
        "minimum_policy_version",
        "slot_classes",
        "counter",
        "changed_at",
    }
)
_BRANCH_NAMES: Final = frozenset({"tenant", "parent"})
_TENANT: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_NAME_CHARS}}}")


def is_simulated(trust_domain: str) -> bool:
    """Whether a trust domain, as text, is a simulated one."""
    return trust_domain.startswith("simulated:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """That a keyring holds one tenant's branch of another one. It never changes.

    Attributes:
        tenant: whose.
        parent: id of the keyring that the branch is of, 32 bytes.

    Raises:
        KeyReleaseError: ``keyring_malformed``, naming the field.
    """

    tenant: str
    parent: bytes

    def __post_init__(self) -> None:
        fields.text(self.tenant, _TENANT, "tenant of a branch")
        fields.octets(self.parent, KEYRING_ID_BYTES, "parent of a branch")

    def as_value(self) -> Value:
        """As it stands in the file."""
        return {"tenant": self.tenant, "parent": self.parent}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Whose keyring it is. Construction checks every field.

    Attributes:
        keyring_id: 32 bytes; a part of the provider's identity, never changes.
        trust_domain: ``intel``, ``amd`` or ``simulated:<root key id>``; never changes.
        policy_root: 32 bytes, or ``None`` for a provider that pins none.
        minimum_policy_version: lowest version of the signed bundle under which it
            opens; 0 where there is none.
        slot_classes: every class that a factor of a slot may have.
        counter: 1 at first, one more with every change.
        changed_at: Unix seconds of the last change; the host's clock, never falling.
        branch: of which other keyring this is one tenant's; ``None`` for a whole one.

    Raises:
        KeyReleaseError: ``keyring_malformed``, naming the field.
    """

    keyring_id: bytes
    trust_domain: str
    policy_root: bytes | None
    minimum_policy_version: int
    slot_classes: frozenset[SlotClass]
    counter: int
    changed_at: int
    branch: Branch | None = None

    def __post_init__(self) -> None:
        fields.octets(self.keyring_id, KEYRING_ID_BYTES, "keyring id")
        fields.text(self.trust_domain, _TRUST_DOMAIN, "trust domain")
        if self.policy_root is not None:
            fields.octets(self.policy_root, POLICY_ROOT_BYTES, "policy root")
        version = self.minimum_policy_version
        fields.whole(version, 0, MAX_COUNTER, "minimum policy version")
        fields.whole(self.counter, 1, MAX_COUNTER, "counter")
        fields.instant(self.changed_at, "changed_at")
        if not self.slot_classes:
            raise malformed("slot classes: none")
        branch = self.branch
        if branch is not None and self.keyring_id != branch_keyring_id(
            branch.parent, branch.tenant
        ):
            raise malformed("keyring id: not that of the branch")

    @property
    def simulated(self) -> bool:
        """Whether the trust domain is a simulated one: development."""
        return is_simulated(self.trust_domain)

    def as_value(self) -> Value:
        """As it stands in the file; a whole keyring has no ``branch`` at all.

        So its bytes, and the MAC over them, are those of before there were branches.
        """
        value: dict[str, Value] = {
            "keyring_id": self.keyring_id,
            "trust_domain": self.trust_domain,
            "policy_root": self.policy_root,
            "minimum_policy_version": self.minimum_policy_version,
            "slot_classes": sorted(name.value for name in self.slot_classes),
            "counter": self.counter,
            "changed_at": self.changed_at,
        }
        if self.branch is not None:
            value["branch"] = self.branch.as_value()
        return value

    @classmethod
    def from_value(cls, value: Value) -> Header:
        """Read a header.

        Raises:
            KeyReleaseError: ``keyring_malformed``.
        """
        of_branch = isinstance(value, Mapping) and "branch" in value
        names = _NAMES | {"branch"} if of_branch else _NAMES
        found: dict[str, Any] = dict(fields.members(value, names, "header"))
        listed = fields.elements(
            found.pop("slot_classes"), len(SlotClass), "slot classes"
        )
        classes = [class_of(name, "slot classes") for name in listed]
        if [*listed] != sorted({name.value for name in classes}):
            raise malformed("slot classes: not sorted, or one twice")
        branch = _branch(found.pop("branch")) if of_branch else None
        # Construction judges the type of every field.
        return cls(slot_classes=frozenset(classes), branch=branch, **found)


def _branch(value: Value) -> Branch:
    # Construction judges the type of every field.
    found: Mapping[str, Any] = fields.members(value, _BRANCH_NAMES, "branch")
    return Branch(**found)


def class_of(value: Value, what: str) -> SlotClass:
    """A slot class by its name.

    Raises:
        KeyReleaseError: ``keyring_malformed``.
    """
    try:
        return SlotClass(str(value))
    except ValueError as e:
        raise malformed(f"{what}: not a class of slots") from e

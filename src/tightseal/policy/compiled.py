# SPDX-License-Identifier: Apache-2.0
"""A policy made ready to decide: values, without the text that they came from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tightseal.model.action import ActionKind
from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.keypath import IdentityKind, Kdf, KeyPart, KeyType, ProtocolClass
from tightseal.model.keyuse import Operation
from tightseal.model.logclass import LogClass
from tightseal.model.settings import PlatformRule
from tightseal.model.usage import UsageRule
from tightseal.policy.cedar import CedarRule
from tightseal.policy.document import Reach, TcbRules
from tightseal.policy.index import ImageIndex
from tightseal.policy.presented import Presented
from tightseal.policy.selection import Selector, exact_values

__all__ = [
    "ID_BYTES",
    "Image",
    "KeyRule",
    "LoggedEvent",
    "Machine",
    "Policy",
    "ProviderRule",
    "Role",
    "TcbRule",
    "Window",
    "Workload",
]

ID_BYTES: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {"ppid": (16,), "piid": (16,), "fmspc": (6,), "chip_id": (64, 8)}
)
"""Lengths that each id of a platform can have."""


@dataclass(frozen=True, slots=True)
class TcbRule:
    """TCB rules with their texts made once."""

    rules: TcbRules
    statuses: frozenset[TcbStatus]
    statuses_text: str
    grace: frozenset[TcbStatus]
    grace_until: int
    grace_text: str
    refused: frozenset[str]
    tolerated: frozenset[str] | None
    options: tuple[str, ...]
    snp: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which keys may leave; Unix seconds, ``None`` without that end."""

    begins: int | None
    ends: int | None

    def holds(self, *, signed_time: int, now: int) -> bool:
        """Whether it is open: others have signed its beginning, and it is not over.

        A host that puts its clock forward opens nothing, since only signed time does;
        one that holds it back is stopped by the floor of the clock alone.
        """
        begun = self.begins is None or self.begins <= signed_time
        return begun and (self.ends is None or now < self.ends)

    def __str__(self) -> str:
        """As traces have it."""
        begins = "" if self.begins is None else f"from {self.begins}"
        ends = "" if self.ends is None else f"until {self.ends}"
        return f"{begins} {ends}".strip()


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A purpose with what may be asked for under it.

    Attributes:
        purpose: as requests name it; empty in the rule for every purpose.
        key_type: raw bytes, or which kind of pair.
        kdf: of the whole chain.
        length: in bytes; ``None`` for any.
        protocols: the ways in.
        labels: prefix and suffix of a pattern, or the whole label and ``None``;
            ``None`` for any label.
        parts: what may leave; never the public part of a raw key, which has none.
        uses: what may be done with the private part without its leaving.
        published: whether anybody may have public parts, without evidence.
        adopted: whether the key is another path's, put under this name by an action.
        wrapped: whether the key is random and kept, in place of derived.
        imports: whether it may be one that the workload brings, in place of random.
        reach: how far back in the versions of the root.
        usage: what is counted; ``None`` where nothing is.
        windows: when private parts may leave; always, where there are none.
        log_class: who must have seen the entry of a release before it leaves.
    """

    purpose: str
    key_type: KeyType
    kdf: Kdf
    length: int | None
    protocols: frozenset[ProtocolClass]
    labels: tuple[tuple[str, str | None], ...] | None
    parts: frozenset[KeyPart]
    uses: frozenset[Operation] = frozenset()
    published: bool = False
    adopted: bool = False
    wrapped: bool = False
    imports: bool = False
    reach: Reach = Reach.ANY
    usage: UsageRule | None = None
    windows: tuple[Window, ...] = ()
    log_class: LogClass = LogClass.SIGNED

    def allows_label(self, label: str) -> bool:
        """Whether a label fits a pattern."""
        for prefix, suffix in self.labels or ():
            if suffix is None:
                if label == prefix:
                    return True
            elif (
                len(label) >= len(prefix) + len(suffix)
                and label.startswith(prefix)
                and label.endswith(suffix)
            ):
                return True
        return self.labels is None


@dataclass(frozen=True, slots=True)
class Machine:
    """Ids that a platform must have, all of them."""

    ids: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload without its images, which stand in the index.

    ``trust_domain`` is ``None`` where any of the provider's world will do, and
    ``every_key`` the rule of purposes that ``keys`` does not name; both are the
    built-in policy's alone, which has no name either.
    """

    tenant: str
    name: str
    identity: IdentityKind
    tee: Tee
    trust_domain: str | None
    platform: PlatformRule | tuple[Machine, ...]
    one_verifier: bool
    binds: tuple[str, ...]
    tcb: TcbRule
    keys: tuple[KeyRule, ...]
    every_key: KeyRule | None = None
    cedar: CedarRule | None = None

    def key_rule(self, purpose: str) -> KeyRule | None:
        """The rule of a purpose."""
        for rule in self.keys:
            if rule.purpose == purpose:
                return rule
        return self.every_key

    def __str__(self) -> str:
        """``tenant/name``, as traces have it."""
        return f"{self.tenant}/{self.name}" if self.name else "the built-in policy"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """Digests of which the log must show one in a register."""

    register: str
    digests: frozenset[bytes]
    about: str

    def holds(self, presented: Presented) -> bool:
        """Whether the log shows it; a register that was not replayed shows nothing."""
        shown = presented.digests(self.register)
        return shown is not None and not self.digests.isdisjoint(shown)


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a workload; ``begins`` and ``ends`` in Unix seconds.

    ``selectors`` are those of measurements, then of identity events as
    ``event:<name>``.
    """

    workload: Workload
    label: str
    begins: int | None
    ends: int | None
    selectors: tuple[tuple[str, Selector], ...]
    logged: tuple[LoggedEvent, ...] = ()

    def exact(self) -> dict[str, frozenset[bytes]]:
        """What must be one of some values: measurements, events, platform ids."""
        found = {name: exact_values(selector) for name, selector in self.selectors}
        if not isinstance(self.workload.platform, PlatformRule):
            machines = [dict(machine.ids) for machine in self.workload.platform]
            for name in ID_BYTES:
                if all(name in ids for ids in machines):
                    found[name] = frozenset(ids[name] for ids in machines)
        return {name: values for name, values in found.items() if values}

    def misfits(self, presented: Presented) -> list[str]:
        """What keeps it from fitting, by name; empty where it fits."""
        values = presented.values
        wrong = [n for n, s in self.selectors if not s.holds(values.get(n))]
        if self.logged:
            wrong += [e.about for e in self.logged if not e.holds(presented)]
        return wrong

    def __str__(self) -> str:
        """As traces have it."""
        if not self.label:
            return str(self.workload)
        return f"image {self.label} of {self.workload}"


@dataclass(frozen=True, slots=True)
class Role:
    """Who may ask a running provider for what.

    Attributes:
        name: once a tenant, or once among the roles of no tenant.
        tenant: the only tenant that it may act on; ``None`` for any.
        threshold: how many of the keys must sign.
        keys: Ed25519 public keys, 32 bytes each.
        actions: what it may ask for.
    """

    name: str
    tenant: str | None
    threshold: int
    keys: frozenset[bytes]
    actions: frozenset[ActionKind]

    def __str__(self) -> str:
        """``tenant/name``, or the name alone."""
        return self.name if self.tenant is None else f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """Another provider that may be handed the keyring, once it is invited.

    Attributes:
        name: once a policy.
        tee: kind of TEE.
        measurements: any of these.
        trust_domain: that its evidence must chain to.
        one_verifier: whether one verifier's word is enough.
        tcb: the state of its platform that is good enough.
    """

    name: str
    tee: Tee
    measurements: frozenset[bytes]
    trust_domain: str
    one_verifier: bool
    tcb: TcbRule


@dataclass(frozen=True, slots=True)
class Policy:
    """Workloads, images and roles. Made by ``load_policy`` or ``builtin_policy``.

    Attributes:
        workloads: in the order of tenant and name.
        index: every image, found by measurements.
        roles: in the order of tenant and name.
        providers: that may be handed the keyring, in the order of names.
        everyone: the image of each TEE that all evidence fits; the built-in policy's.
    """

    workloads: tuple[Workload, ...]
    index: ImageIndex[Image]
    roles: tuple[Role, ...] = ()
    providers: tuple[ProviderRule, ...] = ()
    everyone: Mapping[Tee, Image] = field(default_factory=dict)

    def named(self, tenant: str, name: str) -> Workload | None:
        """The named workload of a tenant; ``None`` where there is none."""
        at = bisect_left(self.workloads, (tenant, name), key=_order)
        found = self.workloads[at : at + 1]
        if not found or _order(found[0]) != (tenant, name):
            return None
        return found[0] if found[0].identity is IdentityKind.NAMED else None


def _order(workload: Workload) -> tuple[str, str]:
    return workload.tenant, workload.name

# SPDX-License-Identifier: Apache-2.0
"""Documents to policy: checked beyond their types, made ready, and indexed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.model.keypath import IdentityKind
from tightseal.model.settings import (
    LAUNCH_MEASUREMENTS,
    PlatformRule,
    ReleaseSettings,
)
from tightseal.policy.cedar import CedarRule, compile_cedar
from tightseal.policy.compile_images import ImageMaker
from tightseal.policy.compile_keys import compile_key
from tightseal.policy.compile_providers import compile_provider
from tightseal.policy.compile_roles import compile_role
from tightseal.policy.compile_tcb import compile_tcb
from tightseal.policy.compile_world import one_verifier, trust_domain_of
from tightseal.policy.compiled import (
    ID_BYTES,
    Image,
    KeyRule,
    Machine,
    Policy,
    ProviderRule,
    Role,
    TcbRule,
    Workload,
)
from tightseal.policy.document import (
    KeyRules,
    PlatformId,
    ProviderRules,
    RoleRules,
    TcbRules,
    WorkloadRules,
)
from tightseal.policy.index import ImageIndex
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault, Parsed, Text, parse

__all__ = [
    "MAX_WORKLOADS",
    "Image",
    "KeyRule",
    "Machine",
    "Policy",
    "Role",
    "TcbRule",
    "Workload",
    "compile_policy",
    "load_policy",
]

MAX_WORKLOADS: Final = 200_000
"""Most workloads of one policy."""

MAX_DOCUMENTS: Final = 4096

MAX_POLICY_ROLES: Final = 4096
MAX_POLICY_PROVIDERS: Final = 4096
"""Most documents, roles and providers, likewise."""

_INTEL_IDS: Final = ("ppid", "piid", "fmspc")


def load_policy(documents: str | Iterable[str | Parsed]) -> Policy:
    """Read and compile one document, or several into one policy.

    The order of documents, and of everything in them, means nothing.

    Args:
        documents: TOML text, or several texts or parsed documents.

    Raises:
        SettingsError: ``policy_invalid``, with ``name:line:column`` and the field.
    """
    given = [documents] if isinstance(documents, str) else list(documents)
    return compile_policy(
        [
            item if isinstance(item, Parsed) else parse(item, name=_name(given, i))
            for i, item in enumerate(given)
        ]
    )


def compile_policy(documents: Sequence[Parsed]) -> Policy:
    """Compile parsed documents; as :func:`load_policy`."""
    maker = _Maker()
    nowhere = Text("policy", "")
    if len(documents) > MAX_DOCUMENTS:
        nowhere.refuse((), f"more than {MAX_DOCUMENTS} documents")
    for parsed in documents:
        room = MAX_WORKLOADS - len(maker.names)
        if len(parsed.document.workload) > room:
            nowhere.refuse((), f"more than {MAX_WORKLOADS} workloads")
        if len(parsed.document.role) > MAX_POLICY_ROLES - len(maker.roles):
            nowhere.refuse((), f"more than {MAX_POLICY_ROLES} roles")
        if len(parsed.document.provider) + len(maker.providers) > MAX_POLICY_PROVIDERS:
            nowhere.refuse((), f"more than {MAX_POLICY_PROVIDERS} providers")
        try:
            for i, rules in enumerate(parsed.document.workload):
                maker.add(rules, ("workload", i))
            for i, role in enumerate(parsed.document.role):
                maker.add_role(role, ("role", i))
            for i, provider in enumerate(parsed.document.provider):
                maker.add_provider(provider, ("provider", i))
        except FieldFault as e:
            parsed.source.refuse(e.path, e.message)
    return maker.policy()


def _name(documents: Sequence[object], index: int) -> str:
    return "policy" if len(documents) == 1 else f"policy[{index}]"


class _Maker:
    """Collects what documents say; equal parts are kept once."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.workloads: list[Workload] = []
        self.images: list[Image] = []
        self.roles: dict[tuple[str, str], Role] = {}
        self.providers: dict[str, ProviderRule] = {}
        self._tcb: dict[tuple[TcbRules, Tee], TcbRule] = {}
        self._keys: dict[tuple[KeyRules, IdentityKind], KeyRule] = {}
        self._make_image = ImageMaker()
        self._cedar: dict[str, CedarRule] = {}

    def policy(self) -> Policy:
        self.workloads.sort(key=lambda w: (w.tenant, w.name))
        self.images.sort(key=lambda m: (m.workload.tenant, m.workload.name, m.label))
        return Policy(
            workloads=tuple(self.workloads),
            index=ImageIndex(self.images),
            roles=tuple(self.roles[named] for named in sorted(self.roles)),
            providers=tuple(self.providers[name] for name in sorted(self.providers)),
        )

    def add_role(self, rules: RoleRules, path: Path) -> None:
        role = compile_role(rules, path)
        # No tenant has an empty name, so the roles of none stand apart.
        named = (rules.tenant or "", rules.name)
        if named in self.roles:
            raise FieldFault((*path, "name"), f"{role} stands twice")
        self.roles[named] = role

    def add_provider(self, rules: ProviderRules, path: Path) -> None:
        if rules.name in self.providers:
            raise FieldFault((*path, "name"), f"{rules.name} stands twice")
        self.providers[rules.name] = compile_provider(rules, path)

    def add(self, rules: WorkloadRules, path: Path) -> None:
        named = (rules.tenant, rules.name)
        if named in self.names:
            raise FieldFault((*path, "name"), f"{'/'.join(named)} stands twice")
        self.names.add(named)
        workload = Workload(
            tenant=rules.tenant,
            name=rules.name,
            identity=rules.identity,
            tee=rules.tee,
            trust_domain=trust_domain_of(rules.trust_domain, rules.tee, path),
            platform=_platform(rules, path),
            one_verifier=one_verifier(rules.single_verifier, rules.tee),
            binds=_binds(rules, path),
            tcb=self._tcb_rule(rules, path),
            keys=self._key_rules(rules, path),
            cedar=self._cedar_rule(rules.cedar, (*path, "cedar")),
        )
        self.workloads.append(workload)
        for i, image in enumerate(rules.image):
            self.images.append(self._make_image(image, workload, (*path, "image", i)))

    def _cedar_rule(self, text: str | None, path: Path) -> CedarRule | None:
        if text is None:
            return None
        if text not in self._cedar:
            try:
                self._cedar[text] = compile_cedar(text)
            except ValueError as e:
                raise FieldFault(path, str(e)) from e
        return self._cedar[text]

    def _tcb_rule(self, rules: WorkloadRules, path: Path) -> TcbRule:
        cached = self._tcb.get((rules.tcb, rules.tee))
        if cached is None:
            cached = compile_tcb(rules.tcb, rules.tee, (*path, "tcb"))
            self._tcb[rules.tcb, rules.tee] = cached
        return cached

    def _key_rules(self, rules: WorkloadRules, path: Path) -> tuple[KeyRule, ...]:
        made: dict[str, KeyRule] = {}
        for i, key in enumerate(rules.key):
            at = (*path, "key", i)
            if key.purpose in made:
                raise FieldFault((*at, "purpose"), f"{key.purpose} stands twice")
            known = (key, rules.identity)
            if known not in self._keys:
                self._keys[known] = compile_key(key, rules.identity, at)
            made[key.purpose] = self._keys[known]
        return tuple(made[purpose] for purpose in sorted(made))


def _platform(rules: WorkloadRules, path: Path) -> PlatformRule | tuple[Machine, ...]:
    if isinstance(rules.platform, PlatformRule):
        return rules.platform
    machines = [
        _machine(entry, rules.tee, (*path, "platform", i))
        for i, entry in enumerate(rules.platform)
    ]
    return tuple(sorted(set(machines), key=lambda machine: machine.ids))


def _machine(entry: PlatformId, tee: Tee, path: Path) -> Machine:
    ids: list[tuple[str, bytes]] = []
    for name, lengths in ID_BYTES.items():
        text: str | None = getattr(entry, name)
        if text is None:
            continue
        if (name in _INTEL_IDS) == (tee is Tee.SNP):
            raise FieldFault((*path, name), f"{tee.value} platforms have none")
        value = bytes.fromhex(text)
        if len(value) not in lengths:
            wanted = " or ".join(str(length) for length in lengths)
            message = f"expected {wanted} bytes of hex, got {len(value)}"
            raise FieldFault((*path, name), message)
        if not any(value):
            raise FieldFault((*path, name), "all zero, which names no machine")
        ids.append((name, value))
    if not ids:
        raise FieldFault(path, "expected ppid, piid, fmspc or chip_id")
    return Machine(tuple(ids))


def _binds(rules: WorkloadRules, path: Path) -> tuple[str, ...]:
    if rules.identity is IdentityKind.NAMED:
        if rules.binds is not None:
            message = "a named key belongs to its name; leave binds out"
            raise FieldFault((*path, "binds"), message)
        return ()
    names = rules.binds or ReleaseSettings().identity_selections()[rules.tee]
    known = MEASUREMENT_NAMES[rules.tee]
    for i, name in enumerate(names):
        if name not in known:
            message = f"{name} is no measurement of {rules.tee.value}; known are "
            raise FieldFault((*path, "binds", i), message + ", ".join(known))
    if len(set(names)) != len(names):
        raise FieldFault((*path, "binds"), "names a measurement twice")
    launch = LAUNCH_MEASUREMENTS[rules.tee]
    if not set(names) & set(launch):
        message = f"lacks {' or '.join(launch)}: any code could take on the rest"
        raise FieldFault((*path, "binds"), message)
    return tuple(sorted(names))

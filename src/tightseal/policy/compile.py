# SPDX-License-Identifier: Apache-2.0
"""Documents to policy: checked beyond their types, made ready, and indexed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tightseal.model.claims import MEASUREMENT_NAMES, TcbStatus, Tee, Vendor
from tightseal.model.keypath import IdentityKind, Kdf, ProtocolClass
from tightseal.model.settings import (
    LAUNCH_MEASUREMENTS,
    PlatformRule,
    ReleaseSettings,
)
from tightseal.policy.document import (
    Choice,
    ImageRules,
    KeyRules,
    KeyType,
    PlatformId,
    TcbRules,
    WorkloadRules,
)
from tightseal.policy.index import ImageIndex
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault, Parsed, Text, parse
from tightseal.policy.selection import Selector, compile_selector, exact_values

__all__ = [
    "MAX_WORKLOADS",
    "Image",
    "KeyRule",
    "Machine",
    "Policy",
    "TcbRule",
    "Workload",
    "compile_policy",
    "load_policy",
]

MAX_WORKLOADS: Final = 200_000
"""Most workloads of one policy."""

MAX_DOCUMENTS: Final = 4096

FIRST_YEAR: Final = 1971
LAST_YEAR: Final = 9998
"""Years that every clock and every time zone can tell."""

_ID_BYTES: Final[Mapping[str, tuple[int, ...]]] = {
    "ppid": (16,),
    "piid": (16,),
    "fmspc": (6,),
    "chip_id": (64, 8),
}
_INTEL_IDS: Final = ("ppid", "piid", "fmspc")


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
class KeyRule:
    """A purpose with what may be asked for under it.

    ``labels`` are prefix and suffix of a pattern, or the whole label and ``None``.
    """

    purpose: str
    kdf: Kdf
    length: int
    protocols: frozenset[ProtocolClass]
    labels: tuple[tuple[str, str | None], ...]

    def allows_label(self, label: str) -> bool:
        """Whether a label fits a pattern."""
        for prefix, suffix in self.labels:
            if suffix is None:
                if label == prefix:
                    return True
            elif (
                len(label) >= len(prefix) + len(suffix)
                and label.startswith(prefix)
                and label.endswith(suffix)
            ):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Machine:
    """Ids that a platform must have, all of them."""

    ids: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload without its images, which stand in the index."""

    tenant: str
    name: str
    identity: IdentityKind
    tee: Tee
    trust_domain: str
    platform: PlatformRule | tuple[Machine, ...]
    one_verifier: bool
    binds: tuple[str, ...]
    tcb: TcbRule
    keys: tuple[KeyRule, ...]

    def __str__(self) -> str:
        """``tenant/name``, as traces have it."""
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a workload; ``begins`` and ``ends`` in Unix seconds."""

    workload: Workload
    label: str
    begins: int | None
    ends: int | None
    selectors: tuple[tuple[str, Selector], ...]

    def exact(self) -> dict[str, frozenset[bytes]]:
        """Measurements and platform ids that must be one of some values."""
        found = {name: exact_values(selector) for name, selector in self.selectors}
        if not isinstance(self.workload.platform, PlatformRule):
            machines = [dict(machine.ids) for machine in self.workload.platform]
            for name in _ID_BYTES:
                if all(name in ids for ids in machines):
                    found[name] = frozenset(ids[name] for ids in machines)
        return {name: values for name, values in found.items() if values}

    def __str__(self) -> str:
        """As traces have it."""
        return f"image {self.label} of {self.workload}"


@dataclass(frozen=True, slots=True)
class Policy:
    """Workloads and their images, ready to decide. Made by :func:`load_policy`.

    Attributes:
        workloads: in the order of tenant and name.
        index: every image, found by measurements.
    """

    workloads: tuple[Workload, ...]
    index: ImageIndex[Image]


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
        for i, rules in enumerate(parsed.document.workload):
            if len(maker.names) >= MAX_WORKLOADS:
                nowhere.refuse((), f"more than {MAX_WORKLOADS} workloads")
            try:
                maker.add(rules, ("workload", i))
            except FieldFault as e:
                parsed.source.refuse(e.path, e.message)
    maker.workloads.sort(key=lambda w: (w.tenant, w.name))
    maker.images.sort(key=lambda m: (m.workload.tenant, m.workload.name, m.label))
    return Policy(tuple(maker.workloads), ImageIndex(maker.images))


def _name(documents: Sequence[object], index: int) -> str:
    return "policy" if len(documents) == 1 else f"policy[{index}]"


class _Maker:
    """Collects what documents say; equal parts are kept once."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.workloads: list[Workload] = []
        self.images: list[Image] = []
        self._tcb: dict[tuple[TcbRules, Tee], TcbRule] = {}
        self._keys: dict[KeyRules, KeyRule] = {}
        self._selectors: dict[tuple[str, Selector], tuple[str, Selector]] = {}

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
            trust_domain=_trust_domain(rules, path),
            platform=_platform(rules, path),
            one_verifier=_one_verifier(rules),
            binds=_binds(rules, path),
            tcb=self._tcb_rule(rules, path),
            keys=self._key_rules(rules, path),
        )
        self.workloads.append(workload)
        for i, image in enumerate(rules.image):
            self.images.append(self._image(image, workload, (*path, "image", i)))

    def _image(self, rules: ImageRules, workload: Workload, path: Path) -> Image:
        begins = _seconds(rules.from_, (*path, "from"))
        ends = _seconds(rules.until, (*path, "until"))
        if begins is not None and ends is not None and ends <= begins:
            raise FieldFault((*path, "until"), "not after from")
        known = MEASUREMENT_NAMES[workload.tee]
        selectors: dict[str, tuple[str, Selector]] = {}
        for name, rule in rules.measurements.items():
            at = (*path, "measurements", name)
            if name not in known:
                message = f"no measurement of {workload.tee.value}; known are "
                raise FieldFault(at, message + ", ".join(known))
            pair = (name, compile_selector(name, rule, at))
            selectors[name] = self._selectors.setdefault(pair, pair)
        ordered = tuple(selectors[name] for name in known if name in selectors)
        return Image(workload, rules.label, begins, ends, ordered)

    def _tcb_rule(self, rules: WorkloadRules, path: Path) -> TcbRule:
        cached = self._tcb.get((rules.tcb, rules.tee))
        if cached is None:
            cached = _tcb(rules.tcb, rules.tee, (*path, "tcb"))
            self._tcb[rules.tcb, rules.tee] = cached
        return cached

    def _key_rules(self, rules: WorkloadRules, path: Path) -> tuple[KeyRule, ...]:
        made: dict[str, KeyRule] = {}
        for i, key in enumerate(rules.key):
            at = (*path, "key", i)
            if key.purpose in made:
                raise FieldFault((*at, "purpose"), f"{key.purpose} stands twice")
            if key.type is not KeyType.RAW:
                message = f"{key.type.value} keys cannot be derived; known is raw"
                raise FieldFault((*at, "type"), message)
            if key not in self._keys:
                self._keys[key] = _key(key)
            made[key.purpose] = self._keys[key]
        return tuple(made[purpose] for purpose in sorted(made))


def _seconds(moment: datetime | None, path: Path) -> int | None:
    if moment is None:
        return None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise FieldFault(path, f"expected a year from {FIRST_YEAR} to {LAST_YEAR}")
    return int(moment.timestamp())


def _key(rules: KeyRules) -> KeyRule:
    labels: list[tuple[str, str | None]] = []
    for pattern in sorted(set(rules.labels)):
        prefix, star, suffix = pattern.partition("*")
        labels.append((prefix, suffix if star else None))
    return KeyRule(
        purpose=rules.purpose,
        kdf=rules.kdf,
        length=rules.length,
        protocols=frozenset(rules.protocols),
        labels=tuple(labels),
    )


def _trust_domain(rules: WorkloadRules, path: Path) -> str:
    vendor = Vendor.AMD if rules.tee is Tee.SNP else Vendor.INTEL
    other = Vendor.INTEL if rules.tee is Tee.SNP else Vendor.AMD
    if rules.trust_domain == other.value:
        message = f"{rules.tee.value} evidence never chains to {other.value}"
        raise FieldFault((*path, "trust_domain"), message)
    return rules.trust_domain or vendor.value


def _one_verifier(rules: WorkloadRules) -> bool:
    if rules.single_verifier is None:
        return rules.tee is Tee.SNP
    return rules.single_verifier is Choice.ACCEPT


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
    for name, lengths in _ID_BYTES.items():
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


def _tcb(rules: TcbRules, tee: Tee, path: Path) -> TcbRule:
    _check_tcb(rules, tee, path)
    grace = rules.grace
    until = _seconds(grace.until if grace else None, (*path, "grace", "until"))
    return TcbRule(
        rules=rules,
        statuses=frozenset(rules.statuses),
        statuses_text=" or ".join(sorted(set(rules.statuses))),
        grace=frozenset(grace.statuses if grace else ()),
        grace_until=until or 0,
        grace_text=" or ".join(sorted(set(grace.statuses))) if grace else "",
        refused=frozenset(rules.refuse_advisories),
        tolerated=None
        if rules.tolerate_advisories is None
        else frozenset(rules.tolerate_advisories),
        options=tuple(
            name
            for name in ("dynamic_platform", "cached_keys", "smt")
            if getattr(rules, name) is Choice.REFUSE
        ),
        snp=tuple(
            (name, least)
            for name in ("bootloader", "tee", "snp", "microcode", "fmc")
            if (least := getattr(rules.snp, name))
        ),
    )


def _check_tcb(rules: TcbRules, tee: Tee, path: Path) -> None:
    grace = rules.grace.statuses if rules.grace else ()
    for within, statuses in (("statuses",), rules.statuses), (("grace",), grace):
        if TcbStatus.REVOKED in statuses:
            raise FieldFault((*path, *within), "Revoked is never accepted")
    usual = TcbRules()
    other = tuple(n for n in TcbRules.__struct_fields__ if n != "snp")
    for name in other if tee is Tee.SNP else ("snp",):
        if getattr(rules, name) != getattr(usual, name):
            message = f"has no meaning for {tee.value} evidence"
            raise FieldFault((*path, name), message)

# SPDX-License-Identifier: Apache-2.0
"""The form of a policy document, version 1: TOML, typed, nothing unknown let through.

What the types cannot say (lengths of measurements, names of a TEE, dates in order) is
checked by :mod:`tightseal.policy.compile`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from tightseal.model.action import ActionKind
from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    MAX_KEY_BYTES,
    MAX_NAME_CHARS,
    MIN_KEY_BYTES,
    IdentityKind,
    Kdf,
    KeyPart,
    KeyType,
    ProtocolClass,
)
from tightseal.model.keyuse import Operation
from tightseal.model.logclass import LogClass
from tightseal.model.settings import Name, PlatformRule, SnpMinimum
from tightseal.model.usage import MAX_PER_HOUR, MAX_TOTAL

__all__ = [
    "DOCUMENT_VERSION",
    "Choice",
    "Document",
    "GraceRules",
    "ImageRules",
    "KeyRules",
    "LoggedRules",
    "PlatformId",
    "ProviderRules",
    "Reach",
    "RoleRules",
    "SelectorRules",
    "SelectorValue",
    "Source",
    "TcbRules",
    "UsageRules",
    "WindowRules",
    "WorkloadRules",
]

DOCUMENT_VERSION: Final = 1

MAX_DOCUMENT_WORKLOADS: Final = 200_000
MAX_IMAGES: Final = 64
MAX_KEYS: Final = 64
MAX_LABELS: Final = 16
MAX_ONE_OF: Final = 64
MAX_PLATFORMS: Final = 4096
MAX_ADVISORIES: Final = 256
MAX_HEX_CHARS: Final = 128
MAX_TEE_NAMES: Final = 16
MAX_LOGGED: Final = 16
MAX_WINDOWS: Final = 64
MAX_ROLES: Final = 256
MAX_ROLE_KEYS: Final = 32
MAX_PROVIDERS: Final = 256
MAX_PROVIDER_MEASUREMENTS: Final = 64
MAX_CEDAR_CHARS: Final = 65_536
"""Bounds on lists of one document, workload, image, key, selector and rule."""

Hex: TypeAlias = Annotated[
    str,
    msgspec.Meta(min_length=2, max_length=MAX_HEX_CHARS, pattern=r"^([0-9a-f]{2})+\Z"),
]
"""Lower-case hex, as every command prints it: one form, so that it can be searched."""

Printable: TypeAlias = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[\x20-\x7e]+\Z"),
]
LabelPattern: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        max_length=MAX_NAME_CHARS,
        pattern=r"^[\x20-\x29\x2b-\x7e]*\*?[\x20-\x29\x2b-\x7e]*\Z",
    ),
]
"""A sub-key's label; one ``*`` at most, which stands for any characters or none."""

Advisory: TypeAlias = Annotated[
    str, msgspec.Meta(max_length=64, pattern=r"^INTEL-(SA|DOC)-[0-9]{1,8}\Z")
]
TrustDomainText: TypeAlias = Annotated[
    str,
    msgspec.Meta(max_length=106, pattern=r"^(intel|amd|simulated:[0-9a-f]{96})\Z"),
]
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339 with ``Z`` or an offset; whole seconds."""


class Choice(StrEnum):
    """An operator's answer to something that weakens what evidence proves."""

    ACCEPT = "accept"
    REFUSE = "refuse"


class _Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every table of a document has in common."""


class Reach(StrEnum):
    """How far back in the versions of the root requests may reach."""

    CURRENT = "current"
    PREVIOUS = "previous"
    ANY = "any"


class Source(StrEnum):
    """Where the key of a purpose comes from."""

    DERIVED = "derived"
    """The chain: the same key again at any time, another one from another root."""

    WRAPPED = "wrapped"
    """Random, made once when a workload says ``create``, and kept under the root."""


class SelectorRules(_Rules, frozen=True, kw_only=True):
    """A selector that is more than one exact value; exactly one form.

    Attributes:
        one_of: any of these values.
        mask, expected: the bits of ``mask`` must be those of ``expected``.
        minimum: at least this; security versions only.
        zero: all zero, which for digests and ids means that nothing was set.
    """

    one_of: (
        Annotated[
            tuple[Hex | Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)], ...],
            msgspec.Meta(max_length=MAX_ONE_OF),
        ]
        | None
    ) = None
    mask: Hex | None = None
    expected: Hex | None = None
    minimum: Annotated[int, msgspec.Meta(ge=1, lt=1 << 32)] | None = None
    zero: Literal[True] | None = None


SelectorValue: TypeAlias = (
    Hex | Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] | SelectorRules
)
"""Exact hex, an exact number where the field is one, or one of the other forms."""


class LoggedRules(_Rules, frozen=True, kw_only=True):
    """An event that the log must show in a register, by its digest.

    Attributes:
        register: ``rtmr0`` to ``rtmr3``.
        digest: what the register was extended with, 48 bytes; any of them.
        about: what it stands for, such as ``kernel``; for traces.
    """

    register: Literal["rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    digest: Hex | Annotated[tuple[Hex, ...], msgspec.Meta(min_length=1, max_length=64)]
    about: Printable = "event"


class ImageRules(_Rules, frozen=True, kw_only=True):
    """An image: a labelled set of accepted measurements.

    Attributes:
        label: names it in traces; once a workload.
        from_: Unix time from which it counts, as RFC 3339 under the key ``from``.
        until: the first second in which it no longer counts.
        measurements: a selector for each measurement that must fit; all of them must.
        events: likewise for identity events of the event log sent along, such as
            ``compose-hash``: the bytes that were measured, hex or ``one_of``.
        logged: events that the log must show.
    """

    label: Printable
    from_: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = None
    measurements: dict[str, SelectorValue]
    events: dict[str, SelectorValue] = {}
    logged: Annotated[tuple[LoggedRules, ...], msgspec.Meta(max_length=MAX_LOGGED)] = ()


class WindowRules(_Rules, frozen=True, kw_only=True):
    """A time in which keys may leave.

    Attributes:
        from_: first second, under the key ``from``; reached only when time signed by
            others says so.
        until: the first second that is too late, by the provider's clock.
    """

    from_: Moment | None = msgspec.field(default=None, name="from")
    until: Moment | None = None


class UsageRules(_Rules, frozen=True, kw_only=True):
    """How often, when and where keys of a purpose may leave; what is given must hold.

    Attributes:
        per_hour: most releases in any 3600 seconds.
        total: most releases ever.
        first_platform: the first platform that asks becomes the only one.
        windows: times in which keys may leave; any of them.
        without_anchor: ``accept``: count even where an older state, put back whole,
            would go unnoticed. ``refuse``: release nothing then.
    """

    per_hour: Annotated[int, msgspec.Meta(ge=1, le=MAX_PER_HOUR)] | None = None
    total: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOTAL)] | None = None
    first_platform: bool = False
    windows: Annotated[
        tuple[WindowRules, ...], msgspec.Meta(max_length=MAX_WINDOWS)
    ] = ()
    without_anchor: Choice = Choice.REFUSE


class KeyRules(_Rules, frozen=True, kw_only=True):
    """A purpose that a workload may have keys for.

    Attributes:
        purpose: as requests name it.
        type: raw bytes, or a key pair.
        length: bytes of the key; requests for another length are refused. 32 for pairs.
        kdf: the KDF of the whole chain.
        protocols: the ways in by which it may leave; not ``legacy`` unless said.
        labels: patterns of allowed sub-keys; the empty one is the purpose's own key.
        parts: what of a pair may leave to the workload.
        uses: what the provider may do for the workload with the private half in place
            of releasing it; nothing unless said. With ``parts = ["public"]`` the key
            never leaves.
        published: whether anybody may ask for public halves, without evidence; named
            workloads only.
        adopted: the key is a measured one that a signed action put under this name;
            without such an action nothing is released.
        source: ``derived`` from the root, or ``wrapped``: random, made at the explicit
            ``create`` of a workload and kept in the state store under the current
            version of the root; named workloads only.
        imports: whether ``create`` may hand over an existing key to be kept; wrapped
            purposes only.
        generations: how far back in the versions of the root requests may reach:
            ``current`` alone, the ``previous`` one too, or ``any`` that still opens.
        usage: how often, when and where.
        log: who besides the provider must have seen the entry of a release before the
            key leaves: ``signed`` for nobody, ``anchored`` or ``cosigned``. Which
            witnesses count is a release setting, as is the least class of all.
    """

    purpose: Printable
    type: KeyType = KeyType.RAW
    length: Annotated[int, msgspec.Meta(ge=MIN_KEY_BYTES, le=MAX_KEY_BYTES)] = (
        DEFAULT_KEY_BYTES
    )
    kdf: Kdf = Kdf.HKDF_SHA256
    protocols: Annotated[
        tuple[ProtocolClass, ...], msgspec.Meta(min_length=1, max_length=2)
    ] = (ProtocolClass.V1,)
    labels: Annotated[
        tuple[LabelPattern, ...], msgspec.Meta(min_length=1, max_length=MAX_LABELS)
    ] = ("",)
    parts: Annotated[tuple[KeyPart, ...], msgspec.Meta(min_length=1, max_length=2)] = (
        KeyPart.PRIVATE,
        KeyPart.PUBLIC,
    )
    uses: Annotated[tuple[Operation, ...], msgspec.Meta(max_length=len(Operation))] = ()
    published: bool = False
    adopted: bool = False
    source: Source = Source.DERIVED
    imports: bool = False
    generations: Reach = Reach.ANY
    usage: UsageRules | None = None
    log: LogClass = LogClass.SIGNED


class GraceRules(_Rules, frozen=True, kw_only=True):
    """More statuses for a while, after a TCB recovery.

    Attributes:
        statuses: accepted besides the usual ones.
        until: the first second in which they no longer are.
    """

    statuses: Annotated[
        tuple[TcbStatus, ...], msgspec.Meta(min_length=1, max_length=MAX_TEE_NAMES)
    ]
    until: Moment


class TcbRules(_Rules, frozen=True, kw_only=True):
    """The state of the platform that is good enough.

    Attributes:
        statuses: Intel's statuses that are accepted.
        refuse_advisories: any of these in the claims is a no.
        tolerate_advisories: where given, any advisory that is not here is a no.
        minimum_evaluation: lowest ``tcbEvaluationDataNumber``.
        grace: more statuses until a date.
        dynamic_platform, cached_keys, smt: whether platforms are accepted whose
            certificate says yes; ``refuse`` also refuses one that does not say.
        snp: lowest AMD component versions.
    """

    statuses: Annotated[
        tuple[TcbStatus, ...], msgspec.Meta(min_length=1, max_length=MAX_TEE_NAMES)
    ] = (TcbStatus.UP_TO_DATE,)
    refuse_advisories: Annotated[
        tuple[Advisory, ...], msgspec.Meta(max_length=MAX_ADVISORIES)
    ] = ()
    tolerate_advisories: (
        Annotated[tuple[Advisory, ...], msgspec.Meta(max_length=MAX_ADVISORIES)] | None
    ) = None
    minimum_evaluation: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0
    grace: GraceRules | None = None
    dynamic_platform: Choice = Choice.ACCEPT
    cached_keys: Choice = Choice.ACCEPT
    smt: Choice = Choice.ACCEPT
    snp: SnpMinimum = SnpMinimum()


class PlatformId(_Rules, frozen=True, kw_only=True):
    """A machine, or with ``fmspc`` a family; every id that is given must be equal.

    Attributes:
        ppid: Intel PPID, 16 bytes.
        piid: Intel platform instance id, 16 bytes.
        fmspc: Intel FMSPC, 6 bytes; names no machine.
        chip_id: AMD chip id, 64 bytes, or 8 on Turin.
    """

    ppid: Hex | None = None
    piid: Hex | None = None
    fmspc: Hex | None = None
    chip_id: Hex | None = None


class WorkloadRules(_Rules, frozen=True, kw_only=True):
    """A workload: who may carry it, on what, and which keys it gets.

    Attributes:
        tenant: whose it is; enters every key.
        name: once a tenant; enters the keys where the identity is ``named``.
        identity: what its keys belong to: the name, or the measurements.
        tee: kind of TEE.
        trust_domain: ``intel``, ``amd`` or ``simulated:<root key id>``; the vendor of
            the TEE by default.
        platform: ``same`` as the provider's, ``any``, or a list of machines.
        single_verifier: whether one verifier's word is enough; by default only for
            SEV-SNP, where there is one.
        binds: where the identity is ``measured``, the measurements that a key belongs
            to; a default for each TEE.
        tcb: the state of the platform that is good enough.
        image: the accepted images; any one of them.
        key: the purposes.
        cedar: Cedar policies that must allow a release besides; they only narrow it.
    """

    tenant: Name = "default"
    name: Name
    identity: IdentityKind
    tee: Tee
    trust_domain: TrustDomainText | None = None
    platform: (
        PlatformRule
        | Annotated[
            tuple[PlatformId, ...],
            msgspec.Meta(min_length=1, max_length=MAX_PLATFORMS),
        ]
    ) = PlatformRule.SAME
    single_verifier: Choice | None = None
    binds: (
        Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_TEE_NAMES)]
        | None
    ) = None
    tcb: TcbRules = TcbRules()
    image: Annotated[tuple[ImageRules, ...], msgspec.Meta(max_length=MAX_IMAGES)] = ()
    key: Annotated[tuple[KeyRules, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    cedar: Annotated[str, msgspec.Meta(max_length=MAX_CEDAR_CHARS)] | None = None


class RoleRules(_Rules, frozen=True, kw_only=True):
    """Who may ask a running provider for what.

    Attributes:
        name: once a tenant, or once among the roles of no tenant.
        tenant: the only tenant that the role may act on; any where absent.
        threshold: how many of the keys must sign.
        keys: Ed25519 public keys, 32 bytes each.
        actions: what the role may ask for.
    """

    name: Name
    tenant: Name | None = None
    threshold: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROLE_KEYS)]
    keys: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")], ...],
        msgspec.Meta(min_length=1, max_length=MAX_ROLE_KEYS),
    ]
    actions: Annotated[
        tuple[ActionKind, ...], msgspec.Meta(min_length=1, max_length=MAX_TEE_NAMES)
    ]


class ProviderRules(_Rules, frozen=True, kw_only=True):
    """Another provider that may be handed the keyring, once it is invited.

    Attributes:
        name: for people; once a policy.
        tee: ``sgx`` or ``snp``: a TD's own measurement leaves its software out.
        measurements: MRENCLAVEs or SNP measurements; any of them.
        trust_domain: as of a workload.
        single_verifier: as of a workload.
        tcb: the state of its platform that is good enough.
    """

    name: Name
    tee: Tee
    # A union with one value alone ends processes: msgspec 0.22 frees a second one of
    # that form twice when the interpreter ends.
    measurements: Annotated[
        tuple[Hex, ...],
        msgspec.Meta(min_length=1, max_length=MAX_PROVIDER_MEASUREMENTS),
    ]
    trust_domain: TrustDomainText | None = None
    single_verifier: Choice | None = None
    tcb: TcbRules = TcbRules()


class Document(_Rules, frozen=True, kw_only=True):
    """A whole document.

    Attributes:
        version: of the form; 1.
        workload: the workloads, in any order.
        role: who may ask a running provider for operator actions.
        provider: other providers that may be handed the keyring.
    """

    version: Literal[1]
    workload: Annotated[
        tuple[WorkloadRules, ...], msgspec.Meta(max_length=MAX_DOCUMENT_WORKLOADS)
    ] = ()
    role: Annotated[tuple[RoleRules, ...], msgspec.Meta(max_length=MAX_ROLES)] = ()
    provider: Annotated[
        tuple[ProviderRules, ...], msgspec.Meta(max_length=MAX_PROVIDERS)
    ] = ()

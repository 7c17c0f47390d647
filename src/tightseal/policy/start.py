# SPDX-License-Identifier: Apache-2.0
"""First documents: one to fill in, one from verified claims; and rules as TOML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Final

import msgspec

from tightseal.model.claims import MEASUREMENT_NAMES, Claims
from tightseal.model.keypath import IdentityKind
from tightseal.model.settings import PlatformRule
from tightseal.policy.document import (
    ImageRules,
    KeyRules,
    RoleRules,
    SelectorRules,
    SelectorValue,
    TcbRules,
    WorkloadRules,
)
from tightseal.policy.eventlog.facts import EventFacts
from tightseal.policy.fields import NUMBER_FIELDS, ZERO_IS_A_VALUE

__all__ = ["LEFT_OUT", "first_document", "from_claims", "render"]

LEFT_OUT: Final = frozenset(
    {
        "mr_seam",
        "mr_signer_seam",
        "tee_tcb_svn",
        "cpu_svn",
        "reported_tcb",
        "report_id",
    }
)
"""Not selected from evidence: what belongs to the platform or to one start of it. The
TCB rules judge the platform, and go on doing so after its next update."""

COMPOSE_HASH: Final = "compose-hash"
NAMING_EVENTS: Final = ("app-id", COMPOSE_HASH)
"""Identity events that are the same for every instance of an application."""

RUNTIME_MEASUREMENT: Final = "rtmr3"

FIRST_LINES: Final = """\
# A policy document of Tightseal: which workload may have which key.
# Check it: tightseal policy lint FILE
version = 1
"""

FIRST_WORKLOAD: Final = """
# A workload: who may carry it, on what, and which keys it gets.
[[workload]]
tenant = "default"
name = "database"
# "named": the keys outlive updates, as long as an image below fits.
# "measured": the keys belong to the measurements and change with them.
identity = "named"
tee = "tdx"
# "same" machine as the provider, "any", or a list: [{ ppid = "..." }]
platform = "same"

# The state of the platform that is good enough.
[workload.tcb]
statuses = ["UpToDate"]
#minimum_evaluation = 17
#refuse_advisories = ["INTEL-SA-00837"]
#grace = { statuses = ["OutOfDate"], until = 2026-12-01T00:00:00Z }

# An accepted image; add a second one before a rolling upgrade. The measurements come
# from evidence of the workload: tightseal policy from-evidence FILE
#[[workload.image]]
#label = "2026-10"
#until = 2027-10-01T00:00:00Z
#[workload.image.measurements]
#mrtd = "..."
#rtmr3 = { one_of = ["...", "..."] }

# In place of rtmr3, on systems that log what they measure (dstack): the application's
# compose file, as long as mrtd and rtmr0 to rtmr2 are selected.
#[workload.image.events]
#compose-hash = "..."

# A purpose that keys may be asked for.
[[workload.key]]
purpose = "disk"
length = 32
#labels = ["", "volume-*"]
#usage = { per_hour = 10, total = 1000, first_platform = true }

# A pair: x25519, ed25519, p256 or secp256k1. Anybody may have a published public half.
#[[workload.key]]
#purpose = "identity"
#type = "ed25519"
#published = true

# Who may ask a running provider for operator actions: 2 of these 3 keys.
#[[role]]
#name = "operators"
#threshold = 2
#keys = ["...", "...", "..."]
#actions = ["adopt", "release-platform", "reset-usage"]
"""


def first_document() -> str:
    """A document to fill in; it compiles, and lint says what is missing."""
    return FIRST_LINES + FIRST_WORKLOAD


def from_claims(
    claims: Claims,
    *,
    tenant: str,
    name: str,
    identity: IdentityKind,
    label: str,
    purpose: str,
    events: EventFacts | None = None,
) -> str:
    """A document that accepts exactly what these claims show, as TOML.

    All measurements are selected but those that belong to the platform (``LEFT_OUT``);
    a digest that is all zero is required to stay so. The platform is the provider's.
    Where a log shows a compose hash, it stands in place of RTMR3, which is another one
    for each instance.

    Args:
        claims: from verified evidence.
        tenant: of the workload.
        name: of the workload.
        identity: what its keys belong to.
        label: of the image.
        purpose: of its one key.
        events: of the replayed event log; ``None`` where there is none.
    """
    shown = {} if events is None else events.identity
    named: dict[str, SelectorValue] = {
        n: shown[n].hex() for n in NAMING_EVENTS if n in shown
    }
    if COMPOSE_HASH not in named:
        named = {}
    measurements = {
        measurement: _selector(measurement, value)
        for measurement in MEASUREMENT_NAMES[claims.tee]
        if measurement not in LEFT_OUT
        and not (named and measurement == RUNTIME_MEASUREMENT)
        and (value := claims.measurements.get(measurement)) is not None
    }
    usual = str(claims.trust_domain) in {"intel", "amd"}
    tcb = TcbRules()
    if claims.tcb is not None:
        tcb = TcbRules(
            statuses=(claims.tcb.status,),
            minimum_evaluation=claims.tcb.evaluation_number,
        )
    workload = WorkloadRules(
        tenant=tenant,
        name=name,
        identity=identity,
        tee=claims.tee,
        trust_domain=None if usual else str(claims.trust_domain),
        platform=PlatformRule.SAME,
        tcb=tcb,
        image=(ImageRules(label=label, measurements=measurements, events=named),),
        key=(KeyRules(purpose=purpose),),
    )
    return render((workload,))


def _selector(name: str, value: bytes) -> SelectorValue:
    if name in NUMBER_FIELDS:
        return int.from_bytes(value, "little")
    if not any(value) and name not in ZERO_IS_A_VALUE:
        return SelectorRules(zero=True)
    return value.hex()


def render(workloads: Sequence[WorkloadRules], roles: Sequence[RoleRules] = ()) -> str:
    """Workloads and roles as a TOML document; what is the default is left out."""
    lines = [FIRST_LINES.rstrip()]
    for workload in workloads:
        lines += ["", "[[workload]]"]
        lines += _fields(workload, skip=("tcb", "image", "key"), keep=("tenant",))
        if workload.tcb != TcbRules():
            lines += ["", "[workload.tcb]"]
            lines += _fields(workload.tcb, skip=(), keep=("statuses",))
        for image in workload.image:
            lines += ["", "[[workload.image]]"]
            lines += _fields(image, skip=("measurements", "events"), keep=())
            lines.append("[workload.image.measurements]")
            lines += [f"{n} = {_toml(v)}" for n, v in image.measurements.items()]
            if image.events:
                lines.append("[workload.image.events]")
                lines += [f"{n} = {_toml(v)}" for n, v in image.events.items()]
        for key in workload.key:
            lines += ["", "[[workload.key]]"]
            lines += _fields(key, skip=(), keep=("length",))
    for role in roles:
        lines += ["", "[[role]]", *_fields(role, skip=(), keep=())]
    return "\n".join(lines) + "\n"


def _fields(
    rules: msgspec.Struct, *, skip: tuple[str, ...], keep: tuple[str, ...]
) -> Iterator[str]:
    for field in msgspec.structs.fields(rules):
        value = getattr(rules, field.name)
        if field.name in skip or value is None:
            continue
        if value != field.default or field.name in keep:
            yield f"{field.encode_name} = {_toml(value)}"


def _toml(value: object) -> str:
    """A value inline; JSON's numbers are TOML's too, and so are most of its texts."""
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, msgspec.Struct):
        inner = ", ".join(_fields(value, skip=(), keep=()))
        return f"{{ {inner} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        # TOML has no pairs of surrogates, and takes no DEL as it stands.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)

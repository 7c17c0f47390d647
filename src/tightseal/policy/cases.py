# SPDX-License-Identifier: Apache-2.0
"""Expected decisions: what a policy must say to given claims.

A folder holds ``cases.toml`` and the claims that it names:

    version = 1
    [[case]]
    claims = "database-2026-10.json"
    at = 2026-10-05T00:00:00Z
    expect = "granted"          # or the code of a denial
    workload = "acme/database"  # optional
    key = [{ purpose = "disk" }]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from tightseal.errors import CODES
from tightseal.model.claims import Claims, PlatformIdentity
from tightseal.model.importing import IMPORT_COMMITMENT_BYTES
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    MAX_KEY_BYTES,
    MAX_NAME_CHARS,
    MIN_KEY_BYTES,
    Authority,
    KeyPart,
    KeyRequest,
    ProtocolClass,
)
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.compile import Policy
from tightseal.policy.document import Moment, Printable
from tightseal.policy.engine import Explanation, explain
from tightseal.policy.eventlog.facts import EventFacts
from tightseal.policy.eventlog.replay import replay_event_log
from tightseal.policy.read import Text, parse_as

__all__ = ["CASES_FILE", "GRANTED", "Case", "Result", "judge_as", "read_cases", "run"]

CASES_FILE: Final = "cases.toml"
GRANTED: Final = "granted"
MAX_CASES: Final = 10_000


FileName: TypeAlias = Annotated[
    str, msgspec.Meta(max_length=255, pattern=r"^[A-Za-z0-9_][^/\\\x00]*\Z")
]
"""A file of the folder itself."""


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every table has in common."""


class CaseKey(_Form, frozen=True, kw_only=True):
    """A key request; the private part of the purpose's own, 32 bytes, by default."""

    purpose: Printable
    label: Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARS)] = ""
    length: Annotated[int, msgspec.Meta(ge=MIN_KEY_BYTES, le=MAX_KEY_BYTES)] = (
        DEFAULT_KEY_BYTES
    )
    part: KeyPart = KeyPart.PRIVATE
    create: bool = False
    use: Operation | None = None
    imported: bool = False


class Case(_Form, frozen=True, kw_only=True):
    """One question and the answer that it must have.

    Attributes:
        claims: file of claims beside ``cases.toml``; a name without folders.
        event_log: file of the event log sent along, likewise.
        at: the time of the decision, which is taken for signed too.
        expect: ``granted``, or the code of the denial.
        workload: ``tenant/name`` that must carry the claims, where they are granted.
        image: label of the image, likewise.
        key: the key requests; without any, all rules but those of keys are judged.
        provider: whether the provider stands on the platform of the claims.
        protocol: the way in.
    """

    claims: FileName
    event_log: FileName | None = None
    at: Moment
    expect: str = GRANTED
    workload: str | None = None
    image: str | None = None
    key: Annotated[tuple[CaseKey, ...], msgspec.Meta(max_length=16)] = ()
    provider: Literal["same", "elsewhere"] = "same"
    protocol: ProtocolClass = ProtocolClass.V1


class _Cases(_Form, frozen=True, kw_only=True):
    version: Literal[1]
    case: Annotated[tuple[Case, ...], msgspec.Meta(min_length=1, max_length=MAX_CASES)]


@dataclass(frozen=True, slots=True)
class Result:
    """How a case ended.

    Attributes:
        case: the question.
        place: ``file:line:column`` of the case.
        passed: whether the answer is the expected one.
        got: ``granted`` or the code, with workload and image.
        explanation: every rule.
    """

    case: Case
    place: str
    passed: bool
    got: str
    explanation: Explanation


def read_cases(text: str, *, name: str = CASES_FILE) -> tuple[tuple[Case, str], ...]:
    """Read the cases of a folder, each with its place.

    Raises:
        SettingsError: ``policy_invalid``, with ``name:line:column`` and the field.
    """
    cases = parse_as(_Cases, text, name=name).case
    source = Text(name, text)
    for i, case in enumerate(cases):
        if case.expect != GRANTED and case.expect not in {c.value for c in CODES}:
            message = f"{case.expect} is neither {GRANTED} nor a code"
            source.refuse(("case", i, "expect"), message)
    return tuple((case, source.where(("case", i))) for i, case in enumerate(cases))


def run(
    policy: Policy,
    cases: tuple[tuple[Case, str], ...],
    *,
    claims_of: Callable[[str], Claims],
    log_of: Callable[[str], bytes],
) -> tuple[Result, ...]:
    """Judge every case.

    Args:
        policy: what is tested.
        cases: of :func:`read_cases`.
        claims_of: reads the claims that a case names.
        log_of: reads the event log that a case names.

    Raises:
        EvidenceError: an event log that does not lead to the registers of the claims.
    """
    results = []
    for case, place in cases:
        claims = claims_of(case.claims)
        events = None
        if case.event_log is not None:
            events = replay_event_log(log_of(case.event_log), claims)
        results.append(_run(policy, case, place, claims, events))
    return tuple(results)


def _run(
    policy: Policy, case: Case, place: str, claims: Claims, events: EventFacts | None
) -> Result:
    told = judge_as(
        claims,
        keys=tuple(_request(key) for key in case.key),
        policy=policy,
        elsewhere=case.provider == "elsewhere",
        protocol=case.protocol,
        now=int(case.at.timestamp()),
        events=events,
    )
    got = GRANTED if told.code is None else told.code.value
    passed = got == case.expect
    if told.granted:
        passed = passed and case.workload in {None, told.workload}
        passed = passed and case.image in {None, told.image}
        got += f" as {told.workload}, image {told.image}"
    return Result(case, place, passed, got, told)


def _request(key: CaseKey) -> KeyRequest:
    """The request of a case; what is used or imported is no matter of policy."""
    return KeyRequest(
        key.purpose,
        key.label,
        key.length,
        key.part,
        create=key.create or key.imported,
        use=None if key.use is None else KeyUse(key.use),
        imported=bytes(IMPORT_COMMITMENT_BYTES) if key.imported else None,
    )


def judge_as(
    claims: Claims,
    *,
    keys: tuple[KeyRequest, ...],
    policy: Policy,
    elsewhere: bool,
    protocol: ProtocolClass,
    now: int,
    events: EventFacts | None = None,
) -> Explanation:
    """Explain a decision of a provider that is assumed, not asked.

    Args:
        claims: of the workload.
        keys: the key requests.
        policy: the policy.
        elsewhere: whether the provider stands on another machine than the workload; it
            always shares its trust domain.
        protocol: the way in.
        now: Unix seconds; taken for signed too.
        events: of the replayed event log.
    """
    return explain(
        claims,
        keys=keys,
        policy=policy,
        circumstances=Circumstances(
            authority=Authority("policy_root", bytes(64)),
            provider_platform=PlatformIdentity() if elsewhere else claims.platform,
            provider_domain=claims.trust_domain,
            protocol_class=protocol,
            signed_time=now,
        ),
        now=now,
        events=events,
    )

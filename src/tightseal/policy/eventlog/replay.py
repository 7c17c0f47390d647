# SPDX-License-Identifier: Apache-2.0
"""Replay: a log counts only where it leads to the registers in the claims."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.model.claims import Claims, Tee
from tightseal.model.wire_fields import MAX_EVENT_LOG_BYTES
from tightseal.policy.eventlog.dstack import parse_dstack_log
from tightseal.policy.eventlog.events import (
    DIGEST_BYTES,
    REGISTER_NAMES,
    RUNTIME_REGISTER,
    LoggedEvent,
    malformed,
    too_large,
)
from tightseal.policy.eventlog.facts import EventFacts, LogFormat, event_facts
from tightseal.policy.eventlog.tcg import SPEC_ID_AT, SPEC_ID_SIGNATURE, parse_tcg_log

__all__ = [
    "ZERO_REGISTER",
    "detect_format",
    "extend",
    "replay",
    "replay_event_log",
    "replay_runtime_log",
]

ZERO_REGISTER: Final = bytes(DIGEST_BYTES)
"""A register at launch."""


def extend(register: bytes, digest: bytes) -> bytes:
    """A register after one extension: SHA-384 over both (TDG.MR.RTMR.EXTEND)."""
    return hashlib.sha384(register + digest).digest()


def replay(digests: Iterable[bytes], *, start: bytes = ZERO_REGISTER) -> bytes:
    """The register that digests of 48 bytes lead to, in order, 48 bytes."""
    register = start
    for digest in digests:
        register = extend(register, digest)
    return register


def detect_format(log: bytes) -> LogFormat:
    """Tell the formats apart by what each of them must begin with.

    Raises:
        EvidenceError: ``event_log_malformed``, where it is neither.
    """
    if log.startswith(b"["):
        return LogFormat.DSTACK
    if log[SPEC_ID_AT : SPEC_ID_AT + len(SPEC_ID_SIGNATURE)] == SPEC_ID_SIGNATURE:
        return LogFormat.TCG
    raise malformed("neither a TCG crypto-agile log nor dstack's JSON")


def replay_event_log(log: bytes, claims: Claims) -> EventFacts:
    """Replay a log against verified claims, and say what policy may read of it.

    1. ``tee``: the claims are a TD's.
    2. ``size``: at most ``MAX_EVENT_LOG_BYTES``.
    3. ``format``: strict parsing; digests of runtime events recomputed.
    4. ``replay``: every register is exactly the one in the claims; a CCEL may be
       silent about RTMR3, and says nothing about it then.
    5. ``identity``: boundary and identity events once each, in their place.

    Does not check: that the log came with this request (report data binds its hash),
    the type of boot events, the data of events outside any RTMR, or what bytes with a
    proven digest mean.

    Args:
        log: a CCEL, or dstack's JSON; as it was sent.
        claims: from verified evidence.

    Raises:
        EvidenceError: ``evidence_kind_unsupported``, ``event_log_too_large``,
            ``event_log_malformed``, ``event_log_digest_mismatch``,
            ``event_log_mismatch``, ``event_log_duplicate`` or ``event_log_misplaced``.
    """
    if claims.tee is not Tee.TDX:
        detail = f"event log: beside {claims.tee.value} evidence, expected tdx"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise too_large(f"{len(log)} bytes, at most {MAX_EVENT_LOG_BYTES}")
    log_format = detect_format(log)
    tcg = log_format is LogFormat.TCG
    events = parse_tcg_log(log) if tcg else parse_dstack_log(log)
    if not events:
        raise malformed("no event extends a register")
    # Firmware's log ends with the boot; what extends RTMR3 keeps a log of its own.
    silent = REGISTER_NAMES[RUNTIME_REGISTER] if tcg else None
    replayed = _require_registers(events, claims, silent=silent)
    return event_facts(log_format, events, replayed=replayed)


def replay_runtime_log(log: bytes, claims: Claims) -> int:
    """Replay what a log of dstack says of RTMR3 alone; the number of its events.

    For the logs in certificates, which are stripped of what the firmware measured. What
    they still say of RTMR0 to RTMR2 is not checked, so policy reads nothing of them.

    Raises:
        EvidenceError: as ``replay_event_log``.
    """
    if claims.tee is not Tee.TDX:
        detail = f"event log: beside {claims.tee.value} evidence, expected tdx"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    if len(log) > MAX_EVENT_LOG_BYTES:
        raise too_large(f"{len(log)} bytes, at most {MAX_EVENT_LOG_BYTES}")
    events = parse_dstack_log(log)
    digests = [e.digest for e in events if e.register == RUNTIME_REGISTER]
    _require_register(REGISTER_NAMES[RUNTIME_REGISTER], digests, claims)
    return len(digests)


def _require_register(name: str, digests: list[bytes], claims: Claims) -> None:
    expected, got = claims.measurements[name], replay(digests)
    if expected != got:
        raise EvidenceError(
            Code.EVENT_LOG_MISMATCH,
            f"event log: {len(digests)} events lead {name} to {got.hex()}, "
            f"the evidence has {expected.hex()}",
        )


def _require_registers(
    events: tuple[LoggedEvent, ...], claims: Claims, *, silent: str | None
) -> frozenset[str]:
    """The registers that the claims confirm; any other value is refused.

    ``silent`` may be left out of the log, and is then not among them.
    """
    confirmed: set[str] = set()
    for index, name in enumerate(REGISTER_NAMES):
        digests = [event.digest for event in events if event.register == index]
        if claims.measurements[name] == replay(digests):
            confirmed.add(name)
        elif digests or name != silent:
            _require_register(name, digests, claims)
    return frozenset(confirmed)

# SPDX-License-Identifier: Apache-2.0
"""A new operator action, of what the command line says."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.action_slot import AskedSlot, slot_parameters
from tightseal.cli.action_source import Stated, source_of_claims, source_of_journal
from tightseal.cli.action_text import SIDECAR
from tightseal.cli.policy_input import claims_from, seconds_of
from tightseal.cli.verify import UsageError
from tightseal.model.action import (
    ACTION_ID_BYTES,
    GENERATION_ACTIONS,
    KEYRING_ACTIONS,
    KEYRING_ID_BYTES,
    POLICY_ROOT_BYTES,
    SLOT_ACTIONS,
    Action,
    ActionKind,
    AdoptParameters,
    KeyParameters,
    KeyringParameters,
    KeySource,
    Parameters,
    SignedAction,
)
from tightseal.model.action_file import encode_action, parse_action
from tightseal.model.keypath import Kdf
from tightseal.model.provider import sidecar_keyring_id
from tightseal.policy.actions import MAX_LIFE_SECONDS, check_form

__all__ = ["Asked", "Origin", "new_action"]

HOUR: Final = 3600
DEFAULT_HOURS: Final = 24
MAX_HOURS: Final = MAX_LIFE_SECONDS // HOUR


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a new action asks, and of whom.

    Attributes:
        kind: what is asked.
        tenant: whose the workload is.
        workload: that it is about.
        purpose: of its key.
        policy_root: of the providers that it is for, 64 hex digits.
        keyring: of the providers that it is for: sidecar, or 64 hex digits.
        expires_hours: from now until it is refused; 168 at most.
        replaces: adopt: id of the action whose adoption this one takes the place of.
        counter: of the keyring that is to be changed, as /v1/info shows it.
        generation: retire-generation, destroy-generation: which one.
    """

    kind: ActionKind | None = None
    tenant: str = "default"
    workload: str | None = None
    purpose: str = "disk"
    policy_root: str | None = None
    keyring: str = SIDECAR
    expires_hours: int = DEFAULT_HOURS
    replaces: str | None = None
    counter: int | None = None
    generation: int | None = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the key is that is to be adopted.

    Attributes:
        evidence: adopt: evidence of the workload whose key it is; - for stdin.
        claims: adopt: JSON of ``tightseal verify --json``, in place of evidence.
        collateral: as for ``tightseal verify``.
        at: verify that evidence as of this time; now by default.
        root_ca: root certificate of a simulated world, to be trusted too.
        source_json: adopt: in place of evidence, the key's path as the journal has it.
        source_settings: adopt: settings file of the provider that gave the key.
        source_authority: adopt: in its place, policy_root:HEX or settings_digest:HEX.
        source_tenant: adopt: tenant of the key's path; by default the settings'.
        source_purpose: adopt: purpose of the key's path; by default the purpose.
        source_kdf: adopt: KDF of the key's path; by default the settings'.
        source_binds: adopt: measurements that the key belongs to, with commas between;
            by default the settings'.
    """

    evidence: Annotated[
        str | None, Parameter(name="--from-evidence", allow_leading_hyphen=True)
    ] = None
    claims: Path | None = None
    collateral: Path | None = None
    at: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    root_ca: Path | None = None
    source_json: Path | None = None
    source_settings: Path | None = None
    source_authority: str | None = None
    source_tenant: str | None = None
    source_purpose: str | None = None
    source_kdf: Kdf | None = None
    source_binds: str | None = None

    def source(self, *, purpose: str) -> KeySource:
        """The source that is stated.

        Raises:
            UsageError: something is missing, or does not fit.
            TightsealError: evidence, settings or journal cannot be read or believed.
        """
        if self.source_json is not None:
            if self != Origin(
                source_json=self.source_json, source_purpose=self.source_purpose
            ):
                raise UsageError("--source-json says all of the source but its purpose")
            return source_of_journal(self.source_json, purpose=self.source_purpose)
        now, past = seconds_of(self.at), self.at is not None
        claims = claims_from(
            self.evidence,
            self.claims,
            self.collateral,
            self.root_ca,
            now=now,
            past=past,
        )
        if claims.debug:
            ui.note("the evidence is of a debug workload: no provider gave it a key")
        stated = Stated(
            settings=self.source_settings,
            authority=self.source_authority,
            tenant=self.source_tenant,
            purpose=self.source_purpose,
            kdf=self.source_kdf,
            binds=self.source_binds,
        )
        return source_of_claims(claims, stated, purpose=purpose)


def new_action(
    asked: Asked, origin: Origin, slot: AskedSlot | None = None, *, now: int
) -> Action:
    """Make an action, and read it back from its file: what is wrong is told now.

    Raises:
        UsageError: something is missing, or has another form.
        RequestError: ``action_malformed``.
        TightsealError: the source cannot be stated.
    """
    kind = asked.kind
    if kind is None:
        raise UsageError(f"name what is asked with --kind: {', '.join(ActionKind)}")
    if not 1 <= asked.expires_hours <= MAX_HOURS:
        message = f"--expires-hours {asked.expires_hours}: expected 1 to {MAX_HOURS}"
        raise UsageError(message)
    if kind is not ActionKind.ADOPT and (origin != Origin() or asked.replaces):
        raise UsageError(f"--kind {kind.value} has no source, and replaces nothing")
    if kind not in SLOT_ACTIONS and slot not in (None, AskedSlot()):
        raise UsageError(f"--kind {kind.value} is about no slot")
    action = Action(
        kind=kind,
        policy_root=_hex("--policy-root", asked.policy_root, POLICY_ROOT_BYTES),
        keyring_id=_keyring(asked.keyring),
        action_id=secrets.token_bytes(ACTION_ID_BYTES),
        issued_at=now,
        expires_at=now + asked.expires_hours * HOUR,
        parameters=_parameters(kind, asked, origin, slot or AskedSlot()),
    )
    check_form(action)
    return parse_action(encode_action(SignedAction(action))).action


def _parameters(
    kind: ActionKind, asked: Asked, origin: Origin, slot: AskedSlot
) -> Parameters:
    if kind in KEYRING_ACTIONS:
        return _keyring_parameters(kind, asked)
    if kind in SLOT_ACTIONS:
        if asked.generation is not None:
            raise UsageError(f"--kind {kind.value} has no --generation")
        return slot_parameters(kind, slot, counter=_counter(asked))
    if asked.counter is not None or asked.generation is not None:
        raise UsageError(f"--kind {kind.value} has no --counter and no --generation")
    if asked.workload is None:
        raise UsageError("--workload is missing")
    about = (asked.tenant, asked.workload, asked.purpose)
    if kind is not ActionKind.ADOPT:
        return KeyParameters(*about)
    replaces = asked.replaces
    if replaces is None:
        return AdoptParameters(*about, origin.source(purpose=asked.purpose))
    named = _hex("--replaces", replaces, ACTION_ID_BYTES)
    return AdoptParameters(*about, origin.source(purpose=asked.purpose), named)


def _keyring_parameters(kind: ActionKind, asked: Asked) -> KeyringParameters:
    counter = _counter(asked)
    if (kind in GENERATION_ACTIONS) != (asked.generation is not None):
        wants = "is missing" if asked.generation is None else "is for another kind"
        raise UsageError(f"--kind {kind.value}: --generation {wants}")
    return KeyringParameters(counter, asked.generation)


def _counter(asked: Asked) -> int:
    if asked.counter is None:
        message = "--counter is missing: the keyring's, as /v1/info shows it"
        raise UsageError(message)
    return asked.counter


def _hex(option: str, text: str | None, size: int) -> bytes:
    if text is None:
        raise UsageError(f"{option} is missing")
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise UsageError(f"{option} {text!r}: expected {2 * size} hex digits")
    return value


def _keyring(text: str) -> bytes:
    if text == SIDECAR:
        return sidecar_keyring_id()
    return _hex("--keyring", text, KEYRING_ID_BYTES)

# SPDX-License-Identifier: Apache-2.0
"""The file form of an operator action: JSON, as operators pass it around and submit it.

``{"version": 1, "action": {...}, "signatures": [{"key": ..., "signature": ...}]}``,
with bytes as base64url without padding. Signatures are over the canonical value and not
over the text, so white space and the order of members mean nothing. A member that
stands twice is refused: what a person reads in it and what is signed could differ.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from tightseal.errors import Code, RequestError
from tightseal.model.action import (
    ACTION_ID_BYTES,
    ACTION_VERSION,
    KEYRING_ACTIONS,
    KEYRING_ID_BYTES,
    MAX_REVOKED_SLOTS,
    MAX_SIGNATURES,
    POLICY_ROOT_BYTES,
    PUBLIC_KEY_BYTES,
    SETTINGS_DIGEST_BYTES,
    SIGNATURE_BYTES,
    SLOT_ACTIONS,
    SLOT_ID_BYTES,
    Action,
    ActionKind,
    AdoptParameters,
    InviteParameters,
    KeyParameters,
    KeyringParameters,
    KeySource,
    Parameters,
    ProviderParts,
    RevokeParameters,
    Signature,
    SignedAction,
    SlotParameters,
)
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.canonical import Value
from tightseal.model.claims import Tee
from tightseal.model.generation import MAX_GENERATION
from tightseal.model.keypath import Authority, Kdf
from tightseal.model.settings import Name
from tightseal.model.slots import SlotClass
from tightseal.model.wire_fields import PurposeText, Seconds, exactly
from tightseal.model.wire_operator import MAX_ACTION_BYTES

__all__ = [
    "AUTHORITY_BYTES",
    "MAX_SOURCE_VALUES",
    "encode_action",
    "parse_action",
    "source_from_value",
]

MAX_SOURCE_VALUES: Final = 32
"""Most attributes, and most measurements, of a source."""

MAX_SOURCE_VALUE_BYTES: Final = 64

AUTHORITY_BYTES: Final = {"policy_root": 32, "settings_digest": 64}
"""The kinds of authority and their lengths."""

_MEASUREMENT_BYTES: Final = {"sgx": 32, "snp": 48}

_T = TypeVar("_T")
_Values = Annotated[dict[str, str], msgspec.Meta(max_length=MAX_SOURCE_VALUES)]
_AuthorityKind = Literal["policy_root", "settings_digest"]


MAX_COUNTER: Final = (1 << 53) - 1
"""Highest counter of a keyring: the last integer that every JSON reader can tell."""


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every object of the file has in common."""


class _Source(_Form, frozen=True, kw_only=True):
    kdf: Kdf
    tenant: Name
    purpose: PurposeText
    tee: Tee
    attributes: _Values
    measurements: _Values
    authority: tuple[_AuthorityKind, str]


class _Key(_Form, frozen=True, kw_only=True):
    tenant: Name
    workload: Name
    purpose: PurposeText


class _Adopt(_Key, frozen=True, kw_only=True):
    source: _Source
    replaces: str | None = None


class _Keyring(_Form, frozen=True, kw_only=True):
    counter: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNTER)]
    generation: Annotated[int, msgspec.Meta(ge=1, le=MAX_GENERATION)] | None = None


class _Slot(_Form, frozen=True, kw_only=True):
    counter: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNTER)]
    slot: str | None
    factors: Annotated[list[SlotClass], msgspec.Meta(max_length=len(SlotClass))]
    label: Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{0,128}\Z")]
    signer: bool


class _Parts(_Form, frozen=True, kw_only=True):
    tee: Literal["sgx", "snp"]
    measurement: str
    settings_digest: str


class _Invite(_Form, frozen=True, kw_only=True):
    giver: _Parts
    joiner: _Parts
    counter: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNTER)]
    tenant: Name | None = None


class _Revoke(_Form, frozen=True, kw_only=True):
    counter: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNTER)]
    slots: Annotated[list[str], msgspec.Meta(max_length=MAX_REVOKED_SLOTS)]
    invitation: str | None = None


class _Action(_Form, frozen=True, kw_only=True):
    kind: ActionKind
    policy_root: str
    keyring_id: str
    action_id: str
    issued_at: Seconds
    expires_at: Seconds
    parameters: dict[str, Any]


class _Signature(_Form, frozen=True, kw_only=True):
    key: str
    signature: str


class _File(_Form, frozen=True, kw_only=True):
    version: Literal[1]
    action: _Action
    signatures: Annotated[list[_Signature], msgspec.Meta(max_length=MAX_SIGNATURES)]


def parse_action(data: bytes) -> SignedAction:
    """Read a file. Who signed it, and whether it may be done, is not judged here.

    Raises:
        RequestError: ``action_malformed``: longer than ``MAX_ACTION_BYTES``, not JSON,
            a member that is unknown, missing, of another type, or stands twice.
    """
    if len(data) > MAX_ACTION_BYTES:
        raise _malformed(f"{len(data)} bytes, at most {MAX_ACTION_BYTES}")
    try:
        tree = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
        file = msgspec.convert(tree, _File)
        signatures = tuple(
            Signature(
                exactly(s.key, "key", PUBLIC_KEY_BYTES),
                exactly(s.signature, "signature", SIGNATURE_BYTES),
            )
            for s in file.signatures
        )
        return SignedAction(_action(file.action), signatures)
    except RequestError as e:
        raise _malformed(e.detail) from e
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise _malformed(str(e)) from e


def encode_action(signed: SignedAction) -> bytes:
    """The file of a signed action; ``parse_action`` gives the same value back."""
    value = signed.action.as_value()
    assert isinstance(value, dict)
    action = {name: item for name, item in value.items() if name != "version"}
    document = {
        "version": ACTION_VERSION,
        "action": _plain(action),
        "signatures": [
            {
                "key": encode_base64url(s.key),
                "signature": encode_base64url(s.signature),
            }
            for s in signed.signatures
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def source_from_value(value: Value) -> KeySource:
    """Read the canonical value of a source, as the state store keeps it.

    Raises:
        RequestError: ``action_malformed``.
    """
    try:
        return _source(msgspec.convert(_plain(value), _Source))
    except RequestError as e:
        raise _malformed(e.detail) from e
    except msgspec.MsgspecError as e:
        raise _malformed(str(e)) from e


def _malformed(why: str) -> RequestError:
    return RequestError(Code.ACTION_MALFORMED, f"action: {why}")


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member stands twice in one object")
    return found


def _action(text: _Action) -> Action:
    return Action(
        kind=text.kind,
        policy_root=exactly(text.policy_root, "policy_root", POLICY_ROOT_BYTES),
        keyring_id=exactly(text.keyring_id, "keyring_id", KEYRING_ID_BYTES),
        action_id=exactly(text.action_id, "action_id", ACTION_ID_BYTES),
        issued_at=text.issued_at,
        expires_at=text.expires_at,
        parameters=_parameters(text),
    )


def _parameters(text: _Action) -> Parameters:
    if text.kind is ActionKind.INVITE_PROVIDER:
        return _invite(_within(text.parameters, _Invite))
    if text.kind is ActionKind.REVOKE_PROVIDER:
        return _revoke(_within(text.parameters, _Revoke))
    if text.kind in SLOT_ACTIONS:
        return _slot(_within(text.parameters, _Slot))
    if text.kind in KEYRING_ACTIONS:
        keyring = _within(text.parameters, _Keyring)
        return KeyringParameters(keyring.counter, keyring.generation)
    if text.kind is not ActionKind.ADOPT:
        key = _within(text.parameters, _Key)
        return KeyParameters(key.tenant, key.workload, key.purpose)
    adopt = _within(text.parameters, _Adopt)
    replaces = adopt.replaces
    return AdoptParameters(
        tenant=adopt.tenant,
        workload=adopt.workload,
        purpose=adopt.purpose,
        source=_source(adopt.source),
        replaces=None
        if replaces is None
        else exactly(replaces, "replaces", ACTION_ID_BYTES),
    )


def _slot(text: _Slot) -> SlotParameters:
    named = text.slot
    return SlotParameters(
        counter=text.counter,
        slot=None if named is None else exactly(named, "slot", SLOT_ID_BYTES),
        factors=tuple(text.factors),
        label=text.label,
        signer=text.signer,
    )


def _invite(text: _Invite) -> InviteParameters:
    return InviteParameters(
        _parts(text.giver), _parts(text.joiner), text.counter, text.tenant
    )


def _parts(text: _Parts) -> ProviderParts:
    size = _MEASUREMENT_BYTES[text.tee]
    digest = text.settings_digest
    return ProviderParts(
        tee=text.tee,
        measurement=exactly(text.measurement, "measurement", size),
        settings_digest=exactly(digest, "settings_digest", SETTINGS_DIGEST_BYTES),
    )


def _revoke(text: _Revoke) -> RevokeParameters:
    slots = tuple(exactly(slot, "slots", SLOT_ID_BYTES) for slot in text.slots)
    if list(slots) != sorted(set(slots)):
        raise _malformed("slots: not in order, or one stands twice")
    named = text.invitation
    return RevokeParameters(
        counter=text.counter,
        slots=slots,
        invitation=None
        if named is None
        else exactly(named, "invitation", ACTION_ID_BYTES),
    )


def _within(parameters: dict[str, Any], form: type[_T]) -> _T:
    try:
        return msgspec.convert(parameters, form)
    except msgspec.MsgspecError as e:
        raise _malformed(f"parameters: {e}") from e


def _source(text: _Source) -> KeySource:
    kind, value = text.authority
    return KeySource(
        kdf=text.kdf,
        tenant=text.tenant,
        purpose=text.purpose,
        tee=text.tee,
        attributes=_values("attributes", text.attributes),
        measurements=_values("measurements", text.measurements),
        authority=Authority(kind, exactly(value, "authority", AUTHORITY_BYTES[kind])),
    )


def _values(field: str, texts: dict[str, str]) -> tuple[tuple[str, bytes], ...]:
    return tuple(
        (
            name,
            decode_base64url(
                texts[name],
                field=f"{field}.{name}",
                min_bytes=1,
                max_bytes=MAX_SOURCE_VALUE_BYTES,
            ),
        )
        for name in sorted(texts)
    )


def _plain(value: Value) -> Any:
    """A canonical value as the file has it: bytes in base64url."""
    if isinstance(value, bytes):
        return encode_base64url(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

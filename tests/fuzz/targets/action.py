# SPDX-License-Identifier: Apache-2.0
"""Files of operator actions, and the form of what they ask."""

from dataclasses import replace

from tightseal.model.action import (
    Action,
    ActionKind,
    AdoptParameters,
    KeyParameters,
    KeySource,
    Signature,
    SignedAction,
)
from tightseal.model.action_file import encode_action, parse_action
from tightseal.model.claims import Tee
from tightseal.model.keypath import Authority, Kdf
from tightseal.policy.actions import check_form, verifies

SOURCE = KeySource(
    kdf=Kdf.HKDF_SHA256,
    tenant="acme",
    purpose="disk",
    tee=Tee.TDX,
    attributes=(("td_attributes", bytes(8)), ("xfam", bytes(8))),
    measurements=(("mrtd", b"m" * 48),),
    authority=Authority("settings_digest", b"s" * 64),
)
RESET = Action(
    kind=ActionKind.RESET_USAGE,
    policy_root=b"r" * 32,
    keyring_id=b"k" * 32,
    action_id=b"i" * 16,
    issued_at=1_790_000_000,
    expires_at=1_790_003_600,
    parameters=KeyParameters("acme", "database", "disk"),
)
ADOPT = replace(
    RESET,
    kind=ActionKind.ADOPT,
    parameters=AdoptParameters("acme", "database", "disk", SOURCE, b"j" * 16),
)


def seeds() -> list[bytes]:
    signature = Signature(b"a" * 32, bytes(64))
    return [
        encode_action(SignedAction(RESET)),
        encode_action(SignedAction(RESET, (signature,))),
        encode_action(SignedAction(ADOPT, (signature, signature))),
    ]


def one(data: bytes) -> None:
    signed = parse_action(data)
    again = encode_action(signed)
    assert parse_action(again) == signed
    assert encode_action(parse_action(again)) == again
    for signature in signed.signatures:
        verifies(signed.action, signature)
    check_form(signed.action)

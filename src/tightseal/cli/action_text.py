# SPDX-License-Identifier: Apache-2.0
"""How an operator action is told: for people who are to sign it, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tightseal.cli import ui
from tightseal.cli.action_slot import slot_rows
from tightseal.cli.policy_show import told
from tightseal.errors import Code
from tightseal.model.action import (
    Action,
    AdoptParameters,
    InviteParameters,
    KeyringParameters,
    KeySource,
    Parameters,
    ProviderParts,
    RevokeParameters,
    SignedAction,
    SlotParameters,
)
from tightseal.model.canonical import Value
from tightseal.model.keypath import Authority
from tightseal.model.provider import sidecar_keyring_id
from tightseal.policy.actions import verifies

__all__ = ["SIDECAR", "Standing", "action_json", "show_action", "standing"]

SIDECAR: Final = "sidecar"
"""In place of a keyring id: the constant of the sidecar shape."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an action stands.

    Attributes:
        valid: for each signature, whether it is of the key that it names.
        expired: whether its end has come.
        role: of the documents that were given, the one that allows it and has signed.
        code: why no role does; ``None`` also where no documents were given.
        detail: likewise, in words.
    """

    valid: tuple[bool, ...]
    expired: bool
    role: str | None = None
    code: Code | None = None
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing that was looked at speaks against it."""
        return all(self.valid) and not self.expired and self.code is None


def standing(signed: SignedAction, *, now: int, **judged: Any) -> Standing:
    """Hold signatures and time of an action against nothing but itself."""
    valid = tuple(verifies(signed.action, s) for s in signed.signatures)
    return Standing(valid, now >= signed.action.expires_at, **judged)


def show_action(signed: SignedAction, how: Standing) -> None:
    """What an action asks, of whom, until when, and who signed."""
    action, parameters = signed.action, signed.action.parameters
    ui.facts(
        [
            ("action", action.kind.value),
            *_about(parameters),
            ("policy root", action.policy_root.hex()),
            ("keyring", _keyring(action)),
            ("id", action.action_id.hex()),
            ("issued", told(action.issued_at)),
            ("expires", told(action.expires_at) + (" (over)" if how.expired else "")),
        ]
    )
    if isinstance(parameters, AdoptParameters):
        replaces = parameters.replaces
        ui.heading("the key that goes on under this name")
        ui.facts(_source_rows(parameters.source, ours=action.policy_root))
        ui.facts([("replaces", "nothing" if replaces is None else replaces.hex())])
    ui.heading("signatures")
    ui.facts(
        (signature.key.hex(), "valid" if valid else "INVALID")
        for signature, valid in zip(signed.signatures, how.valid, strict=True)
    )
    if how.role is not None:
        ui.facts([("role", how.role)])
    if how.code is not None:
        ui.facts([("refused", f"{how.code.value}: {how.detail}")])


def _about(parameters: Parameters) -> list[tuple[str, str]]:
    if isinstance(parameters, KeyringParameters):
        number = parameters.generation
        rows = [("keyring counter", str(parameters.counter))]
        return rows if number is None else [*rows, ("generation", str(number))]
    if isinstance(parameters, SlotParameters):
        return slot_rows(parameters)
    if isinstance(parameters, InviteParameters):
        return [
            ("giver", _parts_text(parameters.giver)),
            ("joiner", _parts_text(parameters.joiner)),
            ("hands over", _handed_text(parameters.tenant)),
            ("keyring counter", f"{parameters.counter} at least"),
        ]
    if isinstance(parameters, RevokeParameters):
        invitation = parameters.invitation
        return [
            ("keyring counter", str(parameters.counter)),
            ("slots that go", ", ".join(s.hex() for s in parameters.slots) or "none"),
            ("joined by", "-" if invitation is None else invitation.hex()),
        ]
    return [
        ("workload", f"{parameters.tenant}/{parameters.workload}"),
        ("purpose", parameters.purpose),
    ]


def _parts_text(parts: ProviderParts) -> str:
    digest = parts.settings_digest.hex()
    return f"{parts.tee} {parts.measurement.hex()}, settings {digest}"


def _handed_text(tenant: str | None) -> str:
    if tenant is None:
        return "the whole keyring: every key of every tenant"
    return f"the branch of tenant {tenant}"


def _source_rows(source: KeySource, *, ours: bytes) -> list[tuple[str, str]]:
    authority = source.authority
    foreign = authority != Authority("policy_root", ours)
    remark = " (not this policy root: it will be refused)"
    return [
        ("tenant", source.tenant),
        ("purpose", source.purpose),
        ("kdf", source.kdf.value),
        ("tee", source.tee.value),
        (
            "authority",
            f"{authority.kind} {authority.value.hex()}{remark if foreign else ''}",
        ),
        *((name, value.hex()) for name, value in source.attributes),
        *((name, value.hex()) for name, value in source.measurements),
    ]


def _keyring(action: Action) -> str:
    known = action.keyring_id == sidecar_keyring_id()
    return SIDECAR if known else action.keyring_id.hex()


def action_json(signed: SignedAction, how: Standing) -> dict[str, Any]:
    """An action and how it stands; bytes in hex."""
    return {
        "action": _plain(signed.action.as_value()),
        "signatures": [
            {"key": signature.key.hex(), "valid": valid}
            for signature, valid in zip(signed.signatures, how.valid, strict=True)
        ],
        "expired": how.expired,
        "role": how.role,
        "code": None if how.code is None else how.code.value,
        "detail": how.detail,
    }


def _plain(value: Value) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

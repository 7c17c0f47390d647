# SPDX-License-Identifier: Apache-2.0
"""Invitations and revocations, of what the command line and providers say."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import msgspec

from tightseal.cli.policy_input import read_bytes
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, ProviderError, RequestError, SettingsError
from tightseal.guest.http import LIMITS, Bounds, provider_url, unreachable
from tightseal.model.action import (
    ACTION_ID_BYTES,
    SLOT_ID_BYTES,
    Action,
    ActionKind,
    InviteParameters,
    Parameters,
    ProviderParts,
    RevokeParameters,
    SignedAction,
)
from tightseal.model.action_file import encode_action, parse_action
from tightseal.model.provider import ProviderIdentity
from tightseal.model.wire import InfoResponse, decode_json
from tightseal.policy.actions import MAX_LIFE_SECONDS, check_form
from tightseal.service.joining import Candidate

__all__ = [
    "Giving",
    "invitation",
    "known_from",
    "known_json",
    "measured_of",
    "read_known",
    "revocation",
]

HOUR: Final = 3600
MAX_HOURS: Final = MAX_LIFE_SECONDS // HOUR
BOUNDS: Final = Bounds(attempts=1)
MAX_INFO_BYTES: Final = 65_536
"""Longest answer of ``/v1/info`` that is read."""

_OK: Final = 200
_TEE_BY_BYTES: Final = {32: "sgx", 48: "snp"}


@dataclass(frozen=True, slots=True)
class Giving:
    """What a running provider says of itself; unproven.

    Attributes:
        identity: the four parts.
        counter: of its keyring.
    """

    identity: ProviderIdentity
    counter: int

    @property
    def policy_root(self) -> bytes:
        """32 bytes.

        Raises:
            UsageError: it pins none.
        """
        root = self.identity.policy_root
        if root is None:
            raise UsageError("that provider pins no policy root, so nobody can sign")
        return root


class _Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """File of ``tightseal provider identity``; bytes in hex."""

    version: Literal[1]
    tee: Literal["sgx", "snp"]
    measurement: str
    policy_root: str
    settings_digest: str
    policy_version: int


def known_json(candidate: Candidate) -> dict[str, Any]:
    """The file of a provider's identity, before it has a keyring."""
    parts = candidate.parts
    return {
        "version": 1,
        "tee": parts.tee,
        "measurement": parts.measurement.hex(),
        "policy_root": candidate.release.policy_root,
        "settings_digest": parts.settings_digest.hex(),
        "policy_version": candidate.bundle.version,
    }


def measured_of(text: str) -> tuple[str, bytes]:
    """TEE kind and measurement of an image, by its length.

    Raises:
        UsageError: it is neither an MRENCLAVE nor an SNP measurement.
    """
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    tee = _TEE_BY_BYTES.get(len(value))
    if tee is None:
        raise UsageError(f"--measurement {text!r}: expected 64 or 96 hex digits")
    return tee, value


def read_known(file: Path) -> ProviderParts:
    """Read that file.

    Raises:
        SettingsError: ``settings_invalid``, where it is none.
    """
    try:
        known = msgspec.json.decode(read_bytes(file), type=_Known)
        return ProviderParts(
            tee=known.tee,
            measurement=bytes.fromhex(known.measurement),
            settings_digest=bytes.fromhex(known.settings_digest),
        )
    except (msgspec.MsgspecError, ValueError) as e:
        detail = f"{file}: not of tightseal provider identity: {e}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def known_from(url: str) -> Giving:
    """Ask a running provider who it is.

    Raises:
        SettingsError: ``settings_invalid``, for the address.
        ProviderError: ``provider_unreachable``, ``response_invalid``.
        UsageError: it has no keyring.
    """
    body = bytearray()
    try:
        with (
            httpx.Client(
                base_url=provider_url(url),
                timeout=BOUNDS.timeout(),
                limits=LIMITS,
                follow_redirects=False,
                trust_env=False,
            ) as http,
            http.stream("GET", "/v1/info") as response,
        ):
            for part in response.iter_raw():
                body += part
                if len(body) > MAX_INFO_BYTES:
                    raise _strange("the answer is too long")
    except httpx.HTTPError as e:
        raise unreachable("/v1/info", e) from e
    if response.status_code != _OK:
        raise _strange(f"status {response.status_code}")
    try:
        info = decode_json(bytes(body), InfoResponse, max_bytes=MAX_INFO_BYTES)
        identity = info.identity.parsed()
    except RequestError as e:
        raise _strange(e.detail) from e
    if info.keyring is None:
        raise UsageError(f"{url}: that provider has no keyring")
    return Giving(identity, info.keyring.counter)


def invitation(
    *,
    giver: Giving,
    joiner: ProviderParts,
    tenant: str | None,
    hours: int,
    now: int,
) -> Action:
    """A new invitation.

    Raises:
        UsageError: the hours, or the giver's policy root.
        RequestError: ``action_malformed``.
    """
    parameters = InviteParameters(
        giver=ProviderParts.of(giver.identity),
        joiner=joiner,
        counter=giver.counter,
        tenant=tenant,
    )
    return _action(ActionKind.INVITE_PROVIDER, giver, parameters, hours=hours, now=now)


def revocation(
    giver: Giving,
    *,
    slots: list[str],
    invitation: str | None,
    hours: int,
    now: int,
) -> Action:
    """A new revocation; raises as :func:`invitation`."""
    parameters = RevokeParameters(
        counter=giver.counter,
        slots=tuple(sorted({_hex("--slot", s, SLOT_ID_BYTES) for s in slots})),
        invitation=None
        if invitation is None
        else _hex("--invited-by", invitation, ACTION_ID_BYTES),
    )
    return _action(ActionKind.REVOKE_PROVIDER, giver, parameters, hours=hours, now=now)


def _action(
    kind: ActionKind, giver: Giving, parameters: Parameters, *, hours: int, now: int
) -> Action:
    if not 1 <= hours <= MAX_HOURS:
        raise UsageError(f"--expires-hours {hours}: expected 1 to {MAX_HOURS}")
    action = Action(
        kind=kind,
        policy_root=giver.policy_root,
        keyring_id=giver.identity.keyring_id,
        action_id=secrets.token_bytes(ACTION_ID_BYTES),
        issued_at=now,
        expires_at=now + hours * HOUR,
        parameters=parameters,
    )
    check_form(action)
    # Read back from its file: what is wrong is told now, and not to those who sign.
    return parse_action(encode_action(SignedAction(action))).action


def _hex(option: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise UsageError(f"{option} {text!r}: expected {2 * size} hex digits")
    return value


def _strange(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, f"/v1/info: {detail}")

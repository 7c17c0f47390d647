# SPDX-License-Identifier: Apache-2.0
"""Which provider a workload accepts.

A pin comes from the workload's own measured configuration or from its image: from
somewhere that shows in the workload's evidence. Never from the provider being asked: a
host can run the genuine image with a keyring, a policy root and settings of its own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.model.claims import TcbStatus, Tee, Vendor
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id

__all__ = [
    "MAX_PIN_BYTES",
    "ProviderPin",
    "RootedIdentity",
    "pin_from_table",
    "pin_from_toml",
    "pin_to_toml",
    "read_pin",
]

MAX_PIN_BYTES: Final = 64 * 1024
"""Longest pin file."""

MAX_TRUST_DOMAINS: Final = 16
POLICY_ROOT_BYTES: Final = 32
"""SHA-256 over the first root of a signed policy."""

SIDECAR: Final = "sidecar"
"""In place of a keyring id: the constant of the sidecar shape, which has no keyring."""

_MEASUREMENT_BYTES: Final = {Tee.SGX: 32, Tee.TDX: 48, Tee.SNP: 48}
_DOMAIN: Final = re.compile(r"intel|amd|simulated:[0-9a-f]{96}")
_UP_TO_DATE: Final = frozenset({TcbStatus.UP_TO_DATE})


@dataclass(frozen=True, slots=True)
class RootedIdentity:
    """A provider's identity under any settings that its policy root has signed.

    The settings digest is left to whoever holds the keys of the policy root. So it can
    only be left out where that root is pinned, which is why the root is not optional
    here: an image alone says nothing about the settings that a host gives it.

    Attributes:
        tee: the provider's TEE kind as text.
        measurement: as of ``ProviderIdentity``.
        keyring_id: 32 bytes.
        policy_root: 32 bytes.

    Raises:
        SettingsError: ``settings_invalid``, where the policy root is not 32 bytes.
    """

    tee: str
    measurement: bytes
    keyring_id: bytes
    policy_root: bytes

    def __post_init__(self) -> None:
        """Refuse ``None`` in place of a root: a provider without one would match."""
        root: object = self.policy_root
        if not isinstance(root, bytes) or len(root) != POLICY_ROOT_BYTES:
            raise _invalid("policy_root: needed where no settings_digest is pinned")


@dataclass(frozen=True, slots=True)
class ProviderPin:
    """Everything that a provider must be.

    Attributes:
        identity: the four parts, or all but the settings digest; every part compared.
        trust_domains: as ``str(TrustDomain)``: ``intel``, ``amd``, or
            ``simulated:<root key id>``.
        allow_simulated: must be said besides naming a simulated trust domain.
        accepted_tcb: Intel TCB statuses of the provider's own platform. SNP has none;
            there the identity alone decides.

    Raises:
        SettingsError: ``settings_invalid``.
    """

    identity: ProviderIdentity | RootedIdentity
    trust_domains: frozenset[str]
    allow_simulated: bool = False
    accepted_tcb: frozenset[TcbStatus] = field(default=_UP_TO_DATE)

    def __post_init__(self) -> None:
        """Refuse a pin that can match nothing, or more than it says."""
        if self.identity.tee == Tee.TDX.value:
            # MRTD is the firmware's: a host boots whatever it likes on top of it.
            raise _invalid("tee: a TD's measurement leaves out its kernel and software")
        if not 1 <= len(self.trust_domains) <= MAX_TRUST_DOMAINS:
            raise _invalid(f"trust_domains: expected 1 to {MAX_TRUST_DOMAINS}")
        for domain in self.trust_domains:
            if _DOMAIN.fullmatch(domain) is None:
                raise _invalid(
                    f"trust domain {domain!r}: expected intel, amd or"
                    " simulated:<root key id, 96 hex digits>"
                )
            simulated = domain.startswith(Vendor.SIMULATED.value)
            if simulated and not self.allow_simulated:
                raise _invalid(f"{domain}: needs allow_simulated = true")
        if TcbStatus.REVOKED in self.accepted_tcb:
            raise _invalid("accepted_tcb: Revoked is never accepted")


class _PinTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[provider]`` table of a pin file; bytes in hex."""

    tee: Tee
    measurement: str
    keyring_id: str
    trust_domains: list[str]
    settings_digest: str | None = None
    policy_root: str | None = None
    allow_simulated: bool = False
    accepted_tcb: list[TcbStatus] = msgspec.field(
        default_factory=lambda: [TcbStatus.UP_TO_DATE]
    )


class _PinFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: _PinTable


def read_pin(path: Path) -> ProviderPin:
    """Read a pin file.

    Raises:
        SettingsError: ``settings_invalid``, where it cannot be read or is not a pin.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PIN_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise _invalid(f"pin {path}: {type(e).__name__}") from e
    return pin_from_toml(text)


def pin_from_toml(text: str) -> ProviderPin:
    """Decode a pin: one table ``[provider]``, unknown keys refused.

    Keys: ``tee``, ``measurement``, ``keyring_id`` (hex, or ``sidecar``),
    ``trust_domains``, and optionally ``policy_root``, ``allow_simulated``,
    ``accepted_tcb``. ``settings_digest`` may be left out where ``policy_root`` is
    given: then any settings signed under that root will do.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    if len(text) > MAX_PIN_BYTES:
        raise _invalid(f"pin: more than {MAX_PIN_BYTES} bytes")
    try:
        table = msgspec.convert(tomllib.loads(text), _PinFile).provider
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as e:
        raise _invalid(f"pin: {e}") from e
    return _pin(table)


def pin_from_table(values: Mapping[str, object]) -> ProviderPin:
    """A pin from the content of a table ``[provider]``, as ``pin_from_toml``.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    try:
        table = msgspec.convert(values, _PinTable)
    except msgspec.ValidationError as e:
        raise _invalid(f"pin: {e}") from e
    return _pin(table)


def _pin(table: _PinTable) -> ProviderPin:
    return ProviderPin(
        identity=_identity(table),
        trust_domains=frozenset(table.trust_domains),
        allow_simulated=table.allow_simulated,
        accepted_tcb=frozenset(table.accepted_tcb),
    )


def _identity(table: _PinTable) -> ProviderIdentity | RootedIdentity:
    tee, digest, root = table.tee.value, table.settings_digest, table.policy_root
    measurement = _hex(table.measurement, "measurement", _MEASUREMENT_BYTES[table.tee])
    keyring_id = (
        sidecar_keyring_id()
        if table.keyring_id == SIDECAR
        else _hex(table.keyring_id, "keyring_id", 32)
    )
    policy_root = None if root is None else _hex(root, "policy_root", POLICY_ROOT_BYTES)
    if digest is not None:
        settings_digest = _hex(digest, "settings_digest", 64)
        return ProviderIdentity(
            tee, measurement, keyring_id, policy_root, settings_digest
        )
    if policy_root is None:
        raise _invalid("pin: settings_digest: needed where no policy_root is given")
    return RootedIdentity(tee, measurement, keyring_id, policy_root)


def pin_to_toml(pin: ProviderPin) -> str:
    """Write a pin as TOML.

    For whoever builds a workload's image beside a provider that they run themselves.
    """
    identity = pin.identity
    sidecar = identity.keyring_id == sidecar_keyring_id()
    lines = [
        "[provider]",
        f'tee = "{identity.tee}"',
        f'measurement = "{identity.measurement.hex()}"',
        f'keyring_id = "{SIDECAR if sidecar else identity.keyring_id.hex()}"',
    ]
    if identity.policy_root is not None:
        lines.append(f'policy_root = "{identity.policy_root.hex()}"')
    if isinstance(identity, ProviderIdentity):
        lines.append(f'settings_digest = "{identity.settings_digest.hex()}"')
    lines += [
        f"trust_domains = [{_quoted(pin.trust_domains)}]",
        f"allow_simulated = {str(pin.allow_simulated).lower()}",
        f"accepted_tcb = [{_quoted(s.value for s in pin.accepted_tcb)}]",
    ]
    return "\n".join(lines) + "\n"


def _quoted(texts: Iterable[str]) -> str:
    return ", ".join(f'"{t}"' for t in sorted(texts))


def _hex(text: str, name: str, length: int) -> bytes:
    if re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", text) is None:
        raise _invalid(f"pin: {name}: expected {length} bytes of lower-case hex")
    return bytes.fromhex(text)


def _invalid(detail: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, detail)

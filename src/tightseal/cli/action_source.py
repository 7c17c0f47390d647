# SPDX-License-Identifier: Apache-2.0
"""Where a key is that is to be adopted: stated by evidence and settings, or a journal.

What is stated wrongly finds another key, never somebody else's: a tenant's operators
can adopt only from their tenant, and nothing crosses trust domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tightseal.cli.policy_input import read_bytes
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, SettingsError
from tightseal.model.action import KeySource
from tightseal.model.action_file import AUTHORITY_BYTES
from tightseal.model.claims import MEASUREMENT_NAMES, Claims, Tee
from tightseal.model.keypath import Authority, IdentityKind, Kdf
from tightseal.model.settings import ALWAYS_BOUND, ReleaseSettings
from tightseal.service.load import SettingsFiles

__all__ = ["Stated", "source_of_claims", "source_of_journal"]


@dataclass(frozen=True, slots=True)
class Stated:
    """What the command line says of a source, beside the evidence.

    Attributes:
        settings: the settings file of the provider that gave the key by its built-in
            policy.
        authority: in place of settings: ``policy_root:<hex>`` or
            ``settings_digest:<hex>``.
        tenant: that the key was derived under; the settings' by default.
        purpose: likewise; that of the new name by default.
        kdf: likewise; the settings' by default.
        binds: the measurements that the key belongs to, with commas between; the
            settings' by default.
    """

    settings: Path | None = None
    authority: str | None = None
    tenant: str | None = None
    purpose: str | None = None
    kdf: Kdf | None = None
    binds: str | None = None


def source_of_claims(claims: Claims, stated: Stated, *, purpose: str) -> KeySource:
    """The source of the key that a provider gave to a workload of these claims.

    Args:
        claims: of the workload's evidence, of then.
        stated: what evidence cannot say.
        purpose: of the key, where ``stated`` names none.

    Raises:
        UsageError: something is missing, or does not fit the evidence.
        SettingsError: the settings file cannot be read.
    """
    if (stated.settings is None) == (stated.authority is None):
        raise UsageError("give --source-settings FILE or --source-authority KIND:HEX")
    if stated.settings is not None:
        release = SettingsFiles(stated.settings, None).load({}).settings.release
        if release.policy_root:
            raise UsageError(
                f"{stated.settings}: under a policy root documents gave the keys; take "
                "the key's path from the journal, with --source-json"
            )
        authority, tenant = release.authority(), stated.tenant or release.tenant
    else:
        release = ReleaseSettings()
        authority, tenant = _authority(stated.authority or ""), stated.tenant or ""
    if not tenant:
        raise UsageError("name the tenant of the key's path with --source-tenant")
    names = _binds(claims.tee, stated.binds, release)
    values = claims.measurements
    absent = [n for n in (*ALWAYS_BOUND[claims.tee], *names) if n not in values]
    if absent:
        raise UsageError(f"the claims have no {', '.join(absent)}")
    return KeySource(
        kdf=stated.kdf or release.kdf,
        tenant=tenant,
        purpose=stated.purpose or purpose,
        tee=claims.tee,
        attributes=tuple((n, values[n]) for n in sorted(ALWAYS_BOUND[claims.tee])),
        measurements=tuple((n, values[n]) for n in names),
        authority=authority,
    )


def _binds(tee: Tee, text: str | None, release: ReleaseSettings) -> list[str]:
    if text is None:
        return sorted(release.identity_selections()[tee])
    names = sorted({name.strip() for name in text.split(",")})
    for name in names:
        if name not in MEASUREMENT_NAMES[tee]:
            raise UsageError(f"--source-binds: {name!r} is none of {tee.value}'s")
    return names


def _authority(text: str) -> Authority:
    kind, _, value = text.partition(":")
    expected = AUTHORITY_BYTES.get(kind)
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        raw = b""
    if expected is None or len(raw) != expected:
        kinds = ", ".join(f"{k}:{2 * size} hex" for k, size in AUTHORITY_BYTES.items())
        raise UsageError(f"--source-authority {text!r}: expected any of {kinds}")
    return Authority(kind, raw)


# -- from a journal ---------------------------------------------------------------


class _Binding(msgspec.Struct, frozen=True):
    identity: IdentityKind
    tee: Tee
    attributes: dict[str, str]
    measurements: dict[str, str]
    authority: tuple[Literal["policy_root", "settings_digest"], str]


class _Path(msgspec.Struct, frozen=True):
    kdf: Kdf
    tenant: str
    purpose: str
    workload: _Binding


_MEMBERS: Final = ("body", "keys")


def source_of_journal(file: Path, *, purpose: str | None) -> KeySource:
    """The source of a key path as ``tightseal audit tail --json`` prints it.

    Args:
        file: an element of ``keys``, or the whole entry around it.
        purpose: which key of the entry; only needed where there are several.

    Raises:
        SettingsError: ``settings_invalid``: no such JSON, or not one measured key.
    """
    try:
        tree = msgspec.json.decode(read_bytes(file))
        paths = [msgspec.convert(item, _Path) for item in _paths(tree)]
        found = [p for p in paths if purpose is None or p.purpose == purpose]
        if len(found) != 1:
            raise _refused(
                file, f"expected one key, got {len(found)}: name its purpose"
            )
        return _source(file, found[0])
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise _refused(file, str(e)) from e


def _paths(tree: Any) -> Sequence[Any]:
    for member in _MEMBERS:
        if isinstance(tree, dict) and member in tree:
            tree = tree[member]
    return tree if isinstance(tree, list) else [tree]


def _source(file: Path, path: _Path) -> KeySource:
    binding = path.workload
    if binding.identity is not IdentityKind.MEASURED:
        raise _refused(file, f"a {binding.identity.value} key; expected a measured one")
    kind, value = binding.authority
    return KeySource(
        kdf=path.kdf,
        tenant=path.tenant,
        purpose=path.purpose,
        tee=binding.tee,
        attributes=_values(binding.attributes),
        measurements=_values(binding.measurements),
        authority=Authority(kind, bytes.fromhex(value)),
    )


def _values(texts: dict[str, str]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, bytes.fromhex(texts[name])) for name in sorted(texts))


def _refused(file: Path, why: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, f"{file}: {why}")

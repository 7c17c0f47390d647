# SPDX-License-Identifier: Apache-2.0
"""What a bundle holds once its signatures are good: documents and release settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, SettingsError
from tightseal.model.logclass import LogClass
from tightseal.model.settings import (
    DECIDED_BY_DOCUMENTS,
    MEASURED_ALONE,
    ReleaseSettings,
)
from tightseal.policy.bundle.archive import RELEASE, tenant_of_target
from tightseal.policy.compile import Policy, compile_policy
from tightseal.policy.read import Parsed, Text, parse, parse_as

__all__ = ["MAX_RELEASE_CHARS", "Content", "read_content", "read_release"]

MAX_RELEASE_CHARS: Final = 1 << 16
"""Longest ``release.toml``."""


@dataclass(frozen=True, slots=True)
class Content:
    """What was read.

    Attributes:
        documents: in the order of the given paths.
        release: ``None`` where there is no ``release.toml``.
        policy: all documents, compiled together.
    """

    documents: tuple[Parsed, ...]
    release: ReleaseSettings | None
    policy: Policy


def read_content(targets: Mapping[str, bytes]) -> Content:
    """Read documents and release settings.

    A tenant's document speaks for that tenant alone. Documents of ``policy/`` speak for
    any tenant: those who sign them also decide who signs for a tenant.

    Args:
        targets: content by path below ``targets/``, each of a form that
            ``archive.is_target`` knows; whoever hands it in has checked who signed it.

    Raises:
        SettingsError: ``policy_invalid``, with ``path:line:column`` and the field.
    """
    release: ReleaseSettings | None = None
    documents = []
    for path, data in targets.items():
        text = _text(path, data)
        if path == RELEASE:
            release = read_release(text)
            continue
        parsed = parse(text, name=path)
        tenant = tenant_of_target(path)
        if tenant is not None:
            _require_tenant(parsed, tenant)
        documents.append(parsed)
    _require_witnesses(documents, release or ReleaseSettings())
    return Content(tuple(documents), release, compile_policy(documents))


def read_release(text: str) -> ReleaseSettings:
    """Read ``release.toml``: the keys of the settings file's table ``[release]``.

    What documents decide under a policy root, and what only the measured configuration
    can say, cannot be named, not even with its default.

    Raises:
        SettingsError: ``policy_invalid``, with position and key.
    """
    source = Text(RELEASE, text)
    if len(text) > MAX_RELEASE_CHARS:
        source.refuse((), f"longer than {MAX_RELEASE_CHARS} characters")
    try:
        settings = parse_as(ReleaseSettings, text, name=RELEASE)
    except SettingsError as e:
        # What the settings say of themselves, such as that one names a thing twice.
        if e.code is Code.POLICY_INVALID:
            raise
        raise SettingsError(Code.POLICY_INVALID, f"{RELEASE}: {e.detail}") from e
    for name in tomllib.loads(text):
        if name in DECIDED_BY_DOCUMENTS:
            source.refuse((name,), "documents decide it; leave it out")
        if name in MEASURED_ALONE:
            source.refuse((name,), "only the measured configuration can say it")
    return settings


def _require_witnesses(documents: list[Parsed], release: ReleaseSettings) -> None:
    """A purpose that nobody could ever have a key of is a mistake."""
    if release.audit_log.witnesses:
        return
    for parsed in documents:
        for i, workload in enumerate(parsed.document.workload):
            for j, key in enumerate(workload.key):
                if key.log is LogClass.COSIGNED:
                    message = f"cosigned, and {RELEASE} names no audit_log.witnesses"
                    at = ("workload", i, "key", j, "log")
                    parsed.source.refuse(at, message)


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        detail = f"{path}: not UTF-8 at byte {e.start}"
        raise SettingsError(Code.POLICY_INVALID, detail) from e


def _require_tenant(parsed: Parsed, tenant: str) -> None:
    """A tenant's approvers must not speak for another tenant, or for all."""
    document = parsed.document
    named = [(("workload", i), r.tenant) for i, r in enumerate(document.workload)]
    named += [(("role", i), r.tenant or "none") for i, r in enumerate(document.role)]
    for i, _ in enumerate(document.provider):
        message = f"{tenant} cannot say which providers may have everybody's keyring"
        parsed.source.refuse(("provider", i), message)
    for path, got in named:
        if got != tenant:
            message = f"expected {tenant}, whose role signed it, got {got}"
            parsed.source.refuse((*path, "tenant"), message)

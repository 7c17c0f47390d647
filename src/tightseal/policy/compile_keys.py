# SPDX-License-Identifier: Apache-2.0
"""The keys of a document, checked beyond their types."""

from __future__ import annotations

from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    IdentityKind,
    KeyPart,
    KeyType,
    ProtocolClass,
)
from tightseal.model.keyuse import Operation
from tightseal.model.usage import UsageRule
from tightseal.policy.compile_dates import seconds
from tightseal.policy.compiled import KeyRule, Window
from tightseal.policy.document import (
    Choice,
    KeyRules,
    Reach,
    Source,
    UsageRules,
    WindowRules,
)
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = ["compile_key"]


def compile_key(rules: KeyRules, identity: IdentityKind, path: Path) -> KeyRule:
    """Make the rule of a purpose.

    Args:
        rules: as the document has them.
        identity: of the workload.
        path: of the rules, for errors.

    Raises:
        FieldFault: what the type, or the identity, does not allow.
    """
    if rules.type is not KeyType.RAW:
        _check_pair(rules, path)
    _check_public(rules, identity, path)
    _check_uses(rules, path)
    if rules.adopted and identity is not IdentityKind.NAMED:
        message = "a measured key belongs to its measurements; only names adopt"
        raise FieldFault((*path, "adopted"), message)
    wrapped = rules.source is Source.WRAPPED
    if rules.imports and not wrapped:
        message = "a derived key comes from the root; only wrapped ones are imported"
        raise FieldFault((*path, "imports"), message)
    if wrapped:
        _check_wrapped(rules, identity, path)
    labels: list[tuple[str, str | None]] = []
    for pattern in sorted(set(rules.labels)):
        prefix, star, suffix = pattern.partition("*")
        labels.append((prefix, suffix if star else None))
    parts = frozenset(rules.parts)
    if rules.type is KeyType.RAW:
        parts = frozenset({KeyPart.PRIVATE})
    usage, windows = _usage(rules.usage, (*path, "usage"))
    return KeyRule(
        purpose=rules.purpose,
        key_type=rules.type,
        kdf=rules.kdf,
        length=rules.length,
        protocols=frozenset(rules.protocols),
        labels=tuple(labels),
        parts=parts,
        uses=frozenset(rules.uses),
        published=rules.published,
        adopted=rules.adopted,
        wrapped=wrapped,
        imports=rules.imports,
        reach=Reach.CURRENT if wrapped else rules.generations,
        usage=usage,
        windows=windows,
        log_class=rules.log,
    )


def _check_pair(rules: KeyRules, path: Path) -> None:
    if rules.length != DEFAULT_KEY_BYTES:
        message = f"expected {DEFAULT_KEY_BYTES}, the length of every private half"
        raise FieldFault((*path, "length"), message)
    if ProtocolClass.LEGACY in rules.protocols:
        message = "the legacy protocol knows raw keys alone"
        raise FieldFault((*path, "protocols"), message)


def _check_wrapped(rules: KeyRules, identity: IdentityKind, path: Path) -> None:
    if identity is not IdentityKind.NAMED:
        message = "an update would lose a key kept for measurements; only names wrap"
        raise FieldFault((*path, "source"), message)
    if rules.adopted:
        message = "a key is either kept under its own name or another's, derived again"
        raise FieldFault((*path, "adopted"), message)
    if ProtocolClass.LEGACY in rules.protocols:
        message = "the legacy protocol cannot say create or open"
        raise FieldFault((*path, "protocols"), message)
    if rules.generations is Reach.PREVIOUS:
        message = "a wrapped key is the same under every version of the root"
        raise FieldFault((*path, "generations"), message)


def _check_public(rules: KeyRules, identity: IdentityKind, path: Path) -> None:
    if rules.type is KeyType.RAW and KeyPart.PRIVATE not in rules.parts:
        raise FieldFault((*path, "parts"), "a raw key has no public part")
    if not rules.published:
        return
    at = (*path, "published")
    if rules.type is KeyType.RAW:
        raise FieldFault(at, "a raw key has no public part")
    if identity is not IdentityKind.NAMED:
        message = "without evidence there are no measurements; only names publish"
        raise FieldFault(at, message)
    if KeyPart.PUBLIC not in rules.parts:
        raise FieldFault(at, "parts leaves the public part out")


def _check_uses(rules: KeyRules, path: Path) -> None:
    at = (*path, "uses")
    for use in rules.uses:
        if use not in rules.type.operations:
            can = " or ".join(sorted(rules.type.operations)) or "nothing"
            message = f"{rules.type.value} cannot {use.value}, but {can}"
            raise FieldFault(at, message)
    if {Operation.AGREE, Operation.UNWRAP} <= set(rules.uses):
        # Whoever may agree with any public key opens any envelope, whatever its label.
        message = "agree opens all that unwrap opens, and more: give each its own key"
        raise FieldFault(at, message)


def _usage(
    rules: UsageRules | None, path: Path
) -> tuple[UsageRule | None, tuple[Window, ...]]:
    if rules is None:
        return None, ()
    windows = {
        _window(window, (*path, "windows", i)) for i, window in enumerate(rules.windows)
    }
    ordered = tuple(sorted(windows, key=lambda w: (w.begins or 0, w.ends or 0)))
    counts = rules.per_hour or rules.total or rules.first_platform
    if not counts and not ordered:
        message = "says nothing: expected per_hour, total, first_platform or windows"
        raise FieldFault(path, message)
    if not counts:
        return None, ordered
    rule = UsageRule(
        per_hour=rules.per_hour,
        total=rules.total,
        first_platform=rules.first_platform,
        without_anchor=rules.without_anchor is Choice.ACCEPT,
    )
    return rule, ordered


def _window(rules: WindowRules, path: Path) -> Window:
    begins = seconds(rules.from_, (*path, "from"))
    ends = seconds(rules.until, (*path, "until"))
    if begins is None and ends is None:
        raise FieldFault(path, "expected from, until or both")
    if begins is not None and ends is not None and ends <= begins:
        raise FieldFault((*path, "until"), "not after from")
    return Window(begins, ends)

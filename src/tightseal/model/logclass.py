# SPDX-License-Identifier: Apache-2.0
"""Log classes: who besides the provider must have seen the log before a key leaves.

``signed`` is the provider's own word. Above it the very entry of the release has to be
in a head that somebody else holds: the state store (``anchored``), or witnesses
(``cosigned``). Policy says the least class of a release; receipts say which one it has.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.model.canonical import Value, labelled
from tightseal.model.exchange import LogPromise
from tightseal.model.labels import Label
from tightseal.model.state import AnchorClass

__all__ = [
    "MAX_WITNESSES",
    "WITHOUT_ANCHOR",
    "AuditLogSettings",
    "LogClass",
    "LogCover",
    "LogNeed",
    "SignedCover",
    "WithoutAnchor",
    "highest",
]

MAX_WITNESSES: Final = 16
"""Most witnesses that can be named."""

MAX_WITNESS_KEY_CHARS: Final = 256
"""Longest verifier key of a witness; bounded so that a receipt has room for all."""

_COSIGNATURE: Final = 4
_VKEY_PARTS: Final = 3
_MATERIAL_BYTES: Final = 33
_KEY_ID_BYTES: Final = 4


class LogClass(StrEnum):
    """What has seen the entry of a release before its key left; from weak to strong."""

    SIGNED = "signed"
    """A key inside the TEE signed a head of the log that has it."""

    ANCHORED = "anchored"
    """The state store has taken a head that has it."""

    COSIGNED = "cosigned"
    """Witnesses have cosigned a checkpoint that has it."""

    @property
    def rank(self) -> int:
        """Rises with what it takes to edit the log unseen."""
        return tuple(LogClass).index(self)


def highest(classes: Iterable[LogClass]) -> LogClass:
    """The strongest of some classes; ``signed`` of none."""
    return max(classes, key=lambda one: one.rank, default=LogClass.SIGNED)


class WithoutAnchor(StrEnum):
    """Whether ``anchored`` holds where nothing notices that the whole state went back.

    The state may lie with somebody else than the journal, which is worth something, and
    no more than that.
    """

    ACCEPT = "accept"
    REFUSE = "refuse"


WITHOUT_ANCHOR: Final = frozenset({AnchorClass.NONE, AnchorClass.PROCESS})
"""Anchors that do not outlive this process, so they are none."""

WitnessKey = Annotated[str, msgspec.Meta(max_length=MAX_WITNESS_KEY_CHARS)]


class AuditLogSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What must have seen the entry of a release before its key leaves.

    Attributes:
        least: least class of every release; documents may ask for more by purpose.
        witnesses: verifier keys of the witnesses that count.
        threshold: how many of them must have cosigned, where ``cosigned`` is asked for.
        without_anchor: whether ``anchored`` holds under a state without an anchor that
            outlives the process.
    """

    least: LogClass = LogClass.SIGNED
    witnesses: Annotated[
        tuple[WitnessKey, ...], msgspec.Meta(max_length=MAX_WITNESSES)
    ] = ()
    threshold: Annotated[int, msgspec.Meta(ge=0, le=MAX_WITNESSES)] = 0
    without_anchor: WithoutAnchor = WithoutAnchor.REFUSE

    def __post_init__(self) -> None:
        """Refuse what no release could ever meet, and what means less than it says.

        Raises:
            SettingsError: ``settings_invalid``, naming the setting.
        """
        keys = [_public_key(text) for text in self.witnesses]
        if len(set(keys)) != len(keys):
            _refuse("witnesses names one public key twice: it would count twice")
        if bool(keys) != bool(self.threshold) or self.threshold > len(keys):
            detail = f"{self.threshold} of {len(keys)} witnesses"
            _refuse(f"threshold: {detail}; expected 1 to as many as are named")
        if self.least is LogClass.COSIGNED and not keys:
            _refuse("least is cosigned, and no witnesses are named")

    def need(self, asked: LogClass) -> LogNeed:
        """What a release needs for which documents ask for a class."""
        return LogNeed(
            log_class=highest((self.least, asked)),
            witnesses=self.witnesses,
            threshold=self.threshold,
            without_anchor=self.without_anchor is WithoutAnchor.ACCEPT,
        )


@dataclass(frozen=True, slots=True)
class LogNeed:
    """What must have seen one entry before the answer leaves.

    Attributes:
        log_class: least class.
        witnesses: verifier keys that count.
        threshold: how many of them.
        without_anchor: whether a state without an anchor will do for ``anchored``.
    """

    log_class: LogClass
    witnesses: tuple[str, ...] = ()
    threshold: int = 0
    without_anchor: bool = False

    @property
    def waits(self) -> bool:
        """Whether an answer waits for somebody else at all."""
        return self.log_class is not LogClass.SIGNED

    def as_value(self) -> Value:
        """The need as a canonical value."""
        keys = list(self.witnesses)
        return [self.log_class.value, keys, self.threshold, self.without_anchor]


@dataclass(frozen=True, slots=True)
class LogCover:
    """The head that has the entry of a release, and who has seen that head.

    Attributes:
        log_class: what it makes of the release: ``anchored`` or ``cosigned``.
        size: entries of the head.
        root: of its tree, 32 bytes.
        anchor: ``anchored``: what notices that the state that took the head goes back.
        witnesses: ``cosigned``: verifier keys of the witnesses that policy named and
            that cosigned.
    """

    log_class: LogClass
    size: int
    root: bytes
    anchor: AnchorClass | None = None
    witnesses: tuple[str, ...] = ()

    def as_value(self) -> Value:
        """The cover as a canonical value."""
        anchor = None if self.anchor is None else self.anchor.value
        keys = list(self.witnesses)
        return [self.log_class.value, self.size, self.root, anchor, keys]

    def to_sign(self, transcript_hash: bytes, promise: LogPromise) -> bytes:
        """What the attested key signs of it, for one release alone.

        Args:
            transcript_hash: of the exchange, 64 bytes.
            promise: log and leaf of the release.
        """
        stated = [transcript_hash, promise.as_value(), self.as_value()]
        return labelled(Label.SIGN_LOG_COVER, stated)


@dataclass(frozen=True, slots=True)
class SignedCover:
    """A cover with the attested key's signature over it, 64 bytes."""

    cover: LogCover
    signature: bytes


def _public_key(text: str) -> bytes:
    """The public key of a witness's verifier key (C2SP signed-note), form checked."""
    parts = text.split("+", _VKEY_PARTS - 1)
    name, key_id, encoded = parts if len(parts) == _VKEY_PARTS else ("", "", "")
    try:
        material = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as e:
        message = f"audit_log.witnesses: {text!r}: not base64"
        raise SettingsError(Code.SETTINGS_INVALID, message) from e
    printable = name.isascii() and name.isprintable() and " " not in name
    of_witness = len(material) == _MATERIAL_BYTES and material[0] == _COSIGNATURE
    if not name or not printable or not of_witness:
        _refuse(f"witnesses: {text!r}: expected a witness's key: NAME+ID+KEY")
    covered = name.encode() + b"\n" + material
    expected = hashlib.sha256(covered).digest()[:_KEY_ID_BYTES].hex()
    if key_id != expected or base64.b64encode(material).decode() != encoded:
        _refuse(f"witnesses: {text!r}: id {key_id!r}, its key has {expected}")
    return material[1:]


def _refuse(message: str) -> None:
    raise SettingsError(Code.SETTINGS_INVALID, f"audit_log.{message}")

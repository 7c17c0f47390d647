# SPDX-License-Identifier: Apache-2.0
"""Whose keyring a command works on, and how it is opened."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, Literal, ParamSpec

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.options import log_to_stderr
from tightseal.cli.passphrase import new_passphrase
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, KeyReleaseError, SettingsError, TightsealError
from tightseal.keys.keyring import DamagedSlots, Keyring, Slot, decode_keyring
from tightseal.model.canonical import Value
from tightseal.model.ports import RootPlatform
from tightseal.model.secret import Secret
from tightseal.model.settings import RootKind
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.door import open_platform
from tightseal.platform.slots.passphrase import Ask
from tightseal.release.changes import ChangeBy, KeyringChange
from tightseal.release.keyring import KeyringKeeper, Ways
from tightseal.service.changelog import journalled, recorded
from tightseal.service.inuse import use
from tightseal.service.load import DEFAULT_CONFIG, SettingsFiles
from tightseal.service.renewal import finish_renewal
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings
from tightseal.service.slotkeys import (
    SlotKeys,
    missing_hint,
    own_slots,
    read_passphrase,
)
from tightseal.service.state import log_key

__all__ = [
    "ClassName",
    "JsonFlag",
    "Place",
    "Where",
    "agreed",
    "asked",
    "clock",
    "find_slot",
    "label_of",
    "place_of",
    "settings_of",
]

AGREED: Final = "yes"

MIN_ID_DIGITS: Final = 8
"""Fewest hex digits of a slot's id that name it: as many as are printed."""

MAX_LABEL_CHARS: Final = 128

NO_JOURNAL: Final = (
    "not in the journal: there is none before the first start of the provider"
)

_ID: Final = re.compile(rf"[0-9a-f]{{{MIN_ID_DIGITS},32}}")
_P = ParamSpec("_P")

JsonFlag = Annotated[bool, Parameter("--json")]

ClassName = Literal["gramine", "sgx", "snp", "provider", "passphrase", "tpm2"]
"""Classes that the commands make slots of."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Whose keyring.

    Attributes:
        config: settings file of the provider.
        passphrase_file: holds a passphrase, alone; by default the file that settings
            name.
    """

    config: Annotated[Path, Parameter(name=["--config", "-c"])] = DEFAULT_CONFIG
    passphrase_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A provider's settings and platform, as far as its keyring needs them.

    Attributes:
        settings: both kinds.
        platform: that they name.
        ask: for a passphrase; ``None`` where settings alone say.
    """

    settings: Settings
    platform: RootPlatform
    ask: Ask | None

    @property
    def path(self) -> Path:
        """The keyring's file."""
        return self.settings.host.keyring_path

    @property
    def slots(self) -> SlotKeys:
        """The ways to slots' keys that there are here."""
        return own_slots(self.settings, self.platform, ask=self.ask)

    @property
    def ways(self) -> Ways:
        """How the keyring opens, as for the provider itself."""
        return ways_of(self.settings, self.platform, ask=self.ask)

    def keeper(self, *, damaged: DamagedSlots = DamagedSlots.REFUSE) -> KeyringKeeper:
        """Open the keyring.

        Args:
            damaged: what to do with slots that are not as they were written.

        Raises:
            KeyReleaseError: it is missing or does not open here.
            ServiceError: the file system failed.
        """
        ways = replace(self.ways, damaged=damaged)
        try:
            return KeyringKeeper(ways)
        except KeyReleaseError as e:
            if e.code is Code.SLOT_UNAVAILABLE:
                _note_missing(ways)
            raise

    def unanchored(self) -> KeyringKeeper:
        """Open the keyring without asking a TPM: to make, or to look at, its anchor.

        Raises:
            KeyReleaseError: as of ``keeper``.
            ServiceError: as of ``changer``.
        """
        ways = replace(self.ways, keyed=None)
        finish_renewal(self.settings, lambda: ways)
        return KeyringKeeper(ways)

    def changer(self, *, damaged: DamagedSlots = DamagedSlots.REFUSE) -> KeyringKeeper:
        """Open the keyring to change it; a renewal that was broken off is ended first.

        Args:
            damaged: as of ``keeper``.

        Raises:
            KeyReleaseError: as of ``keeper``.
            ServiceError: likewise; ``state_conflict``, where its key is being renewed.
        """
        finish_renewal(self.settings, lambda: self.ways)
        return self.keeper(damaged=damaged)

    @contextmanager
    def recorded(
        self, keyring: Keyring, kind: str, now: int, **parameters: Value
    ) -> Iterator[None]:
        """Where a keyring is changed: in the journal first, and nobody renews its key.

        Args:
            keyring: before the change.
            kind: what is done.
            now: Unix seconds.
            parameters: what of it.

        Raises:
            ServiceError: ``journal_failed``; ``state_conflict``.
        """
        leave = use(self.settings.host.keyring_path)
        try:
            with self.entered(keyring, kind, now, **parameters):
                yield
        finally:
            leave()

    @contextmanager
    def entered(
        self, keyring: Keyring, kind: str, now: int, **parameters: Value
    ) -> Iterator[None]:
        """The journal alone; arguments and errors as of ``recorded``."""
        change = KeyringChange(kind, ChangeBy.COMMAND, keyring.header, parameters)
        key = log_key(keyring.derive)
        with journalled(self.settings.host, key) as record:
            if record is None:
                ui.note(NO_JOURNAL)
                yield
                return
            with recorded(change, record, now=now):
                yield

    def require_unsigned(self, code: Code, action: str) -> None:
        """Refuse what a running provider does for enough signatures.

        Being on the machine authorises nothing, where a policy root says who may.

        Args:
            code: of the refusal.
            action: kind of the signed action that does the same.

        Raises:
            KeyReleaseError: with that code, under a policy root.
        """
        if self.settings.release.policy_root:
            detail = (
                "under a policy root it takes a signed action: tightseal action sign "
                f"--kind {action}, and tightseal action submit to the running provider"
            )
            raise KeyReleaseError(code, detail)

    def new_slot(self, *classes: SlotClass, signer: bool = False) -> SlotKey:
        """What makes a new slot; asks on the terminal where no file has a passphrase.

        Args:
            classes: of its factors.
            signer: whether it is to belong to the enclave's signer.

        Raises:
            UsageError: these classes are not here, or do not go together; or there is
                no terminal.
        """
        slots = self.slots
        if (
            SlotClass.PASSPHRASE in classes
            and SlotClass.PASSPHRASE not in slots.classes
        ):
            typed = Secret(new_passphrase(None))
            slots = own_slots(self.settings, self.platform, ask=_copies(typed))
        try:
            return slots.choose(*classes, signer=signer)
        except KeyReleaseError as e:
            raise UsageError(e.detail) from e


def settings_of(where: Where) -> Settings:
    """The settings of a provider that has a keyring.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    log_to_stderr()
    settings = SettingsFiles(where.config).load(os.environ).settings
    if settings.release.root is not RootKind.KEYRING:
        detail = (
            f'{where.config}: release.root is "{settings.release.root.value}", so this'
            ' provider has no keyring; with release.root = "keyring" it has other keys'
        )
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return settings


def place_of(where: Where | None) -> Place:
    """The place that a command line names.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    named = where or Where()
    settings = settings_of(named)
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    file = named.passphrase_file
    # Read once: it may be a pipe, and a slot asks again when it is tried.
    ask = None if file is None else _copies(read_passphrase(file))
    return Place(settings, platform, ask)


def find_slot(keyring: Keyring, text: str) -> Slot:
    """A slot by its id or the start of it.

    Raises:
        UsageError: it is no id, or starts none or several.
    """
    if _ID.fullmatch(text) is None:
        message = (
            f"slot {text!r}: expected {MIN_ID_DIGITS} hex digits of its id, or all"
        )
        raise UsageError(message)
    found = [s for s in keyring.slots if s.slot_id.hex().startswith(text)]
    if not found:
        there = ", ".join(str(slot) for slot in keyring.slots)
        message = f"no slot {text} in this keyring; there are: {there}"
        raise UsageError(message)
    if len(found) > 1:
        message = f"slot {text}: {len(found)} start so; give more of the id"
        raise UsageError(message)
    return found[0]


def label_of(text: str) -> str:
    """A label for a slot.

    Raises:
        UsageError: it is too long, or holds what does not print.
    """
    if len(text) > MAX_LABEL_CHARS or not (text.isascii() and text.isprintable()):
        message = f"--label: at most {MAX_LABEL_CHARS} printable ASCII characters"
        raise UsageError(message)
    return text


def agreed(question: str, *, yes: bool, as_json: bool) -> bool:
    """Whether the operator wants what was just shown.

    Raises:
        UsageError: with ``--json`` and without ``--yes``.
    """
    if yes:
        return True
    if as_json:
        message = "--json does not ask: look at it first, then give --yes"
        raise UsageError(message)
    ui.note(f"{question} Type {AGREED}:")
    return sys.stdin.readline().strip() == AGREED


def asked(command: Callable[_P, int], *, group: str = "keyring") -> Callable[_P, int]:
    """A wrong command line is told as such."""

    @wraps(command)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            return ui.usage_error(str(error), f"{group} --help")

    return told


def clock() -> int:
    """Unix seconds, by the host."""
    return int(time.time())


def _note_missing(ways: Ways) -> None:
    """Which settings slots lack here; the file is believed for this note alone."""
    with suppress(TightsealError):
        slots = decode_keyring(ways.file.load().data).slots
        hints = {missing_hint(slot, ways.slot_keys) for slot in slots} - {""}
        for hint in sorted(hints):
            ui.note(f"a slot needs more than there is here: {hint}")


def _copies(secret: Secret) -> Ask:
    """Whoever asks gets a copy of its own, which it may wipe."""
    return lambda: Secret(secret.reveal())

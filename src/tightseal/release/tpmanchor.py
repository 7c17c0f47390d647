# SPDX-License-Identifier: Apache-2.0
"""A TPM's counter as the anchor of a keyring.

    remembered = record.counter + (value of the TPM's counter - record.value)

The index is one that this keyring's holders made, and they alone can count it up; the
record beside the keyring's file says what its value means. Each index has one record,
ever: it is defined with a fresh authorisation value, and its handle follows from the
keyring's id, so that one TPM has one index of a keyring at a time. A record that is put
back finds no index of its own any more, and nothing is believed.
"""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from tightseal.errors import (
    Code,
    KeyReleaseError,
    PlatformError,
    PolicyError,
    ServiceError,
)
from tightseal.keys.keyring import AnchorFile, AnchorRecord, Keyring
from tightseal.model.secret import Secret
from tightseal.model.state import AnchorClass
from tightseal.platform.slots.tpm_counter import (
    AUTH_BYTES,
    NO_INDEX,
    POLICY_BYTES,
    CounterIndex,
    counter_handle,
    define_counter,
    increment_counter,
    read_counter,
    remove_counter,
)
from tightseal.platform.slots.tpm_objects import open_sessions
from tightseal.platform.slots.tpm_session import Link, Session, SessionKind
from tightseal.platform.slots.tpm_wire import OpenTpm, TpmError

__all__ = ["MAX_CATCH_UP", "AnchorState", "AnchorTpm", "TpmAnchor"]

MAX_CATCH_UP: Final = 500
"""Most increments in a row. Each costs a write of NV memory, which wears: vendors
promise some 100,000, and slow down who writes often."""

_NEXT: Final = (
    "; once you know that the file is the newest: tightseal keyring anchor init --adopt"
)


@dataclass(frozen=True, slots=True)
class AnchorTpm:
    """The TPM that remembers.

    Attributes:
        open_tpm: opens it.
        ek_name: Name of its endorsement key, 34 bytes; ``None``: what the record says,
            and for a new record the one that answers.
        owner_auth: authorisation value of the owner hierarchy; for making the index.
        sleep: waits where the TPM asks to be asked again.
    """

    open_tpm: OpenTpm
    ek_name: bytes | None = None
    owner_auth: Secret = field(default_factory=lambda: Secret(b""), repr=False)
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class AnchorState:
    """What the TPM and the record say together.

    Attributes:
        ek: Name of the endorsement key.
        handle: of the index.
        value: of the TPM's counter.
        remembered: the keyring's counter that it stands for.
    """

    ek: bytes
    handle: int
    value: int
    remembered: int


class TpmAnchor:
    """Implements ``KeyringAnchor`` for one keyring that is open.

    Args:
        keyring: any version of it under the keyring key in use.
        file: where the record lies.
        tpm: that remembers.
        required: whether measured settings say that there must be one.
    """

    anchor_class = AnchorClass.TPM

    def __init__(
        self,
        keyring: Keyring,
        *,
        file: AnchorFile,
        tpm: AnchorTpm,
        required: bool = False,
    ) -> None:
        self._required = required
        self._keyring = keyring
        self._file = file
        self._tpm = tpm

    def remembered(self, keyring_id: bytes) -> int | None:
        """The highest counter taken; ``None`` where there is no record.

        Raises:
            KeyReleaseError: ``keyring_rolled_back``, where record and TPM do not belong
                together any more: what was remembered is lost.
            PolicyError: ``anchor_required``, in place of ``None`` where there must be
                one.
            ServiceError: ``state_unavailable``, where there is no answer.
        """
        state = self.state(keyring_id)
        if state is None and self._required:
            detail = (
                'release.keyring_anchor is "tpm", and there is no record of one for '
                f"keyring {keyring_id.hex()[:16]}; once you know that the file is the "
                "newest: tightseal keyring anchor init"
            )
            raise PolicyError(Code.ANCHOR_REQUIRED, detail)
        return None if state is None else state.remembered

    def state(self, keyring_id: bytes) -> AnchorState | None:
        """As ``remembered``, with where it comes from."""
        record = self._record(keyring_id)
        if record is None:
            return None
        with self._session(record.ek) as (link, session, _):
            return _state(record, _read(link, session, record))

    def remember(self, keyring_id: bytes, counter: int) -> None:
        """Count up until the TPM has seen this counter.

        Raises:
            KeyReleaseError: as of ``remembered``; also where there is no record.
            ServiceError: ``state_unavailable``, where there is no answer, or the TPM is
                further behind than it should be made to count.
        """
        seen = self.state(keyring_id)
        if seen is not None and seen.remembered >= counter:
            # As at most starts: then the folder need not be writable.
            return
        with self._file.alone():
            record = self._record(keyring_id)
            if record is None:
                raise _lost("there is no record of the index")
            with self._session(record.ek) as (link, session, _):
                state = _state(record, _read(link, session, record))
                behind = counter - state.remembered
                if behind > MAX_CATCH_UP:
                    detail = f"is {behind} behind, at most {MAX_CATCH_UP} are made up"
                    detail = f"anchor tpm: {detail}{_NEXT}"
                    raise ServiceError(Code.STATE_UNAVAILABLE, detail)
                for _ in range(behind):
                    increment_counter(link, session, _index(record))

    def begin(self, *, adopt: bool) -> AnchorState:
        """Make an index and its record: from now on the TPM remembers this keyring.

        Args:
            adopt: also where there is one, or a record of one: what it remembered is
                given up, so the keyring in use must be known to be the newest.

        Raises:
            KeyReleaseError: ``keyring_exists``, without ``adopt``;
                ``keyring_rolled_back``, where it is not the TPM that is pinned.
            ServiceError: ``state_unavailable``.
        """
        header = self._keyring.header
        index = CounterIndex(
            handle=counter_handle(header.keyring_id),
            policy=secrets.token_bytes(POLICY_BYTES),
            auth=Secret(_auth_value()),
        )
        owner = self._tpm.owner_auth
        with self._file.alone():
            if not adopt and self._file.read() is not None:
                raise _exists(f"{self._file.path} is there already")
            with self._session(self._tpm.ek_name) as (link, session, ek):
                if adopt:
                    remove_counter(link, session, index.handle, owner_auth=owner)
                value = define_counter(link, session, index, owner_auth=owner)
            record = AnchorRecord(
                ek=ek,
                handle=index.handle,
                policy=index.policy,
                auth=index.auth,
                value=value,
                counter=header.counter,
            )
            self._file.write(record.seal(self._keyring))
        return _state(record, value)

    def _record(self, keyring_id: bytes) -> AnchorRecord | None:
        ours = self._keyring.header.keyring_id
        data = self._file.read()
        if data is None or keyring_id != ours:
            return None
        try:
            record = AnchorRecord.open(data, self._keyring)
        except KeyReleaseError as e:
            raise _lost(e.detail) from e
        if record.handle != counter_handle(ours):
            raise _lost(f"the record names index {record.handle:#x}")
        pinned = self._tpm.ek_name
        if pinned is not None and record.ek != pinned:
            raise _lost(f"the record is of EK {record.ek.hex()}, pinned is another")
        return record

    @contextmanager
    def _session(self, ek: bytes | None) -> Iterator[tuple[Link, Session, bytes]]:
        """A session with the TPM of this EK; whatever goes wrong gets our codes."""
        with ExitStack() as stack:
            try:
                exchange = stack.enter_context(self._tpm.open_tpm())
                link = Link(exchange, sleep=self._tpm.sleep)
                with open_sessions(link, (SessionKind.HMAC,)) as (found, (session,)):
                    if ek not in (None, found):
                        raise _lost(f"another TPM: its EK is {found.hex()}")
                    yield link, session, found
            except OSError as e:
                number = errno.errorcode.get(e.errno or 0, type(e).__name__)
                detail = f"anchor tpm: no TPM answers: {number}"
                raise ServiceError(Code.STATE_UNAVAILABLE, detail) from e
            except TpmError as e:
                raise _refused(e) from e
            except PlatformError as e:
                detail = f"anchor tpm: {e.detail}"
                raise ServiceError(Code.STATE_UNAVAILABLE, detail) from e


_NOT_OURS: Final = {
    NO_INDEX: "the index is not there: the TPM was cleared, or its owner removed it",
    0xA2: "the index is not the one that was made: somebody made it again",
    0x8E: "the index is not the one that was made: somebody made it again",
    0x14A: "the index is not the one that was made: it was never counted up",
}
_DEFINED: Final = 0x14C
_WRONG_AUTH: Final = "the owner's authorisation value is another"
_HINTS: Final = {
    0xA2: _WRONG_AUTH,
    0x8E: _WRONG_AUTH,
    0x920: "the TPM slows down writes: try again in a minute",
    0x921: "the TPM is locked out after wrong authorisation values",
    0x902: "the TPM has no room for objects: use /dev/tpmrm0",
    0x14B: "the TPM has no room for one more index",
}


def _read(link: Link, session: Session, record: AnchorRecord) -> int:
    try:
        return read_counter(link, session, _index(record))
    except TpmError as e:
        if why := _NOT_OURS.get(e.rc):
            raise _lost(f"{e.detail}: {why}") from e
        raise


def _state(record: AnchorRecord, value: int) -> AnchorState:
    if value < record.value:
        # No TPM counts down: it was put back, as one that the host emulates can be.
        raise _lost(f"the TPM's counter is {value}, and was {record.value}")
    return AnchorState(record.ek, record.handle, value, record.remembered(value))


def _index(record: AnchorRecord) -> CounterIndex:
    return CounterIndex(record.handle, record.policy, record.auth)


def _auth_value() -> bytes:
    """Random, and not shortened by a TPM, which leaves out zeros at the end."""
    return secrets.token_bytes(AUTH_BYTES - 1) + bytes([secrets.randbelow(255) + 1])


def _refused(error: TpmError) -> ServiceError | KeyReleaseError:
    if error.rc == _DEFINED:
        return _exists(f"{error.detail}: the TPM has an index of this keyring")
    hint = _HINTS.get(error.rc, "")
    detail = f"anchor tpm: {error.detail}{': ' if hint else ''}{hint}"
    return ServiceError(Code.STATE_UNAVAILABLE, detail)


def _lost(why: str) -> KeyReleaseError:
    detail = f"anchor tpm: {why}: what it remembered is lost{_NEXT}"
    return KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)


def _exists(why: str) -> KeyReleaseError:
    detail = f"anchor tpm: {why}: look with keyring anchor status{_NEXT}"
    return KeyReleaseError(Code.KEYRING_EXISTS, detail)

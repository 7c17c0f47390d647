# SPDX-License-Identifier: Apache-2.0
"""Whether the provider is able to release keys, and if not, what to mend.

The parts are looked at by a background thread, never by the request that asks: a probe
must not be a way to make the provider work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.service.logs import error_fields

__all__ = [
    "BROKEN",
    "LOOK_AT_LOG",
    "REFRESH_SECONDS",
    "Health",
    "Note",
    "Part",
    "Readiness",
]

REFRESH_SECONDS: Final = 5.0
"""How often the parts are looked at."""

STALE_SECONDS: Final = 60
"""A judgement older than this says that the background thread itself is stuck."""

LOOK_AT_LOG: Final = "See the provider's log for what was expected and what came."


@dataclass(frozen=True, slots=True)
class _Broken:
    """What a broken part means, and what to do where its code does not say it."""

    what: str
    remedy: str = LOOK_AT_LOG


BROKEN: Final = {
    "clock": _Broken(
        "The host's clock cannot be trusted, so every request is refused."
    ),
    "journal": _Broken("The journal takes no entry, so nothing is released."),
    "policy": _Broken("There is no policy that releases anything."),
    "witnesses": _Broken(
        "Too few witnesses of the log answer, so nothing is released."
    ),
    "keyring": _Broken("The keyring's file is not what this provider has in use."),
    "attested_key": _Broken(
        "No verified quote proves the provider's own key.",
        "Mend or update the provider's platform; the log says what its quote lacks.",
    ),
    "collateral": _Broken(
        "The provider's own evidence does not verify.",
        "Mend or update the provider's platform; the log says what its quote lacks.",
    ),
    "start": _Broken(
        "The parts were not looked at yet.",
        "The provider has only just started; ask again shortly.",
    ),
    "background": _Broken(
        "The background checks have stopped.", "Restart the provider."
    ),
    "draining": _Broken(
        "The provider was told to stop, and takes no new work for long.",
        "Send requests to another provider; this one answers what it has, and ends.",
    ),
}
"""By part. A code's own remedy comes first."""

_ANY: Final = _Broken("This part is not in order.")

log = structlog.get_logger("tightseal.health")


class Part(msgspec.Struct, frozen=True):
    """One part of the provider, as ``/readyz`` shows it.

    Attributes:
        name: what was looked at.
        ok: whether it is in order.
        code: the stable code of what is wrong.
        remedy: what the operator should do.
        what: what is wrong, in a sentence that tells a stranger nothing more.
    """

    name: str
    ok: bool
    code: str | None = None
    remedy: str | None = None
    what: str | None = None


class Note(msgspec.Struct, frozen=True):
    """What keeps no key back, and the operator should know.

    Attributes:
        name: stable, such as ``bundle_refused``.
        code: the stable code of what happened, if it was refused.
        text: what it is, in a sentence.
        remedy: what the operator should do.
    """

    name: str
    code: str | None
    text: str
    remedy: str = LOOK_AT_LOG

    @classmethod
    def of(cls, name: str, error: TightsealError, text: str) -> Note:
        """A note about something that was refused, with what to do about it."""
        return cls(name, error.code.value, text, error.info.remedy or LOOK_AT_LOG)


class Readiness(msgspec.Struct, frozen=True):
    """The answer of ``/readyz``.

    Attributes:
        ready: whether every part is in order.
        parts: each of them.
        notes: what is worth knowing, ready or not.
    """

    ready: bool
    parts: list[Part]
    notes: list[Note] = []

    def broken_by(self, name: str, error: TightsealError) -> Readiness:
        """The same, with one part found broken since."""
        others = [part for part in self.parts if part.name != name]
        parts = [_broken(name, error), *others]
        return Readiness(ready=False, parts=parts, notes=self.notes)


@dataclass(frozen=True, slots=True)
class _Judgement:
    at: float
    readiness: Readiness


class Health:
    """Looks at the parts and remembers the last judgement. Thread-safe.

    Args:
        probes: by name of the part: raises a ``TightsealError`` where it is not in
            order.
        on_part: told of each part after each look.
        notes: what is worth knowing besides.
        on_notes: told the names of the notes after each look.
        monotonic: seconds since any moment, to notice that nobody looks any more.
    """

    def __init__(
        self,
        probes: Mapping[str, Callable[[], object]],
        *,
        on_part: Callable[[str, bool], None] = lambda _name, _ok: None,
        notes: Callable[[], list[Note]] = list,
        on_notes: Callable[[Iterable[str]], None] = lambda _names: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = dict(probes)
        self._on_part = on_part
        self._notes = notes
        self._on_notes = on_notes
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last: _Judgement | None = None
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the provider was told to stop."""
        return self._draining

    def drain(self) -> None:
        """From now on not ready, whatever the parts are like."""
        self._draining = True

    def look(self) -> Readiness:
        """Look at every part; for the background thread."""
        with self._lock:
            parts = [self._probe(name) for name in self._probes]
            ready = all(p.ok for p in parts)
            readiness = Readiness(ready=ready, parts=parts, notes=self._notes())
            self._on_notes([note.name for note in readiness.notes])
            before = self._last
            self._last = _Judgement(self._monotonic(), readiness)
        if before is None or before.readiness.ready != readiness.ready:
            log.info("readiness_changed", ready=readiness.ready)
        return readiness

    def last(self) -> Readiness:
        """The last judgement, without looking again."""
        judged = self._last
        if judged is None:
            readiness = _unready("start")
        elif self._monotonic() - judged.at > STALE_SECONDS:
            readiness = _unready("background")
        else:
            readiness = judged.readiness
        return _unready("draining", readiness) if self.draining else readiness

    def _probe(self, name: str) -> Part:
        try:
            self._probes[name]()
        except TightsealError as e:
            part = _broken(name, e)
            fields = {"part": name, "code": e.code.value, "detail": e.detail}
            log.error("not_in_order", **fields)  # noqa: TRY400  # no traceback
        except Exception as e:  # noqa: BLE001  # a probe must not end the thread
            fields = {"part": name} | error_fields(e)
            log.error("probe_failed", **fields)  # noqa: TRY400  # it is in the fields
            part = _broken(name, ServiceError(Code.INTERNAL, "the probe failed"))
        else:
            part = Part(name, ok=True)
        self._on_part(name, part.ok)
        return part


def _broken(name: str, error: TightsealError) -> Part:
    broken = BROKEN.get(name, _ANY)
    remedy = error.info.remedy or broken.remedy
    code = error.code.value
    return Part(name, ok=False, code=code, remedy=remedy, what=broken.what)


def _unready(name: str, besides: Readiness | None = None) -> Readiness:
    code, broken = Code.PROVIDER_NOT_READY.value, BROKEN[name]
    part = Part(name, ok=False, code=code, remedy=broken.remedy, what=broken.what)
    if besides is None:
        return Readiness(ready=False, parts=[part])
    return Readiness(ready=False, parts=[part, *besides.parts], notes=besides.notes)

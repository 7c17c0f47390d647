# SPDX-License-Identifier: Apache-2.0
"""Intel's signed JSON: exact text, strict types, no key twice.

TCB info and QE identity are signed as text, byte for byte (Intel PCS API v4). The
signature is verified over that text before any of it is decoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from tightseal.errors import Code, CollateralError
from tightseal.model.claims import TcbStatus

__all__ = [
    "MAX_JSON_CHARS",
    "Hex2",
    "Hex4",
    "Hex6",
    "Hex8",
    "Hex16",
    "Hex32",
    "Hex48",
    "IntelTime",
    "IsvLevel",
    "IsvLevelJson",
    "Number16",
    "decode",
    "isv_levels",
    "require_masked",
    "unix_time",
]

MAX_JSON_CHARS: Final = 1 << 18
"""Longest TCB info or QE identity that is decoded; real ones are below 16 Ki."""

Number16: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF)]
Hex2: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{4}\Z")]
Hex4: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{8}\Z")]
Hex6: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{12}\Z")]
Hex8: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{16}\Z")]
Hex16: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{32}\Z")]
Hex32: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{64}\Z")]
Hex48: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{96}\Z")]
IntelTime: TypeAlias = Annotated[
    str, Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
]

_Json = TypeVar("_Json")
_Value = TypeVar("_Value")


class _IsvSvnJson(msgspec.Struct, frozen=True):
    isvsvn: Number16


class IsvLevelJson(
    msgspec.Struct,
    frozen=True,
    rename={
        "date": "tcbDate",
        "status": "tcbStatus",
        "advisory_ids": "advisoryIDs",
    },
):
    """A TCB level of a quoting enclave or a TDX module, as Intel writes it.

    The API names three statuses for these; any other would be lost in the merge with
    the platform's, so it is refused.
    """

    tcb: _IsvSvnJson
    date: IntelTime
    status: Literal["UpToDate", "OutOfDate", "Revoked"]
    advisory_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IsvLevel:
    """A TCB level of a quoting enclave or a TDX module.

    Attributes:
        isv_svn: lowest ISVSVN that reaches the level.
        status: ``UP_TO_DATE``, ``OUT_OF_DATE`` or ``REVOKED``.
        date: as Intel writes it.
        advisory_ids: what applies to the level.
    """

    isv_svn: int
    status: TcbStatus
    date: str
    advisory_ids: frozenset[str]


def isv_levels(levels: tuple[IsvLevelJson, ...]) -> tuple[IsvLevel, ...]:
    """The levels, which must stand highest first, each once, as Intel writes them.

    Raises:
        ValueError: for another order, in which two readers could choose two levels, or
            for a date that there is not.
    """
    found = tuple(
        IsvLevel(x.tcb.isvsvn, TcbStatus(x.status), x.date, frozenset(x.advisory_ids))
        for x in levels
    )
    for level in found:
        unix_time(level.date)
    if any(a.isv_svn <= b.isv_svn for a, b in pairwise(found)):
        message = "TCB levels are not in descending order"
        raise ValueError(message)
    return found


def decode(
    text: str, kind: type[_Json], build: Callable[[_Json], _Value], code: Code
) -> _Value:
    """Decode signed JSON into ``kind`` and build the value from that.

    Unknown keys are allowed, since Intel adds some; a key given twice is refused, since
    two readers could see two values.

    Raises:
        CollateralError: ``code``, or ``collateral_too_large``.
    """
    if len(text) > MAX_JSON_CHARS:
        detail = f"signed JSON: {len(text)} characters, at most {MAX_JSON_CHARS}"
        raise CollateralError(Code.COLLATERAL_TOO_LARGE, detail)
    try:
        return build(msgspec.convert(_value(text), kind))
    except (ValueError, RecursionError) as e:
        raise CollateralError(code, f"{type(e).__name__}: {e}") from e


def _value(text: str) -> object:
    """The JSON value. Text that encoding its value gives back has no key twice."""
    data = text.encode()
    value = msgspec.json.decode(data)
    if msgspec.json.encode(value) == data:
        return value
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )


def unix_time(text: str) -> int:
    """Unix seconds of an ``IntelTime``.

    Raises:
        ValueError: where there is no such date, or it lies before 1970.
    """
    seconds = int(datetime.fromisoformat(text).timestamp())
    if seconds < 0:
        message = f"{text} is before 1970"
        raise ValueError(message)
    return seconds


def require_masked(name: str, expected: str, mask: str) -> None:
    """Refuse an expected value (hex) with bits outside its mask (hex).

    No report has them under the mask, and two readers could mask the other side too.

    Raises:
        ValueError: where it has.
    """
    if int(expected, 16) & ~int(mask, 16):
        message = f"{name}: {expected} expects bits outside mask {mask}"
        raise ValueError(message)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "a key is given twice"
        raise ValueError(message)
    return found


def _refuse_number(text: str) -> NoReturn:
    message = f"not an integer: {text[:32]}"
    raise ValueError(message)

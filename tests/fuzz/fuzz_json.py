# SPDX-License-Identifier: Apache-2.0
"""Ways to spoil signed JSON: values, members, dates, and the words it is written in."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

from fuzz_bytes import (
    interesting,
)

from tightseal.model.claims import TcbStatus
from tightseal_sim.intel.tcb import iso_time

__all__ = ["JSON_CHANGES", "TIMES", "Json", "JsonChange", "rewritten"]

Json = dict[str, Any]
JsonChange = Callable[[Json, Random, int], object]

_STATUSES: Final = (*(s.value for s in TcbStatus), "Fine", "", "uptodate", None, 3)
_ADVISORIES: Final[tuple[object, ...]] = (
    None,
    [],
    ["INTEL-SA-00001"],
    ["INTEL-SA-00001", "INTEL-SA-00001"],
    ["INTEL-SA-00002", "INTEL-SA-00001"],
    [""],
    [7],
    "INTEL-SA-00001",
)
_NUMBERS: Final = (0, 1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 99, 255, 256, 0xFFFF, 0x10000)
_ODD: Final[tuple[object, ...]] = (
    None,
    True,
    -1,
    0,
    0.5,
    3.0,
    1 << 31,
    1 << 32,
    1 << 63,
    1 << 64,
    "",
    "0",
    [],
    {},
    "TDX",
    "SGX",
)
TIMES: Final = (0, 1, -1, 60, -60, 3600, -3600, 86400, -86400, 31_536_000)


def _date(rng: Random, now: int) -> object:
    text = iso_time(now + rng.choice(TIMES))
    return rng.choice(
        (
            text,
            text,
            text,
            text.replace("Z", "+00:00"),
            text.replace("Z", ".000Z"),
            text.replace("T", " "),
            text.lower(),
            text[:-1],
            "2024-02-30T00:00:00Z",
            "2016-12-31T23:59:60Z",
            "9999-12-31T23:59:59Z",
            "0001-01-01T00:00:00Z",
            now,
        )
    )


def _level(level: Json, rng: Random, now: int) -> None:
    kind = rng.randrange(6)
    tcb = level.get("tcb", {})
    if kind == 0:
        level["tcbStatus"] = rng.choice(_STATUSES)
    elif kind == 1:
        level["advisoryIDs"] = rng.choice(_ADVISORIES)
    elif kind == 2:
        level["tcbDate"] = _date(rng, now)
    elif "isvsvn" in tcb:
        tcb["isvsvn"] = rng.choice(_NUMBERS)
    elif kind == 3:
        tcb["pcesvn"] = rng.choice(_NUMBERS)
    else:
        lists = [v for v in tcb.values() if isinstance(v, list) and v]
        if lists:
            rng.choice(lists)[rng.choice((0, 1, 2, 15)) % 15]["svn"] = rng.choice(
                _NUMBERS
            )


def _order(levels: list[Any], rng: Random) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        rng.shuffle(levels)
    elif kind == 1 and levels:
        levels.append(json.loads(json.dumps(rng.choice(levels))))
    elif kind == 2 and levels:
        levels.pop(rng.randrange(len(levels)))
    else:
        levels.reverse()


def levels(value: Json, rng: Random, now: int) -> None:
    """A TCB level, or their order and number."""
    found = value.get("tcbLevels")
    if rng.random() < 0.3 and value.get("tdxModuleIdentities"):
        found = rng.choice(value["tdxModuleIdentities"]).get("tcbLevels")
    if not isinstance(found, list) or not found:
        return
    if rng.random() < 0.3:
        _order(found, rng)
    else:
        _level(rng.choice(found[:2]), rng, now)


def first_level(value: Json, rng: Random, now: int) -> None:
    """The level that the platform meets, given another status or advisories."""
    del now
    found = value.get("tcbLevels")
    if isinstance(found, list) and found:
        found[0]["tcbStatus"] = rng.choice(_STATUSES[:9])
        found[0]["advisoryIDs"] = rng.choice(_ADVISORIES[1:5])


def heads(value: Json, rng: Random, now: int) -> None:
    """What the document says that it is."""
    name = rng.choice(
        ("id", "version", "fmspc", "pceId", "tcbType", "tcbEvaluationDataNumber")
    )
    old = str(value.get(name, ""))
    choices: tuple[object, ...] = (
        old.lower(),
        old.upper(),
        rng.choice(_NUMBERS),
        rng.choice(_ODD),
        rng.choice(
            ("SGX", "TDX", "QE", "TD_QE", "QVE", "0000", "0001", "70F06D070001")
        ),
        rng.choice((1, 2, 3, 4)),
    )
    del now
    value[name] = rng.choice(choices)


def dates(value: Json, rng: Random, now: int) -> None:
    """Issue date and next update."""
    value[rng.choice(("issueDate", "nextUpdate"))] = _date(rng, now)


def masks(value: Json, rng: Random, now: int) -> None:
    """Expected values and masks of an enclave or of the TDX module."""
    del now
    places = [value, value.get("tdxModule"), *value.get("tdxModuleIdentities", [])]
    names = (
        "mrsigner",
        "attributes",
        "attributesMask",
        "miscselect",
        "miscselectMask",
        "isvprodid",
        "id",
    )
    place = rng.choice([p for p in places if isinstance(p, dict)])
    name = rng.choice([n for n in names if n in place] or ["id"])
    old = place.get(name)
    if isinstance(old, str) and name != "id" and rng.random() < 0.8:
        try:
            data = bytes.fromhex(old)
        except ValueError:
            data = b"\0"
        spoiled = interesting(rng, len(data), data).hex()
        place[name] = rng.choice((spoiled, spoiled.upper(), spoiled[:-2], old.lower()))
    else:
        place[name] = rng.choice((*_ODD, "TDX_00", "TDX_01", "TDX_02", "TDX_1", 1, 2))


def modules(value: Json, rng: Random, now: int) -> None:
    """The identities of the TDX module, doubled, missing or renamed."""
    del now
    found = value.get("tdxModuleIdentities")
    if not isinstance(found, list):
        value["tdxModuleIdentities"] = rng.choice(([], None, {}))
    elif rng.random() < 0.5 and found:
        _order(found, rng)
    elif found:
        found[0]["id"] = rng.choice(("TDX_01", "tdx_01", "TDX_1", "TDX_001", "TDX_02"))
        twin = json.loads(json.dumps(found[0]))
        twin["id"] = rng.choice(("TDX_01", "tdx_01", "TDX_03"))
        found.append(twin)


def anything(value: Json, rng: Random, now: int) -> None:
    """A member of any object dropped, renamed, or given another type."""
    del now
    nodes: list[Json] = []
    stack: list[object] = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            nodes.append(node)
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    place = rng.choice([n for n in nodes if n] or [value])
    name = rng.choice(sorted(place))
    kind = rng.randrange(4)
    if kind == 0:
        del place[name]
    elif kind == 1:
        place[name] = rng.choice(_ODD)
    elif kind == 2:
        place[name + rng.choice(("", "x", "_"))] = place.pop(name)
    else:
        place["unknown"] = rng.choice(_ODD)


JSON_CHANGES: Final[tuple[tuple[int, JsonChange], ...]] = (
    (6, levels),
    (5, first_level),
    (3, heads),
    (2, dates),
    (4, masks),
    (2, modules),
    (4, anything),
)


def rewritten(rng: Random, text: str) -> str:
    """The same JSON in other words, or nearly."""
    value = json.loads(text)
    kind = rng.randrange(9)
    if kind < 2:
        return json.dumps(value, indent=kind or None, sort_keys=not kind)
    if kind == 2:
        return rng.choice((" ", "\n", "\ufeff")) + text
    if kind == 3:
        return text + rng.choice((" ", "\n", "\0", "x", "{}"))
    if kind == 4:
        return text.replace("tcbStatus", "tcb\\u0053tatus", 1)
    if kind == 5:
        name = rng.choice(sorted(value))
        extra = json.dumps({name: rng.choice((value[name], *_ODD))})
        return text[:-1] + "," + extra[1:]
    if kind == 6:
        return text.replace(":3,", ":3.0,", 1).replace(":17,", ":17e0,", 1)
    if kind == 7:
        return text.replace('"INTEL-SA', '"\\ud83d\\ude00INTEL-SA', 1)
    at = rng.randrange(len(text))
    return text[:at] + rng.choice('{}[]",:0eE.\\n ') + text[at + 1 :]

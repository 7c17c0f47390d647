# SPDX-License-Identifier: Apache-2.0
"""Ways to spoil collateral: signed JSON, chains, CRLs, and the time it is judged at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from fuzz_bytes import (
    P256_ORDER,
    interesting,
    pem_of,
    resigned,
    spoil_bytes,
    spoil_text,
)
from fuzz_scenes import Cast, Draft

from tightseal.model.claims import TcbStatus
from tightseal.model.collateral import IntelCollateral
from tightseal_sim.intel.collateral import CollateralParts, SignedJson, compact
from tightseal_sim.intel.crl import Crl
from tightseal_sim.intel.pki import pem_chain
from tightseal_sim.intel.tcb import iso_time

__all__ = ["COLLATERAL_MUTATORS", "TIME_MUTATORS", "WHOLE_MUTATORS"]

Json = dict[str, Any]
JsonChange = Callable[[Json, Random, int], object]
CollateralMutator = Callable[[CollateralParts, Random, Cast], CollateralParts]

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
_TIMES: Final = (0, 1, -1, 60, -60, 3600, -3600, 86400, -86400, 31_536_000)


def _date(rng: Random, now: int) -> object:
    text = iso_time(now + rng.choice(_TIMES))
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


_JSON_CHANGES: Final[tuple[tuple[int, JsonChange], ...]] = (
    (6, levels),
    (5, first_level),
    (3, heads),
    (2, dates),
    (4, masks),
    (2, modules),
    (4, anything),
)


def _rewritten(rng: Random, text: str) -> str:
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


def signed_json(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """TCB info or QE identity, changed and signed again by the right key."""
    name = rng.choice(("tcb_info", "tcb_info", "qe_identity"))
    signed: SignedJson = getattr(parts, name)
    try:
        if rng.random() < 0.12:
            text = _rewritten(rng, signed.text)
        else:
            value = json.loads(signed.text)
            for _ in range(rng.choice((1, 1, 2))):
                kinds, weights = (
                    [c for _, c in _JSON_CHANGES],
                    [w for w, _ in _JSON_CHANGES],
                )
                rng.choices(kinds, weights)[0](value, rng, cast.bench.now)
            text = compact(value)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError):
        # A document spoiled before can be too strange to be spoiled again.
        text = signed.text[: rng.randrange(len(signed.text) + 1)]
    changed = replace(signed, text=text)
    if name == "tcb_info":
        return replace(parts, tcb_info=changed)
    return replace(parts, qe_identity=changed)


def exchanged(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """A part of other collateral, whole and signed."""
    donor = rng.choice(
        [d.collateral_parts for d in cast.drafts if d.collateral_parts is not None]
    )
    name = rng.choice(("tcb_info", "qe_identity", "root_crl", "pck_crl"))
    return replace(parts, **{name: getattr(donor, name)})


def signer(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """TCB info or QE identity signed by someone else, with some chain."""
    who = rng.choice(cast.signers)
    members = rng.choice(
        (
            (who, cast.bench.intel.root),
            (who, cast.bench.intel.pck_cas["platform"], cast.bench.intel.root),
            (cast.bench.intel.tcb_signing, cast.bench.intel.root),
            (who,),
        )
    )
    name = rng.choice(("tcb_info", "qe_identity"))
    signed = replace(getattr(parts, name), signer=who.key, chain=pem_chain(members))
    return replace(parts, **{name: signed})


def issuer_chain(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """The chain beside a signed text: its words, members, or the leaf's content."""
    name = rng.choice(("tcb_info", "qe_identity"))
    signed: SignedJson = getattr(parts, name)
    intel = cast.bench.intel
    kind = rng.randrange(3)
    if kind == 0:
        chain = spoil_text(rng, signed.chain)
    elif kind == 1:
        pool = [*cast.signers, intel.tcb_signing, intel.root]
        members = [rng.choice(pool) for _ in range(rng.randrange(4))]
        chain = pem_chain([intel.tcb_signing, *members][: rng.choice((1, 2, 3, 5))])
    else:
        leaf = resigned(rng, intel.tcb_signing.der, intel.root.key)
        chain = pem_of(leaf) + pem_chain((intel.root,))
    change: Json = {name: replace(signed, chain=chain)}
    return replace(parts, **change)


_CRL_NUMBERS: Final = (
    None,
    0,
    1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 63,
    1 << 64,
    1 << 159,
    1 << 200,
)


@dataclass(frozen=True)
class RawCrl(Crl):
    """A CRL of any bytes."""

    raw: bytes = b""

    def encode(self) -> bytes:
        """The bytes as they are."""
        return self.raw


def crl(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """A CRL: number, times, list, issuer, or bytes signed again."""
    name = rng.choice(("root_crl", "pck_crl"))
    old: Crl = getattr(parts, name)
    serials = tuple(a.certificate.serial_number for a in cast.signers)
    now = cast.bench.now
    window = (now + rng.choice(_TIMES), now + rng.choice(_TIMES))
    change: Json = rng.choice(
        (
            {"number": rng.choice(_CRL_NUMBERS)},
            {"this_update": window[0]},
            {"next_update": window[1]},
            {"this_update": window[0], "next_update": window[1]},
            {"next_update": None},
            {"authority_key_id": False},
            {"revoked": (rng.choice(serials),)},
            {"revoked": tuple(rng.getrandbits(159) for _ in range(rng.randrange(9)))},
            {"revoked": (0, rng.choice(serials) ^ 1)},
            {"issuer": rng.choice(cast.signers)},
            {},
            {},
        )
    )
    made = replace(old, **change)
    if not change:
        whole = old.encode()
        raw = spoil_bytes(rng, whole)
        if rng.random() < 0.8:
            raw = resigned(rng, whole, old.issuer.key)
        made = RawCrl(old.issuer, old.number, old.this_update, old.next_update, raw=raw)
    spoiled: Json = {name: made}
    return replace(parts, **spoiled)


def chains_beside(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """The chains that need not be there."""
    bench = cast.bench
    own, other = bench.platform.pck_chain, bench.other_platform.pck_chain
    text = rng.choice(
        (own, other, "", spoil_text(rng, own), bench.intel.tcb_signing_chain, "x")
    )
    if rng.random() < 0.5:
        return replace(parts, pck_certificate_chain=text)
    return replace(parts, pck_crl_chain=text)


COLLATERAL_MUTATORS: Final[tuple[tuple[int, CollateralMutator], ...]] = (
    (12, signed_json),
    (2, exchanged),
    (2, signer),
    (3, issuer_chain),
    (4, crl),
    (2, chains_beside),
)


# -- on the whole ----------------------------------------------------------------------

_BYTES: Final = (
    "root_ca_crl",
    "pck_crl",
    "tcb_info_signature",
    "qe_identity_signature",
)
_TEXTS: Final = ("tcb_info", "qe_identity")
_CHAINS: Final = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "qe_identity_issuer_chain",
)


def spoil_member(draft: Draft, rng: Random, cast: Cast) -> None:
    """One member of the collateral, as it came."""
    del cast
    seed = rng.getrandbits(64)

    def edit(given: IntelCollateral) -> IntelCollateral:
        own = Random(seed)
        name = own.choice((*_BYTES, *_TEXTS, *_CHAINS))
        old = getattr(given, name)
        change: Json = {}
        if name in _BYTES:
            change[name] = spoil_bytes(own, old)
        elif name in _CHAINS:
            change[name] = spoil_text(own, old)
        elif _is_json(old):
            change[name] = _rewritten(own, old)
        return replace(given, **change)

    draft.collateral_edits.append(edit)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def second_signature(draft: Draft, rng: Random, cast: Cast) -> None:
    """A signature in its other form, of another length, or out of range."""
    del cast
    seed = rng.getrandbits(64)

    def edit(given: IntelCollateral) -> IntelCollateral:
        own = Random(seed)
        name = own.choice(("tcb_info_signature", "qe_identity_signature"))
        old = getattr(given, name)
        s = (P256_ORDER - int.from_bytes(old[32:64])) % (1 << 256)
        other = old[:32] + s.to_bytes(32)
        choices = (other, other, old + b"\0", b"\0" + old, bytes(64), old[:63], b"")
        change: Json = {name: own.choice(choices)}
        return replace(given, **change)

    draft.collateral_edits.append(edit)


def exchange_whole(draft: Draft, rng: Random, cast: Cast) -> None:
    """All collateral, or a member of it, of another draft."""
    donor = rng.choice(cast.drafts).whole_collateral()
    name = rng.choice((None, *_BYTES, *_TEXTS, *_CHAINS))
    if name is None:
        draft.collateral_edits.append(lambda _: donor)
    else:
        theirs = getattr(donor, name)
        draft.collateral_edits.append(lambda c: replace(c, **{name: theirs}))


WHOLE_MUTATORS: Final = (
    (3, spoil_member),
    (2, second_signature),
    (2, exchange_whole),
)


# -- time ------------------------------------------------------------------------------

_CERTIFICATES_BEGIN: Final = 1_577_836_800
_CERTIFICATES_END: Final = 2_524_607_999


def shift(draft: Draft, rng: Random, cast: Cast) -> None:
    """Seconds, days or years earlier or later."""
    del cast
    draft.now = max(0, draft.now + rng.choice(_TIMES) * rng.choice((1, 1, 7, 30)))


def border(draft: Draft, rng: Random, cast: Cast) -> None:
    """The first and last second of something, and those beside them."""
    midnight = cast.bench.now - cast.bench.now % 86400
    border_at = rng.choice(
        (
            midnight,
            midnight + 30 * 86400,
            _CERTIFICATES_BEGIN,
            _CERTIFICATES_END,
            0,
            1 << 31,
            1 << 32,
        )
    )
    draft.now = max(0, border_at + rng.choice((-1, 0, 1)))


TIME_MUTATORS: Final = ((2, shift), (3, border))

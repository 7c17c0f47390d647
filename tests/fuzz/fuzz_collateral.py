# SPDX-License-Identifier: Apache-2.0
"""Ways to spoil collateral: signed JSON, chains, CRLs, and the time it is judged at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from fuzz_bytes import (
    P256_ORDER,
    pem_of,
    resigned,
    spoil_bytes,
    spoil_text,
)
from fuzz_json import JSON_CHANGES, TIMES, Json, rewritten
from fuzz_scenes import Cast, Draft

from tightseal.model.collateral import IntelCollateral
from tightseal_sim.intel.collateral import CollateralParts, SignedJson, compact
from tightseal_sim.intel.crl import Crl
from tightseal_sim.intel.pki import pem_chain

__all__ = ["COLLATERAL_MUTATORS", "TIME_MUTATORS", "WHOLE_MUTATORS"]

CollateralMutator = Callable[[CollateralParts, Random, Cast], CollateralParts]


def signed_json(parts: CollateralParts, rng: Random, cast: Cast) -> CollateralParts:
    """TCB info or QE identity, changed and signed again by the right key."""
    name = rng.choice(("tcb_info", "tcb_info", "qe_identity"))
    signed: SignedJson = getattr(parts, name)
    try:
        if rng.random() < 0.12:
            text = rewritten(rng, signed.text)
        else:
            value = json.loads(signed.text)
            for _ in range(rng.choice((1, 1, 2))):
                kinds, weights = (
                    [c for _, c in JSON_CHANGES],
                    [w for w, _ in JSON_CHANGES],
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
    window = (now + rng.choice(TIMES), now + rng.choice(TIMES))
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
            change[name] = rewritten(own, old)
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
    draft.now = max(0, draft.now + rng.choice(TIMES) * rng.choice((1, 1, 7, 30)))


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

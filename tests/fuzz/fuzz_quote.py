# SPDX-License-Identifier: Apache-2.0
"""Ways to spoil a quote: in its parts before signing, and as bytes afterwards."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from fuzz_bytes import (
    P256_ORDER,
    interesting,
    pem_of,
    resigned,
    spoil_bytes,
    spoil_text,
)
from fuzz_scenes import Cast, Draft

from tightseal.evidence.intel.layout import SGX_FIELDS, TD_FIELDS
from tightseal_sim.intel import der
from tightseal_sim.intel.pki import (
    Authority,
    ConfigurationFlags,
    PckFields,
    PlatformTcb,
    issue,
    pem_chain,
)
from tightseal_sim.intel.quote import QuoteParts, assemble

__all__ = ["PART_MUTATORS", "QUOTE_MUTATORS", "seams"]

PartMutator = Callable[[QuoteParts, Random, Cast], QuoteParts]
_TD_BITS: Final = (0, 1, 4, 5, 6, 16, 17, 18, 22, 23, 27, 28, 29, 30, 31, 32, 62, 63)
_DETERMINISTIC: Final = True


def _is_sgx(parts: QuoteParts) -> bool:
    return parts.header.version == 3


def body_bytes(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """Bytes of the report body, of the same length."""
    del cast
    body = bytearray(parts.body)
    for _ in range(rng.choice((1, 1, 2, 5)) if body else 0):
        body[rng.randrange(len(body))] = interesting(rng, 1)[0]
    return replace(parts, body=bytes(body))


def body_field(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """One named field of the report body."""
    del cast
    table = SGX_FIELDS if _is_sgx(parts) else TD_FIELDS
    name = rng.choice(sorted(table))
    place = table[name]
    if place.stop > len(parts.body):
        return parts
    body = bytearray(parts.body)
    body[place] = interesting(rng, place.stop - place.start, bytes(body[place]))
    return replace(parts, body=bytes(body))


def attributes(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """One bit of the TD's or the enclave's attributes."""
    del cast
    at = SGX_FIELDS["attributes"].start
    bit = rng.randrange(128)
    if not _is_sgx(parts):
        at, bit = TD_FIELDS["td_attributes"].start, rng.choice(_TD_BITS)
    body = bytearray(parts.body)
    if at + 16 > len(body):
        return parts
    body[at + bit // 8] ^= 1 << bit % 8
    return replace(parts, body=bytes(body))


def module_svn(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """The SVNs of the TDX module, at launch or now."""
    del cast
    if _is_sgx(parts) or len(parts.body) < 16:
        return parts
    places = [TD_FIELDS["tee_tcb_svn"].start]
    if len(parts.body) >= TD_FIELDS["tee_tcb_svn2"].stop:
        places.append(TD_FIELDS["tee_tcb_svn2"].start)
    body = bytearray(parts.body)
    values = (0, 1, 2, 3, 4, 5, 6, 7, 8, 255)
    for _ in range(rng.choice((1, 2))):
        body[rng.choice(places) + rng.choice((0, 1, 2, 3))] = rng.choice(values)
    return replace(parts, body=bytes(body))


def header(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """One field of the header."""
    del cast
    vendor = bytearray(parts.header.vendor)
    vendor[rng.randrange(16)] ^= 1 << rng.randrange(8)
    change: dict[str, Any] = rng.choice(
        (
            {"version": rng.choice((0, 1, 2, 3, 4, 5, 6, 0xFFFF))},
            {"tee_type": rng.choice((0, 1, 0x80, 0x81, 0x82, 0xFFFFFFFF))},
            {"key_type": rng.choice((0, 1, 2, 3, 4, 0xFFFF))},
            {"qe_svn": rng.randrange(0x10000)},
            {"pce_svn": rng.randrange(0x10000)},
            {"vendor": bytes(vendor)},
            {"user_data": interesting(rng, 20)},
        )
    )
    return replace(parts, header=replace(parts.header, **change))


def body_type(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """Kind and length of the report body."""
    del cast
    length = rng.choice((0, 383, 384, 584, 585, 647, 648, 885, 886, len(parts.body)))
    body = parts.body[:length].ljust(length, b"\0")
    kind = rng.choice((None, 0, 1, 2, 3, 4, 5, 0xFFFF, parts.body_type))
    version = rng.choice((3, 4, 5, parts.header.version))
    changed = replace(parts.header, version=version)
    return replace(parts, header=changed, body=body, body_type=kind)


def quoting_enclave(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """One field of the quoting enclave's report, signed again by the PCK."""
    del cast
    qe = parts.qe
    signer = bytearray(qe.mr_signer)
    signer[rng.randrange(32)] ^= 1
    change: dict[str, Any] = rng.choice(
        (
            {"flags": qe.flags ^ 1 << rng.randrange(64)},
            {"xfrm": qe.xfrm ^ 1 << rng.randrange(64)},
            {"misc_select": 1 << rng.randrange(32)},
            {"isv_prod_id": rng.choice((0, 1, 2, 3, 0xFFFF))},
            {"isv_svn": rng.choice((0, 1, 2, 5, 6, 7, 8, 9, 0xFFFF))},
            {"mr_signer": bytes(signer)},
            {"mr_enclave": interesting(rng, 32)},
            {"cpu_svn": interesting(rng, 16)},
            {"config_svn": rng.randrange(0x10000)},
        )
    )
    return replace(parts, qe=replace(qe, **change))


def authentication_data(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """QE authentication data of any length."""
    del cast
    length = rng.choice((0, 1, 31, 32, 32, 33, 64, 1000, rng.randrange(200)))
    return replace(parts, auth_data=rng.randbytes(length))


def report_data_tail(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """The second half of the QE's report data."""
    del cast
    return replace(parts, qe_data_tail=interesting(rng, 32))


def certification_type(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """The type of the certification data."""
    del cast
    return replace(parts, pck_cert_type=rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 0xFFFF)))


def keys(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """Signed by someone else, whose key is bound or not."""
    other = rng.choice(cast.signers).key
    change: dict[str, Any] = rng.choice(
        (
            {"attestation_key": other},
            {"attestation_key": other, "bound_key": parts.attestation_key},
            {"bound_key": other},
            {"qe_signer": other},
        )
    )
    return replace(parts, **change)


def chain_text(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """The text of the PCK chain, which no signature covers."""
    del cast
    return replace(parts, chain=spoil_text(rng, parts.chain))


def chain_members(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """Other certificates in the chain, in another order or number."""
    intel = cast.bench.intel
    own = Authority(parts.qe_signer, cast.bench.platform.pck.certificate)
    pool = (own, *cast.signers)
    usual = [own, intel.pck_cas["platform"], intel.root]
    at = rng.randrange(3)
    chain = rng.choice(
        (
            usual[::-1],
            usual[:at] + usual[at + 1 :],
            [*usual[:at], rng.choice(pool), *usual[at + 1 :]],
            [*usual[: at + 1], rng.choice(pool), *usual[at + 1 :]],
            [rng.choice(pool) for _ in range(rng.randrange(6))],
            [*usual, *usual],
        )
    )
    return replace(parts, chain=pem_chain(chain))


@dataclass(frozen=True)
class RawExtension(PckFields):
    """An SGX extension of any bytes."""

    raw: bytes = b""

    def extension(self) -> bytes:
        """The bytes as they are."""
        return self.raw


def _leaf(parts: QuoteParts, cast: Cast, fields: PckFields | None) -> QuoteParts:
    intel = cast.bench.intel
    good = cast.bench.platform.pck_fields
    request = replace(intel.pck_request("fuzz-leaf", good), pck=fields)
    leaf = issue(intel.pck_cas["platform"], request)
    chain = intel.pck_chain(leaf, "platform")
    return replace(parts, qe_signer=leaf.key, chain=chain)


def pck_fields(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """A PCK certificate that says something else, by the right CA."""
    fields = cast.bench.platform.pck_fields
    components = list(fields.tcb.components)
    components[rng.randrange(16)] = rng.choice((0, 1, 2, 3, 4, 127, 128, 255))
    svn = rng.choice((0, 4, 5, 6, 10, 11, 12, 127, 128, 255, 256, 0xFFFF, 0x10000))
    flags = [rng.random() < 0.5 for _ in range(3)]
    change: dict[str, Any] = rng.choice(
        (
            {"tcb": PlatformTcb(tuple(components), fields.tcb.pcesvn)},
            {"tcb": PlatformTcb(tuple(components), svn)},
            {"tcb": PlatformTcb(fields.tcb.components, svn)},
            {"ppid": bytes(16)},
            {"ppid": interesting(rng, rng.choice((0, 15, 16, 16, 17)))},
            {"pceid": interesting(rng, rng.choice((1, 2, 2, 3)))},
            {"fmspc": interesting(rng, rng.choice((5, 6, 6, 7)))},
            {"sgx_type": rng.choice((0, 1, 2, 3, 127, 128, 255, 256))},
            {"piid": None},
            {"piid": bytes(16)},
            {"flags": None},
            {"flags": ConfigurationFlags(*flags)},
        )
    )
    return _leaf(parts, cast, replace(fields, **change))


def pck_extension(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """An SGX extension of other bytes, certified by the right CA."""
    fields = cast.bench.platform.pck_fields
    raw = spoil_bytes(rng, fields.extension())
    if rng.random() < 0.2:
        raw = _shuffled(rng, fields)
    spoiled = RawExtension(fields.ppid, fields.tcb, fields.pceid, fields.fmspc, 1)
    return _leaf(parts, cast, replace(spoiled, raw=raw))


def _shuffled(rng: Random, fields: PckFields) -> bytes:
    """The extension's items in another order, one doubled or missing."""
    content = fields.extension()
    at = 2 + (content[1] & 0x7F if content[1] & 0x80 else 0)
    items = []
    while at < len(content):
        size = content[at + 1]
        skip = 2
        if size & 0x80:
            skip += size & 0x7F
            size = int.from_bytes(content[at + 2 : at + skip])
        items.append(content[at : at + skip + size])
        at += skip + size
    rng.shuffle(items)
    if rng.random() < 0.5:
        items.append(rng.choice(items))
    elif rng.random() < 0.5:
        items.pop()
    return der.sequence(*items)


def certificate_content(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """Bytes inside a certificate's signed part, signed again by its issuer."""
    intel = cast.bench.intel
    leaf, ca = cast.bench.platform.pck, intel.pck_cas["platform"]
    if rng.random() < 0.6:
        pems = [pem_of(resigned(rng, leaf.der, ca.key)), pem_chain((ca, intel.root))]
    else:
        pems = [
            pem_chain((leaf,)),
            pem_of(resigned(rng, ca.der, intel.root.key)),
            pem_chain((intel.root,)),
        ]
    return replace(parts, chain="".join(pems))


def certificate_form(parts: QuoteParts, rng: Random, cast: Cast) -> QuoteParts:
    """A PCK certificate with other extensions, names or times, by the right CA."""
    intel, bench = cast.bench.intel, cast.bench
    ca = intel.pck_cas["platform"]
    good = bench.platform.pck.certificate
    moment = datetime.fromtimestamp(bench.now, UTC)
    shift = timedelta(seconds=rng.choice((-2, -1, 0, 1, 2)))
    begins, ends = good.not_valid_before_utc, good.not_valid_after_utc
    if rng.random() < 0.5:
        begins, ends = rng.choice(((moment + shift, ends), (begins, moment + shift)))
    drop = rng.randrange(len(good.extensions) + 3)
    builder = (
        x509.CertificateBuilder()
        .subject_name(rng.choice((good.subject, good.subject, ca.certificate.subject)))
        .issuer_name(good.issuer)
        .public_key(parts.qe_signer.public_key())
        .serial_number(rng.choice((1, good.serial_number, (1 << 159) - 1)))
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for at, extension in enumerate(good.extensions):
        critical = extension.critical ^ (rng.random() < 0.08)
        if at != drop:
            builder = builder.add_extension(extension.value, critical=critical)
    if rng.random() < 0.2:
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        builder = builder.add_extension(strange, critical=rng.random() < 0.5)
    made = builder.sign(ca.key, SHA256(), ecdsa_deterministic=_DETERMINISTIC)
    pem = made.public_bytes(Encoding.PEM).decode()
    return replace(parts, chain=pem + pem_chain((ca, intel.root)))


PART_MUTATORS: Final[tuple[tuple[int, PartMutator], ...]] = (
    (3, body_bytes),
    (5, body_field),
    (6, attributes),
    (6, module_svn),
    (3, header),
    (2, body_type),
    (6, quoting_enclave),
    (2, authentication_data),
    (1, report_data_tail),
    (1, certification_type),
    (2, keys),
    (3, chain_text),
    (3, chain_members),
    (6, pck_fields),
    (4, pck_extension),
    (3, certificate_content),
    (4, certificate_form),
)


# -- as bytes --------------------------------------------------------------------------


def seams(quote: bytes) -> list[int]:
    """Offsets at which the quote's fields begin, as far as it can be followed."""
    found = [0, 2, 4, 8, 10, 12, 28, 48]
    if len(quote) < 64:
        return [at for at in found if at <= len(quote)]
    version = quote[0]
    at, body = 48, 384 if version == 3 else 584
    if version == 5:
        (body,) = struct.unpack_from("<I", quote, 50)
        found += [50, 54]
        at = 54
    at += min(body, 4096)
    found += [at, at + 4, at + 68, at + 132]
    at += 132
    if version != 3:
        found += [at + 2, at + 6]
        at += 6
    found += [at + 384, at + 448, at + 450]
    at += 448
    if at + 2 <= len(quote):
        (auth,) = struct.unpack_from("<H", quote, at)
        at += 2 + auth
        found += [at, at + 2, at + 6]
    return [x for x in found if x <= len(quote)] + [len(quote)]


QuoteMutator = Callable[[Draft, Random, Cast], None]


def flip_anywhere(draft: Draft, rng: Random, cast: Cast) -> None:
    """Bytes anywhere, most of all near the seams."""
    del cast
    seed = rng.getrandbits(64)

    def edit(quote: bytes) -> bytes:
        own = Random(seed)
        if not quote:
            return quote
        data = bytearray(quote)
        for _ in range(own.choice((1, 1, 1, 2, 4))):
            at = own.randrange(len(data))
            if own.random() < 0.6:
                at = min(own.choice(seams(quote)) + own.randrange(8), len(data) - 1)
            data[at] = interesting(own, 1, bytes(data[at : at + 1]))[0]
        return bytes(data)

    draft.quote_edits.append(edit)


def lengths(draft: Draft, rng: Random, cast: Cast) -> None:
    """A length field that says something else."""
    del cast
    seed = rng.getrandbits(64)

    def edit(quote: bytes) -> bytes:
        own = Random(seed)
        at = own.choice(seams(quote))
        if at + 4 > len(quote):
            return quote
        (value,) = struct.unpack_from("<I", quote, at)
        by = own.choice((-10, -4, -2, -1, 1, 2, 4, 10, 0x10000))
        value = own.choice((value + by, value + by, 0, 0xFFFFFFFF, 0x7FFFFFFF))
        packed = struct.pack("<I", value & 0xFFFFFFFF)
        return quote[:at] + packed + quote[at + 4 :]

    draft.quote_edits.append(edit)


def ends(draft: Draft, rng: Random, cast: Cast) -> None:
    """Cut short, or followed by something."""
    del cast
    seed = rng.getrandbits(64)

    def edit(quote: bytes) -> bytes:
        own = Random(seed)
        kind = own.randrange(5)
        if kind == 0:
            return quote[: own.randrange(len(quote) + 1)]
        if kind == 1:
            return quote[: own.choice(seams(quote))]
        if kind == 2:
            return quote + bytes(own.randrange(5000))
        if kind == 3:
            return quote + own.randbytes(own.randrange(1, 64))
        return quote + bytes(own.randrange(100)) + b"\1"

    draft.quote_edits.append(edit)


def pieces(draft: Draft, rng: Random, cast: Cast) -> None:
    """A piece inserted, removed or doubled."""
    del cast
    seed = rng.getrandbits(64)
    draft.quote_edits.append(lambda quote: spoil_bytes(Random(seed), quote))


def splice(draft: Draft, rng: Random, cast: Cast) -> None:
    """A section of another quote in the place of this one's."""
    donor = rng.choice([d for d in cast.drafts if d.parts is not None])
    assert donor.parts is not None
    other = assemble(donor.parts)
    seed = rng.getrandbits(64)

    def edit(quote: bytes) -> bytes:
        own = Random(seed)
        mine, theirs = seams(quote), seams(other)
        if len(mine) < 2:
            return quote
        a, b = sorted(own.sample(range(min(len(mine), len(theirs))), 2))
        return quote[: mine[a]] + other[theirs[a] : theirs[b]] + quote[mine[b] :]

    draft.quote_edits.append(edit)


def second_signature(draft: Draft, rng: Random, cast: Cast) -> None:
    """A signature in its other form (n - s), or with a scalar out of range."""
    del cast
    seed = rng.getrandbits(64)

    def edit(quote: bytes) -> bytes:
        own = Random(seed)
        at = own.choice([x for x in seams(quote) if x + 64 <= len(quote)] or [0])
        s = int.from_bytes(quote[at + 32 : at + 64])
        s = own.choice(((P256_ORDER - s) % (1 << 256), 0, P256_ORDER, s))
        return quote[: at + 32] + s.to_bytes(32) + quote[at + 64 :]

    draft.quote_edits.append(edit)


QUOTE_MUTATORS: Final[tuple[tuple[int, QuoteMutator], ...]] = (
    (6, flip_anywhere),
    (3, lengths),
    (3, ends),
    (2, pieces),
    (4, splice),
    (3, second_signature),
)

# SPDX-License-Identifier: Apache-2.0
"""Certificates that carry evidence, written byte by byte, so that they can lie."""

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import cbor2
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tightseal_sim.intel import der
from tightseal_sim.intel.eventlog import Event

CCC = "2.23.133.5.4.9"
GRAMINE = "0.6.9.42.840.113741.1337.6"
DSTACK = "1.3.6.1.4.1.62397.1."
ECDSA_SHA256 = "1.2.840.10045.4.3.2"
NULL = b"\x05\x00"
NOW = 1_790_000_000


@dataclass(frozen=True)
class Key:
    """A P-256 key, the same in every run."""

    number: int = 1
    private: ec.EllipticCurvePrivateKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        scalar = int.from_bytes(hashlib.sha256(b"key %d" % self.number).digest()) >> 1
        private = ec.derive_private_key(scalar, ec.SECP256R1())
        object.__setattr__(self, "private", private)

    @property
    def spki(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    def pem(self) -> bytes:
        return self.private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )


def certificate(
    extensions: Sequence[tuple[str, bytes]],
    *,
    key: Key | None = None,
    signer: Key | None = None,
    not_before: int = NOW - 3600,
    not_after: int = NOW + 3600,
    parameters: bytes = b"",
) -> bytes:
    """A DER certificate with these extensions, in this order, twice where told so."""
    key = key or Key()
    algorithm = der.sequence(der.oid(ECDSA_SHA256), parameters)
    rows = [der.sequence(der.oid(n), der.octet_string(v)) for n, v in extensions]
    tbs = der.sequence(
        der.explicit(0, der.integer(2)),
        der.integer(1),
        algorithm,
        der.sequence(),
        der.sequence(der.utc_time(not_before), der.utc_time(not_after)),
        der.sequence(),
        key.spki,
        der.explicit(3, der.sequence(*rows)),
    )
    signature = (signer or key).private.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der.sequence(tbs, algorithm, der.bit_string(signature))


def claims_buffer(spki: bytes, *, name: str = "sha256", number: int = 1) -> bytes:
    digest = hashlib.new(name, spki).digest()
    return cbor2.dumps({"pubkey-hash": cbor2.dumps([number, digest])})


def ccc_report_data(buffer: bytes) -> bytes:
    return hashlib.sha256(buffer).digest() + bytes(32)


def tagged(quote: bytes, buffer: bytes, *, tag: int = 60000) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, [quote, buffer]))


def dstack_report_data(spki: bytes) -> bytes:
    return hashlib.sha512(b"ratls-cert:" + spki).digest()


def wrapped(content: bytes) -> bytes:
    """As dstack writes contents: one more OCTET STRING."""
    return der.octet_string(content)


def packed(log: bytes) -> bytes:
    return b"ELGZv1" + gzip.compress(log, mtime=0)


def compact(value: int) -> bytes:
    """A compact integer of SCALE, in its shortest form."""
    for mode, size in ((0, 1), (1, 2), (2, 4)):
        if value < 1 << (8 * size - 2):
            return (value << 2 | mode).to_bytes(size, "little")
    raise ValueError(value)


def vector(content: bytes) -> bytes:
    return compact(len(content)) + content


def attestation_v0(
    quote: bytes, events: Sequence[Event], *, platform: int = 0
) -> bytes:
    """Version 0 as SCALE writes it; platform 3 is an SNP guest's."""
    parts = [bytes([0, platform]), vector(quote), compact(len(events))]
    for event in events:
        if platform == 0:
            parts.append(event.rtmr.to_bytes(4, "little"))
            parts.append(event.event_type.to_bytes(4, "little"))
            parts.append(vector(event.digest))
            parts.append(vector(event.name.encode()))
        parts.append(vector(event.payload))
    if platform:
        parts.append(vector(b"{}"))
    runtime = [event for event in events if event.rtmr == 3]
    parts.append(compact(len(runtime)))
    parts += [vector(e.name.encode()) + vector(e.payload) for e in runtime]
    return b"".join([*parts, bytes(64), vector(b"{}")])


def attestation(
    quote: bytes, events: Sequence[Event], *, version: int = 1, kind: str = "tdx"
) -> bytes:
    """Version 1 as serde writes it: quotes as arrays of integers, the rest as bytes."""
    rows = [
        {
            "imr": event.rtmr,
            "event_type": event.event_type,
            "digest": event.digest,
            "event": event.name,
            "event_payload": event.payload,
        }
        for event in events
    ]
    return msgspec.msgpack.encode(
        {
            "version": version,
            "platform": {
                "kind": kind,
                "data": {"quote": list(quote), "event_log": rows},
            },
            "stack": {
                "kind": "dstack",
                "data": {
                    "report_data": list(bytes(64)),
                    "runtime_events": [],
                    "config": "{}",
                },
            },
        }
    )

# SPDX-License-Identifier: Apache-2.0
"""Texts and bytes of the audit log; the first byte says which."""

from tightseal.audit.checkpoint import Checkpoint, sign_checkpoint
from tightseal.audit.entry import entry_bytes, parse_entry
from tightseal.audit.merkle import EMPTY, inclusion_proof, leaf_hash
from tightseal.audit.note import (
    NoteKey,
    NoteSigner,
    SignatureType,
    parse_note,
    parse_signature_lines,
)
from tightseal.audit.proof import LogProof
from tightseal.audit.tiles import Tile, decode_bundle, encode_bundle
from tightseal.audit.witness import Submission

LOG = NoteSigner("log.example", SignatureType.ED25519, b"\1" * 32)
WITNESS = NoteSigner("witness.example", SignatureType.COSIGNATURE, b"\2" * 32)


def note(data: bytes) -> None:
    found = parse_note(data)
    assert parse_note(found.encode()) == found
    found.verified([])


def lines(data: bytes) -> None:
    found = parse_signature_lines(data)
    assert "".join(f"{line}\n" for line in found).encode() == data


def checkpoint(data: bytes) -> None:
    found = Checkpoint.parse(data.decode("utf-8", "replace"))
    assert Checkpoint.parse(found.text()) == found


def key(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert str(NoteKey.parse(text)) == text


def proof(data: bytes) -> None:
    found = LogProof.parse(data)
    assert LogProof.parse(found.encode()) == found


def submission(data: bytes) -> None:
    assert Submission.parse(data).encode() == data


def bundle(data: bytes) -> None:
    count = data[0] if data else 0
    entries = decode_bundle(data[1:], count)
    assert encode_bundle(entries) == data[1:]


def path(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert Tile.parse(text).path == text


def entry(data: bytes) -> None:
    parse_entry(data)


KINDS = (note, lines, checkpoint, key, proof, submission, bundle, path, entry)


def seeds() -> list[bytes]:
    entries = [b"one", b"two", b"three"]
    tree, nodes = EMPTY.extended(map(leaf_hash, entries))
    head = Checkpoint(LOG.key.name, tree.size, tree.root())
    signed = sign_checkpoint(head, LOG).encode()
    way = inclusion_proof(1, 3, lambda level, at: nodes[level, at])
    cosigned = WITNESS.sign(head.text(), now=1_800_000_000)
    row = (b"i" * 16, 1_800_000_000, 1, "v1", "granted", b"\xa0")
    samples = (
        signed,
        f"{cosigned}\n".encode(),
        head.text().encode(),
        str(WITNESS.key).encode(),
        LogProof(1, way, signed, extra=b"two").encode(),
        Submission(2, way, signed).encode(),
        b"\3" + encode_bundle(entries),
        Tile(0, 1_234_067, 7).path.encode(),
        entry_bytes(row),
    )
    return [bytes([at]) + sample for at, sample in enumerate(samples)]


def one(data: bytes) -> None:
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    kind(data[1:])

# SPDX-License-Identifier: Apache-2.0
"""A reader of tiled logs, written from the text of the specifications alone.

signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles and tlog-proof of C2SP, and
the hashes of RFC 6962. It shares no line with the program it reads after.
"""

import base64
import hashlib
import struct
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class BadLogError(Exception):
    pass


def need(holds: bool, what: str) -> None:  # noqa: FBT001
    if not holds:
        raise BadLogError(what)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# signed-note: verifier keys


def read_vkey(vkey: str) -> tuple[str, bytes, int, bytes]:
    name, key_id, material = vkey.split("+", 2)
    raw = base64.b64decode(material, validate=True)
    computed = sha256(name.encode() + b"\n" + raw)[:4]
    need(computed.hex() == key_id, "key id")
    return name, computed, raw[0], raw[1:]


# signed-note and tlog-cosignature: signatures


def open_note(note: bytes, vkeys: Sequence[str]) -> tuple[str, dict[str, int]]:
    """The text, and the time that each key which signed it states (0 for none)."""
    text = note.decode()
    body, blank, rest = text.rpartition("\n\n")
    need(bool(blank) and rest.endswith("\n"), "form of the note")
    body += "\n"
    signed = {}
    for line in rest[:-1].split("\n"):
        dash, name, encoded = line.split(" ")
        need(dash == "\u2014", "em dash")
        blob = base64.b64decode(encoded, validate=True)
        for vkey in vkeys:
            known, key_id, kind, public = read_vkey(vkey)
            if (known, key_id) != (name, blob[:4]):
                continue
            verifier = Ed25519PublicKey.from_public_bytes(public)
            if kind == 1:
                verifier.verify(blob[4:], body.encode())
                signed[vkey] = 0
            elif kind == 4:
                (time,) = struct.unpack(">Q", blob[4:12])
                message = f"cosignature/v1\ntime {time}\n{body}"
                verifier.verify(blob[12:], message.encode())
                signed[vkey] = time
    return body, signed


# tlog-checkpoint


def read_checkpoint(
    note: bytes, log: str, witnesses: Sequence[str] = ()
) -> tuple[int, bytes]:
    body, signed = open_note(note, [log, *witnesses])
    for vkey in (log, *witnesses):
        need(vkey in signed, f"not signed by {vkey}")
    lines = body.split("\n")
    need(lines[0] == read_vkey(log)[0], "origin")
    need(str(int(lines[1])) == lines[1], "size")
    return int(lines[1]), base64.b64decode(lines[2], validate=True)


# RFC 6962, section 2.1


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k << 1 < len(leaves):
        k <<= 1
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:]))


def root_by_path(leaf: bytes, m: int, n: int, path: list[bytes]) -> bytes:
    """Turns the definition of PATH(m, D[n]) around."""
    if n == 1:
        need(not path and m == 0, "length of the path")
        return leaf
    need(bool(path), "length of the path")
    k = 1
    while k << 1 < n:
        k <<= 1
    if m < k:
        return sha256(b"\x01" + root_by_path(leaf, m, k, path[:-1]) + path[-1])
    return sha256(b"\x01" + path[-1] + root_by_path(leaf, m - k, n - k, path[:-1]))


# tlog-tiles


def tile_path(level: str, index: int, width: int) -> str:
    digits = f"{index:0{-(-len(str(index)) // 3) * 3}d}"
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([f"x{p}" for p in parts[:-1]] + parts[-1:])
    return f"tile/{level}/{name}" + (f".p/{width}" if width != 256 else "")


def in_folder(folder: Path) -> Callable[[str], bytes]:
    return lambda path: (folder / path).read_bytes()


def at_address(prefix: str) -> Callable[[str], bytes]:
    def get(path: str) -> bytes:
        # No proxy of this machine, and no header that asks for compression.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{prefix}/{path}", timeout=30) as answer:
            data: bytes = answer.read()
        return data

    return get


def read_log(
    read: Callable[[str], bytes], log: str, witnesses: Sequence[str] = ()
) -> list[bytes]:
    """Every entry, after all tiles of the checkpoint's tree were recomputed.

    Args:
        read: what lies under a path of tlog-tiles.
        log: verifier key of the log.
        witnesses: verifier keys that must have signed too.
    """
    note = read("checkpoint")
    size, root = read_checkpoint(note, log, witnesses)
    entries: list[bytes] = []
    for index in range((size + 255) // 256):
        width = min(256, size - index * 256)
        data = read(tile_path("entries", index, width))
        for _ in range(width):
            (length,) = struct.unpack(">H", data[:2])
            need(len(data) >= 2 + length, "bundle ends early")
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
        need(not data, "bundle goes on")
    leaves = [sha256(b"\x00" + entry) for entry in entries]
    level, span = 0, 1
    while size // span:
        count = size // span
        for index in range((count + 255) // 256):
            width = min(256, count - index * 256)
            data = read(tile_path(str(level), index, width))
            expected = b"".join(
                mth(leaves[at * span : (at + 1) * span])
                for at in range(index * 256, index * 256 + width)
            )
            need(data == expected, f"tile {level}/{index}")
        level, span = level + 1, span * 256
    need(mth(leaves) == root, "root")
    return entries


# tlog-proof


def read_proof(
    proof: bytes, entry: bytes, log: str, witnesses: Sequence[str] = ()
) -> int:
    """The index of an entry that the proof shows to be in the log."""
    head, _, note = proof.partition(b"\n\n")
    lines = head.decode().split("\n")
    need(lines.pop(0) == "c2sp.org/tlog-proof@v1", "first line")
    if lines[0].startswith("extra "):
        base64.b64decode(lines.pop(0)[6:], validate=True)
    need(lines[0].startswith("index "), "index")
    index = int(lines.pop(0)[6:])
    path = [base64.b64decode(line, validate=True) for line in lines]
    size, root = read_checkpoint(note, log, witnesses)
    need(index < size, "index")
    leaf = sha256(b"\x00" + entry)
    need(root_by_path(leaf, index, size, path) == root, "path")
    return index

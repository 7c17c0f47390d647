# SPDX-License-Identifier: Apache-2.0
"""The authenticated map of one kind: which records are live, under one root hash.

A Merkle radix tree with sixteen branches over the indexes, read as nibbles. A branch
is empty, one leaf (index and digest), or the hash of a deeper node; a node below the
root holds at least two leaves, so one set of leaves has one root, whatever its history.
Indexes are keyed hashes, so the tree is balanced: about log16(n) nodes a path.

A node's body is two 16-bit bitmaps, big-endian, of the branches that are leaves and of
those that are nodes, then per branch in order 64 or 32 bytes. Its hash is SHA-256 over
``[kind, prefix, body]`` under the label ``STATE_NODE``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tightseal.model.canonical import labelled
from tightseal.model.labels import Label
from tightseal.state.faults import tampered
from tightseal.state.rows import INDEX_BYTES

__all__ = ["MAX_DEPTH", "KindMap", "Leaf", "build_root", "depth_hint", "prefixes"]

MAX_DEPTH: Final = 32
"""Longest prefix of a node; two names never share 128 bits of their indexes."""

_BRANCHES: Final = 16
_HASH_BYTES: Final = 32
_BITMAPS_BYTES: Final = 4
_SPARE_LEVELS: Final = 2


@dataclass(frozen=True, slots=True)
class Leaf:
    """A live record: its index, and the digest of its row."""

    index: bytes
    digest: bytes


_Branch = Leaf | bytes | None
_Load = Callable[[list[bytes]], Mapping[bytes, bytes]]
_DIRTY: Final = b""


def _nibble(index: bytes, depth: int) -> int:
    byte = index[depth >> 1]
    return byte & 15 if depth & 1 else byte >> 4


def prefixes(index: bytes, depth: int) -> list[bytes]:
    """The prefixes of nodes on the way to an index: a byte a nibble, root first."""
    path = bytes(_nibble(index, i) for i in range(depth))
    return [path[:i] for i in range(depth + 1)]


def depth_hint(count: int) -> int:
    """How deep a path of a map with ``count`` leaves most likely goes."""
    return min((max(count, 1).bit_length() + 3) // 4 + _SPARE_LEVELS, MAX_DEPTH)


class KindMap:
    """A map that was opened at a root; nodes are checked as they are walked.

    Args:
        kind: the kind of its records.
        root: hash of the root node; ``None`` where the map is empty.
        load: the stored bodies of nodes, by prefix; missing ones left out.
    """

    __slots__ = ("_dirty", "_gone", "_kind", "_load", "_nodes", "_raw", "root")

    def __init__(self, kind: str, root: bytes | None, load: _Load) -> None:
        self._kind = kind
        self._load = load
        self._raw: dict[bytes, bytes] = {}
        self._nodes: dict[bytes, list[_Branch]] = {}
        self._dirty: set[bytes] = set()
        self._gone: set[bytes] = set()
        self.root = root
        if root is None:
            self._nodes[b""] = [None] * _BRANCHES

    def prefetched(self, bodies: Mapping[bytes, bytes]) -> None:
        """Take bodies that were fetched already; they are checked when walked."""
        self._raw.update(bodies)

    def find(self, index: bytes) -> bytes | None:
        """The digest of a live record, or ``None`` where the map holds none.

        Raises:
            ServiceError: ``state_tampered``, where a node is missing or changed.
        """
        leaf = self._walk(index)[1]
        return leaf.digest if leaf is not None and leaf.index == index else None

    def put(self, index: bytes, digest: bytes) -> None:
        """Set the digest of an index; raises as ``find``."""
        prefix, found = self._walk(index)
        leaf = Leaf(index, digest)
        while found is not None and found.index != index:
            # Two indexes meet: the leaf that was here moves down until they part.
            prefix += bytes([_nibble(index, len(prefix))])
            if len(prefix) > MAX_DEPTH:
                raise tampered(f"{self._kind}: the map is deeper than {MAX_DEPTH}")
            other = _nibble(found.index, len(prefix))
            self._nodes[prefix] = [None] * _BRANCHES
            self._nodes[prefix][other] = found
            self._gone.discard(prefix)
            if other != _nibble(index, len(prefix)):
                found = None
        self._nodes[prefix][_nibble(index, len(prefix))] = leaf
        self._touch(prefix)

    def remove(self, index: bytes) -> None:
        """Drop an index that is there; raises as ``find``."""
        prefix, found = self._walk(index)
        if found is None or found.index != index:
            raise tampered(f"{self._kind}: removing what the map does not hold")
        self._nodes[prefix][_nibble(index, len(prefix))] = None
        while prefix:
            left = [branch for branch in self._nodes[prefix] if branch is not None]
            if len(left) != 1 or not isinstance(left[0], Leaf):
                break
            del self._nodes[prefix]
            self._dirty.discard(prefix)
            self._gone.add(prefix)
            prefix, branch = prefix[:-1], prefix[-1]
            self._nodes[prefix][branch] = left[0]
        self._touch(prefix)

    def finish(self) -> dict[bytes, bytes | None]:
        """Hash what changed, set ``root``, and give the node rows to write or drop."""
        rows: dict[bytes, bytes | None] = dict.fromkeys(self._gone)
        for prefix in sorted(self._dirty, key=len, reverse=True):
            body = _encode(self._nodes[prefix])
            digest = _hash(self._kind, prefix, body)
            rows[prefix] = body
            if prefix:
                self._nodes[prefix[:-1]][prefix[-1]] = digest
            elif any(self._nodes[b""]):
                self.root = digest
            else:
                self.root = rows[b""] = None
        self._dirty.clear()
        self._gone.clear()
        return rows

    def leaves(self) -> Iterable[Leaf]:
        """Every leaf, walking the whole map; raises as ``find``."""
        stack = [b""]
        while stack:
            prefix = stack.pop()
            for branch, held in enumerate(self._node(prefix)):
                if isinstance(held, Leaf):
                    yield held
                elif held is not None:
                    stack.append(prefix + bytes([branch]))

    def _touch(self, prefix: bytes) -> None:
        self._dirty.add(prefix)
        while prefix:
            prefix, branch = prefix[:-1], prefix[-1]
            self._nodes[prefix][branch] = _DIRTY
            self._dirty.add(prefix)

    def _walk(self, index: bytes) -> tuple[bytes, Leaf | None]:
        """The last node on the way to an index, and the leaf found there."""
        prefix = b""
        while True:
            held = self._node(prefix)[_nibble(index, len(prefix))]
            if held is None or isinstance(held, Leaf):
                return prefix, held
            prefix += bytes([_nibble(index, len(prefix))])
            if len(prefix) > MAX_DEPTH:
                raise tampered(f"{self._kind}: the map is deeper than {MAX_DEPTH}")

    def _node(self, prefix: bytes) -> list[_Branch]:
        node = self._nodes.get(prefix)
        if node is None:
            above = self._nodes[prefix[:-1]][prefix[-1]] if prefix else self.root
            node = self._checked(prefix, above)
            self._nodes[prefix] = node
        return node

    def _checked(self, prefix: bytes, expected: _Branch) -> list[_Branch]:
        body = self._raw.get(prefix)
        if body is None:
            self._raw.update(self._load([prefix]))
            body = self._raw.get(prefix)
        where = f"{self._kind}: node {prefix.hex()[1::2] or 'root'} of the map"
        if body is None:
            raise tampered(f"{where} is missing")
        actual = _hash(self._kind, prefix, body)
        if not isinstance(expected, bytes) or not hmac.compare_digest(actual, expected):
            raise tampered(f"{where} was changed")
        return _decode(body, where)


def build_root(kind: str, leaves: Iterable[Leaf]) -> KindMap:
    """A map from nothing, unfinished; its root depends on the leaves alone."""
    built = KindMap(kind, None, lambda _: {})
    for leaf in leaves:
        built.put(leaf.index, leaf.digest)
    return built


def _hash(kind: str, prefix: bytes, body: bytes) -> bytes:
    covered = labelled(Label.STATE_NODE, [kind, prefix, body])
    return hashlib.sha256(covered).digest()


def _encode(node: list[_Branch]) -> bytes:
    leaves = nodes = 0
    parts = []
    for branch, held in enumerate(node):
        if isinstance(held, Leaf):
            leaves |= 1 << branch
            parts += [held.index, held.digest]
        elif held is not None:
            nodes |= 1 << branch
            parts.append(held)
    return leaves.to_bytes(2, "big") + nodes.to_bytes(2, "big") + b"".join(parts)


def _decode(body: bytes, where: str) -> list[_Branch]:
    """Read a body whose hash was right; strict all the same."""
    leaves, nodes = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    size = _BITMAPS_BYTES + leaves.bit_count() * (INDEX_BYTES + _HASH_BYTES)
    size += nodes.bit_count() * _HASH_BYTES
    if leaves & nodes or len(body) != size:
        raise tampered(f"{where} is malformed")
    node: list[_Branch] = []
    at = _BITMAPS_BYTES
    for branch in range(_BRANCHES):
        if leaves >> branch & 1:
            middle, end = at + INDEX_BYTES, at + INDEX_BYTES + _HASH_BYTES
            node.append(Leaf(body[at:middle], body[middle:end]))
            at = end
        elif nodes >> branch & 1:
            node.append(body[at : at + _HASH_BYTES])
            at += _HASH_BYTES
        else:
            node.append(None)
    return node

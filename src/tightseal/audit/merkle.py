# SPDX-License-Identifier: Apache-2.0
"""The Merkle tree of the log: hashes, the growing edge, and proofs.

RFC 6962 section 2.1: a leaf is hashed under a zero byte and a node under a one byte, so
neither can be taken for the other. A node is named by its level and its index there:
node ``(level, index)`` covers the leaves from ``index << level`` up to, and without,
``(index + 1) << level``. Everything is a pure function over values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from tightseal.errors import Code, ServiceError

__all__ = [
    "EMPTY",
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_PROOF_HASHES",
    "MAX_SIZE",
    "Frontier",
    "Node",
    "Nodes",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_of_row",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES: Final = 32
"""Length of every hash: SHA-256."""

MAX_SIZE: Final = 1 << 40
"""Most leaves of a tree that is made or believed."""

MAX_PROOF_HASHES: Final = 63
"""Most hashes of a proof that is read; C2SP tlog-witness sets the bound."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""

Node: TypeAlias = Callable[[int, int], bytes]
"""Finds the hash of a full subtree by level and index; raises where it cannot."""

Nodes: TypeAlias = dict[tuple[int, int], bytes]
"""Hashes of full subtrees by level and index."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf; 32 bytes."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children; 32 bytes."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that must be known of a tree to append to it.

    Attributes:
        size: number of leaves.
        hashes: roots of the full subtrees that the leaves fall into, largest first;
            as many as ``size`` has one bits.
    """

    size: int
    hashes: tuple[bytes, ...]

    def root(self) -> bytes:
        """The root of the tree."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def nodes(self) -> Nodes:
        """The hashes with their names."""
        found: Nodes = {}
        start = 0
        levels = [at for at in range(self.size.bit_length()) if self.size >> at & 1]
        for level, value in zip(reversed(levels), self.hashes, strict=True):
            found[level, start >> level] = value
            start += 1 << level
        return found

    def extended(self, leaves: Iterable[bytes]) -> tuple[Frontier, Nodes]:
        """The tree with more leaves, and every full subtree that they completed.

        Args:
            leaves: hashes of the leaves.

        Raises:
            ServiceError: ``journal_failed`` over ``MAX_SIZE``.
        """
        edge, size = list(self.hashes), self.size
        made: Nodes = {}
        for leaf in leaves:
            made[0, size] = value = leaf
            level, rest = 0, size
            while rest & 1:
                value = node_hash(edge.pop(), value)
                level, rest = level + 1, rest >> 1
                made[level, rest] = value
            edge.append(value)
            size += 1
        if size > MAX_SIZE:
            raise ServiceError(Code.JOURNAL_FAILED, f"log: over {MAX_SIZE} entries")
        return Frontier(size, tuple(edge)), made


EMPTY: Final = Frontier(0, ())
"""The tree without leaves."""


def root_of_row(row: Sequence[bytes]) -> bytes:
    """The root over neighbouring subtrees of one size; the last one may be smaller.

    Args:
        row: their hashes, left to right; at most a tile's width and one.
    """
    if not row:
        return EMPTY_ROOT
    if len(row) == 1:
        return row[0]
    at = _split(len(row))
    return node_hash(root_of_row(row[:at]), root_of_row(row[at:]))


# -- making proofs ----------------------------------------------------------------


def inclusion_proof(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """The audit path of a leaf (RFC 6962 section 2.1.1), from the leaf to the root.

    Raises:
        ServiceError: ``log_proof_invalid``, where there is no such leaf; what ``node``
            raises.
    """
    if not 0 <= index < size <= MAX_SIZE:
        _refuse(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_span(middle, high, node))
            high = middle
        else:
            path.append(_span(low, middle, node))
            low = middle
    return tuple(reversed(path))


def consistency_proof(old: int, new: int, node: Node) -> tuple[bytes, ...]:
    """The proof that one tree is the beginning of another (RFC 6962 section 2.1.2).

    Empty where ``old`` is 0 or ``new``.

    Raises:
        ServiceError: ``log_proof_invalid``, where ``old`` is larger; what ``node``
            raises.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        _refuse(f"no proof from a tree of {old} to one of {new}")
    if old in {0, new}:
        return ()
    path: list[bytes] = []
    low, high, whole = 0, new, True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_span(middle, high, node))
            high = middle
        else:
            path.append(_span(low, middle, node))
            low, whole = middle, False
    if not whole:
        path.append(_span(low, high, node))
    return tuple(reversed(path))


# -- checking proofs --------------------------------------------------------------


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf is in a tree (RFC 9162 section 2.1.3.2).

    1. The index is below the size, and the size within bounds.
    2. The proof has as many hashes as the path of that index has.
    3. Leaf and proof hash to the root.

    Says nothing about who made the root.

    Raises:
        ServiceError: ``log_proof_invalid``.
    """
    if not 0 <= index < size <= MAX_SIZE:
        _refuse(f"no leaf {index} in a tree of {size}")
    value = leaf
    for sibling, left in _turns(index, size - 1, _bounded(proof)):
        value = node_hash(sibling, value) if left else node_hash(value, sibling)
    if value != root:
        _refuse(f"inclusion of leaf {index}: root {value.hex()}, not {root.hex()}")


def verify_consistency(
    *,
    old: int,
    new: int,
    old_root: bytes,
    new_root: bytes,
    proof: Sequence[bytes],
) -> None:
    """Check that a tree is the beginning of another (RFC 9162 section 2.1.4.2).

    1. The sizes are in order and within bounds.
    2. Of size 0 the root is the empty one; of equal sizes the roots are equal; both
       without a proof.
    3. The proof has as many hashes as these sizes need.
    4. It leads to both roots.

    Raises:
        ServiceError: ``log_proof_invalid``.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        _refuse(f"consistency: from a tree of {old} to one of {new}")
    if old in {0, new}:
        _require_trivial(old, old_root, new_root=new_root, new=new, proof=proof)
        return
    path = list(_bounded(proof))
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        _refuse("consistency: the proof is empty")
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for sibling, left in _turns(at, last, path[1:]):
        if left:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
        else:
            second = node_hash(second, sibling)
    if first != old_root:
        _refuse(f"consistency: size {old} has {first.hex()}, not {old_root.hex()}")
    if second != new_root:
        _refuse(f"consistency: size {new} has {second.hex()}, not {new_root.hex()}")


def _require_trivial(
    old: int, old_root: bytes, *, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    if proof:
        _refuse(f"consistency: a proof where sizes {old} and {new} need none")
    if old == 0 and old_root != EMPTY_ROOT:
        _refuse("consistency: size 0 with another root than the empty tree's")
    if old == new and old_root != new_root:
        _refuse(f"consistency: two roots for size {old}")


def _turns(at: int, last: int, proof: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each hash of a proof, and whether it stands to the left (RFC 9162 2.1.3.2)."""
    for sibling in proof:
        if last == 0:
            _refuse("the proof is too long")
        left = bool(at & 1) or at == last
        yield sibling, left
        while left and at and not at & 1:
            at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1
    if last:
        _refuse("the proof is too short")


def _bounded(proof: Sequence[bytes]) -> Sequence[bytes]:
    if len(proof) > MAX_PROOF_HASHES:
        _refuse(f"a proof of {len(proof)} hashes, at most {MAX_PROOF_HASHES}")
    if any(len(value) != HASH_BYTES for value in proof):
        _refuse(f"a proof with a hash of other than {HASH_BYTES} bytes")
    return proof


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is 2 or more."""
    return 1 << (count - 1).bit_length() - 1


def _span(low: int, high: int, node: Node) -> bytes:
    """The root over leaves from ``low`` up to ``high``, as the tree splits them."""
    parts: list[bytes] = []
    while low < high:
        level = (high - low).bit_length() - 1
        parts.append(node(level, low >> level))
        low += 1 << level
    root = parts[-1]
    for left in reversed(parts[:-1]):
        root = node_hash(left, root)
    return root


def _refuse(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_PROOF_INVALID, detail)

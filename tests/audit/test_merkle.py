# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightseal.audit.merkle import (
    EMPTY,
    EMPTY_ROOT,
    MAX_SIZE,
    Nodes,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of_row,
    verify_consistency,
    verify_inclusion,
)
from tightseal.errors import Code, ServiceError

# The leaves and roots of the test data that Certificate Transparency implementations
# share; RFC 6962 itself has none.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def naive_root(entries: list[bytes]) -> bytes:
    if not entries:
        return sha(b"")
    if len(entries) == 1:
        return sha(b"\0" + entries[0])
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return sha(b"\1" + naive_root(entries[:split]) + naive_root(entries[split:]))


def leaves(count: int) -> list[bytes]:
    return [b"entry %d" % n for n in range(count)]


def nodes_of(entries: list[bytes]) -> Nodes:
    return EMPTY.extended(map(leaf_hash, entries))[1]


def finder(entries: list[bytes]):  # noqa: ANN201
    found = nodes_of(entries)
    return lambda level, index: found[level, index]


def refused() -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(
        ServiceError, check=lambda e: e.code is Code.LOG_PROOF_INVALID
    )


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size: int) -> None:
    tree, _ = EMPTY.extended(map(leaf_hash, CT_LEAVES[:size]))
    assert tree.root().hex() == CT_ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert EMPTY.root() == EMPTY_ROOT == sha(b"")


@given(st.lists(st.integers(0, 40), max_size=8))
def test_growing_in_any_steps_gives_the_naive_root(steps: list[int]) -> None:
    entries = leaves(sum(steps))
    tree, at = EMPTY, 0
    for step in steps:
        tree, _ = tree.extended(map(leaf_hash, entries[at : at + step]))
        at += step
    assert tree.size == len(entries)
    assert tree.root() == naive_root(entries)
    assert len(tree.hashes) == len(entries).bit_count()


@given(st.integers(0, 300))
def test_completed_subtrees_are_named_by_level_and_index(size: int) -> None:
    entries = leaves(size)
    for (level, index), value in nodes_of(entries).items():
        part = entries[index << level : (index + 1) << level]
        assert len(part) == 1 << level
        assert value == naive_root(part)
    edge = EMPTY.extended(map(leaf_hash, entries))[0].nodes()
    assert edge.items() <= nodes_of(entries).items()


@given(st.integers(1, 256))
def test_a_row_has_the_root_of_its_tree(size: int) -> None:
    entries = leaves(size)
    assert root_of_row([leaf_hash(e) for e in entries]) == naive_root(entries)


@settings(deadline=None)
@given(st.integers(1, 200))
def test_every_leaf_is_included(size: int) -> None:
    entries = leaves(size)
    root, node = naive_root(entries), finder(entries)
    for index, entry in enumerate(entries):
        proof = inclusion_proof(index, size, node)
        verify_inclusion(
            leaf_hash(entry), index=index, size=size, proof=proof, root=root
        )


@settings(deadline=None)
@given(st.data())
def test_a_proof_for_another_leaf_index_size_or_root_is_refused(
    data: st.DataObject,
) -> None:
    size = data.draw(st.integers(2, 200))
    index = data.draw(st.integers(0, size - 1))
    entries = leaves(size)
    root, node = naive_root(entries), finder(entries)
    proof = inclusion_proof(index, size, node)
    leaf = leaf_hash(entries[index])
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    with refused():
        verify_inclusion(leaf, index=other, size=size, proof=proof, root=root)
    with refused():
        verify_inclusion(
            leaf_hash(b"other"), index=index, size=size, proof=proof, root=root
        )
    with refused():
        verify_inclusion(leaf, index=index, size=size, proof=proof, root=sha(b"x"))
    for changed in (proof[1:], (*proof, leaf), (leaf, *proof), ()):
        if changed != proof:
            with refused():
                verify_inclusion(leaf, index=index, size=size, proof=changed, root=root)
    at = data.draw(st.integers(0, len(proof) - 1))
    flipped = (*proof[:at], sha(proof[at]), *proof[at + 1 :])
    with refused():
        verify_inclusion(leaf, index=index, size=size, proof=flipped, root=root)


@settings(deadline=None)
@given(st.integers(0, 150), st.integers(0, 150))
def test_every_tree_is_the_beginning_of_a_later_one(one: int, two: int) -> None:
    old, new = sorted((one, two))
    entries = leaves(new)
    verify_consistency(
        old=old,
        new=new,
        old_root=naive_root(entries[:old]),
        new_root=naive_root(entries),
        proof=consistency_proof(old, new, finder(entries)),
    )


@settings(deadline=None)
@given(st.data())
def test_a_changed_past_is_no_beginning(data: st.DataObject) -> None:
    old = data.draw(st.integers(1, 120))
    new = data.draw(st.integers(old, 150))
    entries = leaves(new)
    changed = data.draw(st.integers(0, old - 1))
    past = [*entries[:changed], b"rewritten", *entries[changed + 1 : old]]
    proof = consistency_proof(old, new, finder(entries))
    with refused():
        verify_consistency(
            old=old,
            new=new,
            old_root=naive_root(past),
            new_root=naive_root(entries),
            proof=proof,
        )
    rewritten = [*past, *entries[old:]]
    with refused():
        verify_consistency(
            old=old,
            new=new,
            old_root=naive_root(entries[:old]),
            new_root=naive_root(rewritten),
            proof=consistency_proof(old, new, finder(rewritten)),
        )


@settings(deadline=None)
@given(st.data())
def test_a_consistency_proof_has_one_length_and_content(data: st.DataObject) -> None:
    old = data.draw(st.integers(1, 120))
    new = data.draw(st.integers(old + 1, 150))
    entries = leaves(new)
    roots = {
        "old_root": naive_root(entries[:old]),
        "new_root": naive_root(entries),
    }
    proof = consistency_proof(old, new, finder(entries))
    at = data.draw(st.integers(0, len(proof) - 1))
    for changed in (
        proof[1:],
        proof[:-1],
        (*proof, sha(b"more")),
        (*proof[:at], sha(b"other"), *proof[at + 1 :]),
    ):
        with refused():
            verify_consistency(old=old, new=new, proof=changed, **roots)


def test_sizes_that_need_no_proof_take_none() -> None:
    root = naive_root(leaves(5))
    same = {"old_root": root, "new_root": root}
    verify_consistency(old=5, new=5, proof=(), **same)
    with refused():
        verify_consistency(old=5, new=5, proof=(root,), **same)
    with refused():
        verify_consistency(old=5, new=5, old_root=root, new_root=sha(b"fork"), proof=())
    with refused():
        verify_consistency(
            old=0, new=5, proof=(root,), old_root=EMPTY_ROOT, new_root=root
        )
    with refused():
        verify_consistency(old=0, new=5, proof=(), old_root=root, new_root=root)


@pytest.mark.parametrize(
    ("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, MAX_SIZE + 1)]
)
def test_a_leaf_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with refused():
        inclusion_proof(index, size, finder(leaves(3)))
    with refused():
        verify_inclusion(sha(b""), index=index, size=size, proof=(), root=sha(b""))


def test_a_tree_does_not_shrink() -> None:
    root = naive_root(leaves(3))
    with refused():
        consistency_proof(4, 3, finder(leaves(4)))
    with refused():
        verify_consistency(old=4, new=3, old_root=root, new_root=root, proof=())


def test_proofs_are_bounded() -> None:
    with refused():
        verify_inclusion(
            sha(b""), index=0, size=MAX_SIZE, proof=[sha(b"")] * 64, root=sha(b"")
        )
    with refused():
        verify_inclusion(sha(b""), index=0, size=2, proof=[b"short"], root=sha(b""))

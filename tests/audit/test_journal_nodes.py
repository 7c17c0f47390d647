# SPDX-License-Identifier: Apache-2.0
"""Proofs out of the journal's rows, which the host may have changed for a moment."""

from tightseal.audit.merkle import EMPTY, inclusion_proof, leaf_hash, verify_inclusion
from tightseal.audit.nodes import JournalNodes, NodeCache
from tightseal.audit.tiles import TILE_WIDTH, full_tile_root
from tightseal.errors import Code, ServiceError

SIZE = 5 * TILE_WIDTH + 7
ENTRIES = [b"entry %d" % number for number in range(SIZE)]


class Rows:
    """A journal; its host can show other roots of tiles."""

    def __init__(self) -> None:
        self.wrong = False

    def leaves(self, start: int, end: int) -> list[bytes]:
        return ENTRIES[start:end]

    def tile_roots(self, start: int, end: int) -> list[bytes]:
        if self.wrong:
            return [bytes(32)] * (end - start)
        places = range(start * TILE_WIDTH, end * TILE_WIDTH, TILE_WIDTH)
        tiles = (ENTRIES[at : at + TILE_WIDTH] for at in places)
        return [full_tile_root([leaf_hash(entry) for entry in tile]) for tile in tiles]


def root() -> bytes:
    grown, _ = EMPTY.extended(leaf_hash(entry) for entry in ENTRIES)
    return grown.root()


def proves(nodes: JournalNodes, index: int) -> bool:
    path = inclusion_proof(index, SIZE, nodes)
    leaf = leaf_hash(ENTRIES[index])
    try:
        verify_inclusion(leaf, index=index, size=SIZE, proof=path, root=root())
    except ServiceError as e:
        return e.code is not Code.LOG_PROOF_INVALID
    return True


def test_every_kind_of_place_is_proven() -> None:
    nodes = JournalNodes(Rows(), SIZE, NodeCache())
    for index in (0, 255, 256, 1023, 1024, 5 * TILE_WIDTH, SIZE - 1):
        assert proves(nodes, index)


def test_a_root_that_was_wrong_once_does_not_stay_so() -> None:
    rows, cache = Rows(), NodeCache()
    rows.wrong = True
    assert not proves(JournalNodes(rows, SIZE, cache), 0)
    rows.wrong = False
    nodes = JournalNodes(rows, SIZE, cache)
    assert not proves(nodes, 0), "it was kept"
    nodes.forget()
    assert proves(nodes, 0)

# SPDX-License-Identifier: Apache-2.0
"""The log on the way of a release: the receipt proves the entry, at any load."""

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from release_rig import NOW, Rig, log_key, refusal, rig

from tightseal.audit.checkpoint import Trust
from tightseal.audit.entry import parse_entry
from tightseal.audit.log import log_signer
from tightseal.audit.logfile import check_journal
from tightseal.audit.merkle import leaf_hash, verify_consistency
from tightseal.audit.note import NoteKey
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.verify import prove_consistency, verify_log
from tightseal.errors import Code, TightsealError
from tightseal.guest.response import ReleasedKeys
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"logged releases".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def plain(world: World, tmp_path: Path) -> Iterator[Rig]:
    with rig(world, tmp_path) as found:
        yield found


def released(provider: Rig, td: SimTd, now: int = NOW) -> ReleasedKeys:
    exchange, body = provider.question(td, now=now)
    return exchange.open_response(provider.provider.keys(body, now=now), now=now)


def test_the_receipt_proves_the_entry_that_the_journal_has(
    plain: Rig, td: SimTd
) -> None:
    for number in range(1, 4):
        receipt = released(plain, td).receipt
        assert receipt.logged is not None
        proof = LogProof.parse(receipt.log_proof)
        assert proof.index == number - 1
        (leaf,) = plain.journal.leaves(proof.index, number)
        assert leaf_hash(leaf) == receipt.logged.leaf
        entry = parse_entry(leaf)
        assert entry.entry_id == receipt.entry_id
        assert (entry.granted, entry.code, entry.time) == (True, "granted", NOW)
        assert isinstance(entry.body, dict)
        assert {"keys", "evidence_hash", "claims_digest", "policy", "reasons"} <= set(
            entry.body
        )
        key = log_signer(plain.journal.head().log_id, log_key).key
        assert NoteKey.parse(receipt.logged.key) == key


def test_a_retry_gets_the_same_bytes_with_the_same_proof(plain: Rig, td: SimTd) -> None:
    exchange, body = plain.question(td)
    first = plain.provider.keys(body, now=NOW)
    released(plain, td)
    assert plain.provider.keys(body, now=NOW) == first
    assert exchange.open_response(first, now=NOW).receipt.log_proof
    assert plain.journal.head().frontier.size == 2


def test_many_at_once_are_each_proved(plain: Rig, td: SimTd, tmp_path: Path) -> None:
    questions = [plain.question(td) for _ in range(24)]

    def ask(at: int) -> ReleasedKeys:
        exchange, body = questions[at]
        return exchange.open_response(plain.provider.keys(body, now=NOW), now=NOW)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(len(questions))))
    proofs = [LogProof.parse(one.receipt.log_proof) for one in found]
    assert sorted(proof.index for proof in proofs) == list(range(24))
    # Every checkpoint that was given out is a beginning of the log that is published.
    store = FileTileStore(tmp_path / "tiles")
    publish(plain.journal, store)
    trust = Trust(log_signer(plain.journal.head().log_id, log_key).key)
    final = verify_log(store, trust).head.checkpoint
    for one, proof in zip(found, proofs, strict=True):
        assert one.receipt.logged is not None
        leaf = one.receipt.logged.leaf
        head = verify_log_proof(proof, leaf=leaf, trust=trust).checkpoint
        verify_consistency(
            old=head.size,
            new=final.size,
            old_root=head.root,
            new_root=final.root,
            proof=prove_consistency(store, head.size, final.size),
        )


def test_denials_are_in_the_log_too(world: World, tmp_path: Path) -> None:
    with rig(world, tmp_path) as strict:
        stranger = world.intel.platform("two").launch_td(TdImage())
        assert (
            refusal(TightsealError, lambda: strict.key(stranger)).code
            is Code.PLATFORM_MISMATCH
        )
        (leaf,) = strict.journal.leaves(0, 1)
        entry = parse_entry(leaf)
        assert (entry.granted, entry.code) == (False, "platform_mismatch")
    check_journal(tmp_path / "journal.sqlite", log_key, whole=True)


def test_a_provider_on_a_changed_log_releases_nothing(
    plain: Rig, td: SimTd, tmp_path: Path
) -> None:
    released(plain, td)
    host = sqlite3.connect(tmp_path / "journal.sqlite")
    with host:
        host.execute("UPDATE log SET frontier = zeroblob(32)")
    host.close()
    _, body = plain.question(td)
    assert (
        refusal(TightsealError, lambda: plain.provider.keys(body, now=NOW)).code
        is Code.LOG_TAMPERED
    )


def test_a_receipt_with_another_releases_proof_is_refused(
    plain: Rig, td: SimTd
) -> None:
    _, first = plain.question(td)
    other = json.loads(plain.provider.keys(first, now=NOW))
    exchange, body = plain.question(td)
    answer = json.loads(plain.provider.keys(body, now=NOW))
    answer["receipt"]["log"]["proof"] = other["receipt"]["log"]["proof"]
    refused = refusal(
        TightsealError,
        lambda: exchange.open_response(json.dumps(answer).encode(), now=NOW),
    )
    assert refused.code is Code.RESPONSE_INVALID

# SPDX-License-Identifier: Apache-2.0
"""A witness cosigns what follows from what it saw, and nothing else."""

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_support import append, opened, signer_of

from tightseal.audit.checkpoint import Checkpoint, Trust, sign_checkpoint
from tightseal.audit.merkle import EMPTY_ROOT
from tightseal.audit.note import (
    MAX_SIGNATURES,
    Note,
    NoteSigner,
    SignatureLine,
    SignatureType,
    parse_note,
)
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.verify import prove_consistency, read_checkpoint
from tightseal.audit.witness import (
    StaleError,
    Submission,
    Witness,
    merge_cosignatures,
    origin_hash,
)
from tightseal.errors import Code, ServiceError

NOW = 1_800_000_000
SIGNER = NoteSigner("witness.example/w", SignatureType.COSIGNATURE, b"\7" * 32)


def refused(code: Code) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code is code)


class Log:
    """A log that grows, and what it would submit."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.db"
        self.tiles = FileTileStore(folder / "tiles")
        with opened(self.path) as journal:
            self.signer = signer_of(journal)

    def grow(self, count: int, since: int) -> None:
        with opened(self.path) as journal:
            append(journal, count, since=since)
            publish(journal, self.tiles)

    def submission(self, old: int) -> Submission:
        head = read_checkpoint(self.tiles, Trust(self.signer.key))
        proof = prove_consistency(self.tiles, old, head.checkpoint.size)
        return Submission(old, proof, head.note.encode())


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path)
    made.grow(300, 0)
    return made


@pytest.fixture
def witness(tmp_path: Path, log: Log) -> Witness:
    return Witness(SIGNER, [log.signer.key], FileTileStore(tmp_path / "seen"))


def cosigned_size(witness: Witness, log: Log) -> int:
    data = witness.checkpoint(origin_hash(log.signer.key.name))
    return Checkpoint.parse(parse_note(data).text).size


def test_a_growing_log_is_cosigned(witness: Witness, log: Log) -> None:
    old = 0
    for grown in (300, 301, 600):
        if grown > old:
            if old:
                log.grow(grown - old, old)
            answer = witness.add_checkpoint(log.submission(old).encode(), now=NOW)
            note = parse_note(log.submission(old).checkpoint)
            merged = merge_cosignatures(note, answer, [SIGNER.key])
            assert [s.time for s in merged.verified([SIGNER.key])] == [NOW]
            old = grown
        assert cosigned_size(witness, log) == grown


def test_the_same_checkpoint_is_cosigned_again(witness: Witness, log: Log) -> None:
    witness.add_checkpoint(log.submission(0).encode(), now=NOW)
    again = witness.add_checkpoint(log.submission(300).encode(), now=NOW + 9)
    note = parse_note(log.submission(0).checkpoint)
    assert merge_cosignatures(note, again, [SIGNER.key]).verified([SIGNER.key])


@pytest.mark.parametrize("junk", ["other keys of its name", "its own line again"])
def test_lines_that_anybody_added_do_not_end_a_witness(
    witness: Witness, log: Log, junk: str
) -> None:
    """With one more line, its own, the note would be more than can be read again."""
    name, honest = log.signer.key.name, log.submission(0)
    note = parse_note(honest.checkpoint)
    more: tuple[SignatureLine, ...] = note.signatures * (MAX_SIGNATURES - 1)
    if junk == "other keys of its name":
        ids = (at.to_bytes(4, "big") for at in range(MAX_SIGNATURES - 1))
        more = tuple(SignatureLine(name, key_id, b"x") for key_id in ids)
    full = Note(note.text, (*note.signatures, *more)).encode()
    witness.add_checkpoint(Submission(0, (), full).encode(), now=NOW)
    kept = parse_note(witness.checkpoint(origin_hash(name)))
    assert [line.name for line in kept.signatures] == [name, SIGNER.key.name]
    log.grow(10, 300)
    witness.add_checkpoint(log.submission(300).encode(), now=NOW)
    assert cosigned_size(witness, log) == 310


def test_a_proof_from_another_size_is_told_the_right_one(
    witness: Witness, log: Log
) -> None:
    with pytest.raises(StaleError) as none_yet:
        witness.add_checkpoint(log.submission(256).encode(), now=NOW)
    assert none_yet.value.latest == 0
    witness.add_checkpoint(log.submission(0).encode(), now=NOW)
    log.grow(10, 300)
    for old in (0, 299, 310):
        with pytest.raises(StaleError) as stale:
            witness.add_checkpoint(log.submission(old).encode(), now=NOW)
        assert stale.value.latest == 300


def test_a_fork_is_not_cosigned(tmp_path: Path, witness: Witness, log: Log) -> None:
    """A host runs two copies of one log, and the key signs both."""
    fork = Log.__new__(Log)
    fork.path, fork.tiles = tmp_path / "fork.db", FileTileStore(tmp_path / "fork")
    fork.signer = log.signer
    shutil.copy(log.path, fork.path)
    log.grow(20, 300)
    witness.add_checkpoint(log.submission(0).encode(), now=NOW)
    fork.grow(20, 5000)
    # The same size and another root.
    with refused(Code.LOG_FORKED):
        witness.add_checkpoint(fork.submission(320).encode(), now=NOW)
    fork.grow(30, 6000)
    # A longer tree, and a proof from the fork's own past.
    with refused(Code.LOG_PROOF_INVALID):
        witness.add_checkpoint(fork.submission(320).encode(), now=NOW)
    assert cosigned_size(witness, log) == 320
    log.grow(1, 320)
    witness.add_checkpoint(log.submission(320).encode(), now=NOW)


def test_a_log_that_was_put_back_is_not_cosigned(
    tmp_path: Path, witness: Witness, log: Log
) -> None:
    older = tmp_path / "older.db"
    source, target = sqlite3.connect(log.path), sqlite3.connect(older)
    source.backup(target)
    source.close()
    target.close()
    log.grow(50, 300)
    witness.add_checkpoint(log.submission(0).encode(), now=NOW)
    back = Log.__new__(Log)
    back.path, back.tiles = older, FileTileStore(tmp_path / "back")
    back.signer = log.signer
    back.grow(1, 9000)
    with pytest.raises(StaleError) as stale:
        witness.add_checkpoint(back.submission(0).encode(), now=NOW)
    assert stale.value.latest == 350


def test_what_was_seen_outlives_the_process(
    tmp_path: Path, witness: Witness, log: Log
) -> None:
    witness.add_checkpoint(log.submission(0).encode(), now=NOW)
    again = Witness(SIGNER, [log.signer.key], FileTileStore(tmp_path / "seen"))
    with pytest.raises(StaleError):
        again.add_checkpoint(log.submission(0).encode(), now=NOW)
    assert cosigned_size(again, log) == 300


def test_what_was_remembered_and_changed_is_refused(
    tmp_path: Path, witness: Witness, log: Log
) -> None:
    witness.add_checkpoint(log.submission(0).encode(), now=NOW)
    (file,) = (tmp_path / "seen").rglob("checkpoint")
    own = parse_note(file.read_bytes())
    # The log's own older checkpoint, without the witness's word.
    file.write_bytes(Note(own.text, own.signatures[:1]).encode())
    with refused(Code.LOG_TAMPERED):
        witness.add_checkpoint(log.submission(300).encode(), now=NOW)


def test_nothing_is_cosigned_that_could_not_be_remembered(
    log: Log, tmp_path: Path
) -> None:
    (tmp_path / "no-folder").touch()
    store = FileTileStore(tmp_path / "no-folder" / "seen")
    witness = Witness(SIGNER, [log.signer.key], store)
    with refused(Code.JOURNAL_FAILED):
        witness.add_checkpoint(log.submission(0).encode(), now=NOW)


def test_of_two_at_once_one_wins(witness: Witness, log: Log) -> None:
    first = log.submission(0)
    log.grow(10, 300)
    second = log.submission(0)
    outcomes: list[str] = []

    def submit(submission: Submission) -> None:
        try:
            witness.add_checkpoint(submission.encode(), now=NOW)
        except StaleError:
            outcomes.append("stale")
        else:
            outcomes.append("cosigned")

    threads = [threading.Thread(target=submit, args=(s,)) for s in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["cosigned", "stale"]


def foreign(size: int = 300, root: bytes = bytes(32)) -> bytes:
    other = NoteSigner("another.example", SignatureType.ED25519, b"\5" * 32)
    return sign_checkpoint(Checkpoint(other.key.name, size, root), other).encode()


REFUSED: dict[str, tuple[Code, Callable[[Log], bytes]]] = {
    "log_that_is_not_watched": (
        Code.LOG_MISSING,
        lambda _log: Submission(0, (), foreign()).encode(),
    ),
    "unsigned": (
        Code.LOG_UNDERSIGNED,
        lambda log: Submission(
            0,
            (),
            Note(
                parse_note(log.submission(0).checkpoint).text,
                (SIGNER.sign("x\n", now=NOW),),
            ).encode(),
        ).encode(),
    ),
    "signed_over_another_text": (
        Code.LOG_UNDERSIGNED,
        lambda log: log.submission(0).encode().replace(b"\n300\n", b"\n301\n"),
    ),
    "proof_where_none_is_needed": (
        Code.LOG_PROOF_INVALID,
        lambda log: Submission(0, (bytes(32),), log.submission(0).checkpoint).encode(),
    ),
    "from_a_larger_size": (
        Code.LOG_MALFORMED,
        lambda log: Submission(301, (), log.submission(0).checkpoint).encode(),
    ),
    "empty_tree_with_a_root": (
        Code.LOG_FORKED,
        lambda log: Submission(
            0,
            (),
            sign_checkpoint(
                Checkpoint(log.signer.key.name, 0, bytes(32)), log.signer
            ).encode(),
        ).encode(),
    ),
    "no_old_size": (
        Code.LOG_MALFORMED,
        lambda log: b"new 0\n\n" + log.submission(0).checkpoint,
    ),
    "old_size_with_a_zero_before": (
        Code.LOG_MALFORMED,
        lambda log: b"old 00\n\n" + log.submission(0).checkpoint,
    ),
    "hash_that_is_short": (
        Code.LOG_MALFORMED,
        lambda log: b"old 0\nAAAA\n\n" + log.submission(0).checkpoint,
    ),
    "too_many_hashes": (
        Code.LOG_MALFORMED,
        lambda log: Submission(
            0, (bytes(32),) * 64, log.submission(0).checkpoint
        ).encode(),
    ),
    "no_empty_line": (Code.LOG_MALFORMED, lambda _log: b"old 0\n"),
    "too_long": (Code.LOG_MALFORMED, lambda log: log.submission(0).encode() * 600),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refused_and_not_remembered(witness: Witness, log: Log, defect: str) -> None:
    code, make = REFUSED[defect]
    with refused(code):
        witness.add_checkpoint(make(log), now=NOW)
    with refused(Code.LOG_MISSING):
        witness.checkpoint(origin_hash(log.signer.key.name))


def test_the_empty_log_is_cosigned(witness: Witness, log: Log) -> None:
    empty = sign_checkpoint(Checkpoint(log.signer.key.name, 0, EMPTY_ROOT), log.signer)
    witness.add_checkpoint(Submission(0, (), empty.encode()).encode(), now=NOW)
    assert cosigned_size(witness, log) == 0


@given(st.binary(max_size=200))
def test_any_body_is_answered(data: bytes) -> None:
    try:
        Submission.parse(data)
    except ServiceError as e:
        assert e.code is Code.LOG_MALFORMED  # noqa: PT017


def test_one_log_named_twice(log: Log, tmp_path: Path) -> None:
    keys = [log.signer.key, log.signer.key]
    with refused(Code.LOG_UNDERSIGNED):
        Witness(SIGNER, keys, FileTileStore(tmp_path))


def test_cosignatures_of_strangers_are_dropped(log: Log) -> None:
    note = parse_note(log.submission(0).checkpoint)
    stranger = NoteSigner("stranger.example", SignatureType.COSIGNATURE, b"\3" * 32)
    answer = "".join(f"{s.sign(note.text, now=NOW)}\n" for s in (stranger, SIGNER))
    merged = merge_cosignatures(note, answer.encode(), [SIGNER.key])
    assert [s.name for s in merged.signatures[1:]] == [SIGNER.key.name]
    with refused(Code.LOG_UNDERSIGNED):
        merge_cosignatures(note, answer.encode().split(b"\n")[0] + b"\n", [SIGNER.key])
    forged = SIGNER.sign("another text\n", now=NOW)
    with refused(Code.LOG_UNDERSIGNED):
        merge_cosignatures(note, f"{forged}\n".encode(), [SIGNER.key])


def test_a_newer_cosignature_takes_the_place_of_the_older(log: Log) -> None:
    note = parse_note(log.submission(0).checkpoint)
    for now in (NOW, NOW + 5):
        line = SIGNER.sign(note.text, now=now)
        note = merge_cosignatures(note, f"{line}\n".encode(), [SIGNER.key])
    assert len(note.signatures) == 2
    assert [s.time for s in note.verified([SIGNER.key])] == [NOW + 5]

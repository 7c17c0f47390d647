# SPDX-License-Identifier: Apache-2.0
"""Tiles as rows of a real PostgreSQL: published, crashed, shared, attacked."""

import threading
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from log_support import append, opened, signer_of

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.note import NoteSigner, SignatureType
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.tiles import MAX_BUNDLE_BYTES
from tightseal.audit.verify import read_checkpoint, verify_log
from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.service import tilerows
from tightseal.service.tileplaces import (
    listed_logs,
)
from tightseal.service.tilerows import RowTileStore, stored_logs
from tightseal.service.tiles import TilePublisher
from tile_places import Server, files_in, sql

SOMEBODY = NoteSigner("some.example", SignatureType.ED25519, b"\1" * 32)
ROWS = "SELECT path, data FROM tightseal_log_tile WHERE log_id = $1"


def refused(*codes: Code) -> "pytest.RaisesExc[TightsealError]":
    return pytest.RaisesExc(TightsealError, check=lambda e: e.code in codes)


@pytest.fixture
def dsn(postgres: Server) -> str:
    return postgres.new_address()


def rows_of(dsn: str, log_id: bytes) -> dict[str, bytes]:
    async def read(connection: asyncpg.Connection) -> dict[str, bytes]:
        return {row[0]: row[1] for row in await connection.fetch(ROWS, log_id)}

    found: dict[str, bytes] = sql(dsn, read)
    return found


def execute(dsn: str, *statements: str) -> None:
    async def run(connection: asyncpg.Connection) -> None:
        for statement in statements:
            await connection.execute(statement)

    sql(dsn, run)


def to_rows(journal: SqliteJournal, dsn: str) -> int:
    log_id = journal.head().log_id
    with RowTileStore(dsn, log_id) as store, store.alone(wait=True):
        return publish(journal, store).size


def test_rows_are_what_files_are(dsn: str, tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db") as journal:
        log_id = journal.head().log_id
        trust = Trust(signer_of(journal).key)
        done = 0
        for step in (1, 255, 256, 100):
            append(journal, step, since=done)
            done += step
            assert to_rows(journal, dsn) == done
            publish(journal, FileTileStore(tmp_path / "tiles"))
            assert rows_of(dsn, log_id) == files_in(tmp_path / "tiles")
            with RowTileStore(dsn, log_id, read_only=True) as store:
                assert verify_log(store, trust).head.checkpoint.size == done
        assert to_rows(journal, dsn) == done


def test_more_tiles_than_one_page_lists(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tilerows, "_PAGE", 2)
    monkeypatch.setattr(tilerows, "PENDING_ROWS", 2)
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 600)
        to_rows(journal, dsn)
        with RowTileStore(dsn, journal.head().log_id, read_only=True) as store:
            assert verify_log(store, Trust(signer_of(journal).key)).files == 7
            assert sorted(store.paths(0)) == sorted(rows_of(dsn, journal.head().log_id))


class CrashError(Exception):
    pass


class Crashing(RowTileStore):
    """Ends after so many calls that reach the database to change something."""

    left = 0

    def _step(self) -> None:
        if self.left <= 0:
            raise CrashError
        self.left -= 1

    def flush(self) -> None:
        if self._pending:
            self._step()
        super().flush()

    def write(self, path: str, data: bytes) -> None:
        self._step()
        super().write(path, data)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)


def test_a_crash_at_any_step_is_mended_by_the_next_time(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tilerows, "PENDING_ROWS", 2)
    places = [postgres.new_address() for _ in range(7)]
    with opened(tmp_path / "journal.db") as journal:
        log_id, trust = journal.head().log_id, Trust(signer_of(journal).key)
        append(journal, 200)
        for dsn in places:
            to_rows(journal, dsn)
        append(journal, 400, since=200)
        publish(journal, FileTileStore(tmp_path / "whole"))
        crashed = 0
        for at, dsn in enumerate(places):
            with Crashing(dsn, log_id) as store:
                store.left = at if at < 6 else 99
                try:
                    with store.alone(wait=True):
                        publish(journal, store)
                except CrashError:
                    crashed += 1
            with RowTileStore(dsn, log_id, read_only=True) as store:
                # What was published is whole still.
                size = verify_log(store, trust).head.checkpoint.size
                assert size in {200, 600}
            assert to_rows(journal, dsn) == 600
            rows = rows_of(dsn, log_id)
            # A crash behind the checkpoint leaves partial tiles that were outgrown.
            left = {path for path in rows if path.endswith(".p/200")}
            whole = files_in(tmp_path / "whole")
            assert {p: d for p, d in rows.items() if p not in left} == whole
            with RowTileStore(dsn, log_id, read_only=True) as store:
                assert verify_log(store, trust).head.checkpoint.size == 600
        assert crashed == len(places) - 1


def test_a_tile_that_is_there_with_other_bytes_stops_the_publishing(
    dsn: str, tmp_path: Path
) -> None:
    with opened(tmp_path / "journal.db") as journal:
        log_id = journal.head().log_id
        append(journal, 5)
        to_rows(journal, dsn)
        append(journal, 4, since=5)
        with RowTileStore(dsn, log_id) as store:
            store.write("tile/0/000.p/9", bytes(9 * 32))
        with refused(Code.LOG_TAMPERED):
            to_rows(journal, dsn)
        folder = FileTileStore(tmp_path / "tiles")
        folder.write("tile/0/000.p/9", bytes(9 * 32))
        with refused(Code.LOG_TAMPERED):
            publish(journal, folder)
        # What stands is what was published before.
        with RowTileStore(dsn, log_id) as store:
            trust = Trust(signer_of(journal).key)
            assert read_checkpoint(store, trust).checkpoint.size == 5


def test_rows_ahead_of_the_journal_are_refused(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with opened(path) as journal:
        append(journal, 10)
    older = path.read_bytes()
    with opened(path) as journal:
        append(journal, 10, since=10)
        to_rows(journal, dsn)
    for leftover in tmp_path.glob("journal.db-*"):
        leftover.unlink()
    path.write_bytes(older)
    with opened(path) as journal:
        with refused(Code.LOG_TAMPERED):
            to_rows(journal, dsn)
        append(journal, 300, since=500)
        with refused(Code.LOG_TAMPERED):
            to_rows(journal, dsn)


def test_a_database_that_forgot_is_told_again(dsn: str, tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 300)
        to_rows(journal, dsn)
        whole = rows_of(dsn, journal.head().log_id)
        execute(dsn, "DELETE FROM tightseal_log_tile WHERE path = 'checkpoint'")
        to_rows(journal, dsn)
        assert rows_of(dsn, journal.head().log_id) == whole
        execute(dsn, "DROP TABLE tightseal_log_tile")
        to_rows(journal, dsn)
        assert rows_of(dsn, journal.head().log_id) == whole


# -- several ----------------------------------------------------------------------


def test_the_logs_of_several_nodes_share_a_table(dsn: str, tmp_path: Path) -> None:
    trusts: dict[bytes, tuple[int, Trust]] = {}
    for number, size in enumerate((3, 300, 7)):
        with opened(tmp_path / f"{number}.db") as journal:
            append(journal, size)
            to_rows(journal, dsn)
            found = size, Trust(signer_of(journal).key)
            trusts[journal.head().log_id] = found
    for log_id, (size, trust) in trusts.items():
        with RowTileStore(dsn, log_id, read_only=True) as store:
            assert verify_log(store, trust).head.checkpoint.size == size
    assert [log.log_id for log in stored_logs(dsn)] == sorted(trusts)
    listed = listed_logs(dsn)
    assert {bytes.fromhex(log.log_id): log.size for log in listed} == {
        log_id: size for log_id, (size, _) in trusts.items()
    }
    assert all(log.written > 1_600_000_000 and not log.problem for log in listed)
    # The rows of another log are no log under this id.
    one, two, _ = (log_id.hex() for log_id in sorted(trusts))
    execute(
        dsn,
        f"DELETE FROM tightseal_log_tile WHERE log_id = '\\x{one}'",
        f"UPDATE tightseal_log_tile SET log_id = '\\x{one}' WHERE log_id = '\\x{two}'",
    )
    with RowTileStore(dsn, bytes.fromhex(one), read_only=True) as store:
        with refused(Code.LOG_UNDERSIGNED):
            verify_log(store, trusts[bytes.fromhex(one)][1])
        assert "checkpoint is of" in listed_logs(dsn)[0].problem


def test_one_writer_at_a_time_for_each_log(dsn: str) -> None:
    first, second = RowTileStore(dsn, b"a" * 16), RowTileStore(dsn, b"a" * 16)
    other = RowTileStore(dsn, b"b" * 16)
    entered = threading.Event()

    def wait() -> None:
        with second.alone(wait=True):
            entered.set()

    with first, second, other:
        waiting = threading.Thread(target=wait)
        with first.alone(wait=False):
            with refused(Code.STATE_CONFLICT), second.alone(wait=False):
                pass
            with other.alone(wait=False):
                pass
            waiting.start()
            assert not entered.wait(0.2)
        waiting.join(30)
        assert entered.is_set()


def test_a_wait_for_another_writer_ends(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tilerows, "WAIT_SECONDS", 0.1)
    first, second = RowTileStore(dsn, b"a" * 16), RowTileStore(dsn, b"a" * 16)
    with first, second:
        busy = refused(Code.STATE_CONFLICT)
        with first.alone(wait=False), busy, second.alone(wait=True):
            pass
        with second.alone(wait=True):
            second.write("checkpoint", b"x")


TERMINATE = """SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
WHERE application_name = 'tightseal-log' AND pid <> pg_backend_pid()"""


def test_a_writer_whose_connection_is_lost_writes_nothing_more(
    dsn: str, tmp_path: Path
) -> None:
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 5)
        with RowTileStore(dsn, journal.head().log_id) as store:
            with refused(Code.LOG_UNREACHABLE), store.alone(wait=True):
                store.write("tile/0/000.p/1", b"x" * 32)
                execute(dsn, TERMINATE)
                with refused(Code.LOG_UNREACHABLE):
                    store.write("tile/0/000.p/2", b"x" * 64)
                # Its lock is gone, so it must not go on with a new connection.
                store.write("tile/0/000.p/3", b"x" * 96)
            assert set(store.paths(0)) == {"tile/0/000.p/1"}
            store.remove("tile/0/000.p/1")
            with store.alone(wait=True):
                assert publish(journal, store).size == 5


def test_a_provider_publishes_on_after_its_connection_was_cut(
    dsn: str, tmp_path: Path
) -> None:
    with opened(tmp_path / "journal.db") as journal:
        log_id, trust = journal.head().log_id, Trust(signer_of(journal).key)
        reader = RowTileStore(dsn, log_id, read_only=True)
        with RowTileStore(dsn, log_id) as store, reader:
            publisher = TilePublisher(journal, store)
            for size in (1, 2, 3):
                append(journal, 1, since=size - 1)
                publisher.look()
                publisher.wait(30)
                assert publisher.done == size
                assert verify_log(reader, trust).head.checkpoint.size == size
                # Both were idle, so that nobody need know of it.
                execute(dsn, TERMINATE)


def test_a_server_that_is_gone_is_said_so(tmp_path: Path) -> None:
    address = f"postgresql://reader@/log?host={tmp_path}"
    with RowTileStore(address, b"a" * 16, read_only=True) as store:
        with refused(Code.LOG_UNREACHABLE):
            store.read("checkpoint")
        with refused(Code.LOG_UNREACHABLE):
            list(store.paths(0))
    with refused(Code.LOG_UNREACHABLE):
        listed_logs(address)


def test_a_reading_has_an_end(dsn: str) -> None:
    store = RowTileStore(dsn, b"a" * 16, read_only=True, seconds=0)
    with store, refused(Code.LOG_UNREACHABLE):
        store.read("checkpoint")


# -- rights -----------------------------------------------------------------------


def test_rights_of_a_reader_and_of_a_writer(dsn: str, tmp_path: Path) -> None:
    schema = dsn.rpartition("=")[2]
    reader, writer = f"reader_{schema}", f"writer_{schema}"
    with opened(tmp_path / "journal.db") as journal:
        log_id, trust = journal.head().log_id, Trust(signer_of(journal).key)
        append(journal, 5)
        to_rows(journal, dsn)
        execute(
            dsn,
            f"CREATE ROLE {reader} LOGIN",
            f"CREATE ROLE {writer} LOGIN",
            f"GRANT USAGE ON SCHEMA {schema} TO {reader}, {writer}",
            f"GRANT SELECT ON tightseal_log_tile TO {reader}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON tightseal_log_tile TO {writer}",
        )
        as_reader = dsn.replace("postgres@", f"{reader}@")
        as_writer = dsn.replace("postgres@", f"{writer}@")
        with RowTileStore(as_reader, log_id) as store:
            verify_log(store, trust)
            with refused(Code.LOG_UNREACHABLE):
                store.write("checkpoint", b"x")
        append(journal, 500, since=5)
        assert to_rows(journal, as_writer) == 505
        with RowTileStore(as_writer, log_id, read_only=True) as store:
            verify_log(store, trust)
            with refused(Code.LOG_UNREACHABLE):
                store.remove("checkpoint")
        assert len(listed_logs(as_reader)) == 1


# -- what a database may answer ---------------------------------------------------


def test_where_nothing_was_published_there_is_no_log(dsn: str) -> None:
    with RowTileStore(dsn, b"a" * 16, read_only=True) as store:
        assert list(store.paths(0)) == []
        with refused(Code.LOG_MISSING):
            read_checkpoint(store, None)  # type: ignore[arg-type]
    assert stored_logs(dsn) == listed_logs(dsn) == ()


TABLE = "CREATE TABLE tightseal_log_tile (log_id {0}, path {1}, data {2}, written {3})"
FORMS = {
    "data as text": ("bytea", "text", "text", "timestamptz"),
    "data as numbers": ("bytea", "text", "int[]", "timestamptz"),
    "paths as bytes": ("bytea", "bytea", "bytea", "timestamptz"),
    "time as text": ("bytea", "text", "bytea", "text"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_table_of_another_form(dsn: str, form: tuple[str, ...]) -> None:
    execute(dsn, TABLE.format(*form))
    values: tuple[Any, ...] = (
        "'\\x" + "61" * 16 + "'",
        "'checkpoint'",
        "'{1,2}'" if form[2] == "int[]" else "'xx'",
        "'2026-01-01'",
    )
    execute(dsn, f"INSERT INTO tightseal_log_tile VALUES ({', '.join(values)})")
    form_or_type = (Code.LOG_TAMPERED, Code.LOG_UNREACHABLE, Code.LOG_MALFORMED)
    store = RowTileStore(dsn, b"a" * 16, read_only=True)
    with store, refused(*form_or_type):
        verify_log(store, Trust(SOMEBODY.key))
    with refused(*form_or_type):
        raise _of_list(dsn)


def _of_list(dsn: str) -> TightsealError:
    """What is wrong with the first log that is listed."""
    try:
        (log,) = listed_logs(dsn)
    except TightsealError as e:
        return e
    return ServiceError(Code(log.problem.partition(":")[0]), log.problem)


def test_rows_that_are_too_long_or_too_many(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "journal.db") as journal:
        log_id, trust = journal.head().log_id, Trust(signer_of(journal).key)
        append(journal, 3)
        to_rows(journal, dsn)
    over = f"convert_to(repeat('x', {MAX_BUNDLE_BYTES + 1}), 'UTF8')"
    execute(
        dsn,
        "INSERT INTO tightseal_log_tile (log_id, path, data) VALUES "
        f"('\\x{log_id.hex()}', 'tile/1/000.p/1', {over})",
    )
    with RowTileStore(dsn, log_id, read_only=True) as store:
        with refused(Code.LOG_TAMPERED):
            store.read("tile/1/000.p/1")
        # Of a tree that is larger: not covered, and not read.
        assert verify_log(store, trust).ahead == ("tile/1/000.p/1",)
        monkeypatch.setattr(tilerows, "SPARE_PATHS", 3)
        with refused(Code.LOG_TAMPERED):
            verify_log(store, trust)
    monkeypatch.setattr(tilerows, "MAX_LOGS", 0)
    with refused(Code.LOG_TAMPERED):
        listed_logs(dsn)


@pytest.mark.parametrize("path", ["tile/0/../x", "x" * 200, "tile/0/000.p/300", "é"])
def test_a_row_that_is_no_tile(dsn: str, tmp_path: Path, path: str) -> None:
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 3)
        to_rows(journal, dsn)
        with RowTileStore(dsn, journal.head().log_id) as store:
            store.write(path, b"x")
            with refused(Code.LOG_TAMPERED):
                verify_log(store, Trust(signer_of(journal).key))

# SPDX-License-Identifier: Apache-2.0
"""What a server may answer a reader of tiles, and how long it may take."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from log_support import append, opened, published, signer_of

from tightseal.audit.checkpoint import Trust
from tightseal.audit.note import MAX_NOTE_BYTES
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.verify import (
    prove_consistency,
    prove_entry,
    read_checkpoint,
    read_entries,
    verify_log,
)
from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.model.tls import TlsTrust
from tightseal.service.tilefetch import FetchBounds, HttpTileSource
from tile_places import files_in, server_place

TILE = "tile/0/000.p/3"
PATIENT = 20.0


def refused(*codes: Code) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code in codes)


Script = Callable[[socket.socket, int], None]


@contextmanager
def scripted(script: Script) -> Iterator[tuple[str, list[int]]]:
    """A server that does what the script says with each connection's first request."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENT)
                try:
                    if connection.recv(65536):
                        asked.append(1)
                        script(connection, len(asked))
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/log", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENT)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    length = [f"content-length: {len(body)}", "connection: close"]
    lines = [f"HTTP/1.1 {status}", *length, *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def always(data: bytes) -> Script:
    return lambda connection, _: connection.sendall(data)


def source(
    url: str, slept: list[float] | None = None, **bounds: float
) -> HttpTileSource:
    naps = [] if slept is None else slept
    return HttpTileSource(
        url,
        bounds=FetchBounds(**bounds),  # type: ignore[arg-type]
        sleep=naps.append,
    )


def test_what_is_not_there_is_not_there() -> None:
    for status in ("404 Not Found", "410 Gone"):
        with scripted(always(answer(status, b"x"))) as (url, _), source(url) as tiles:
            assert tiles.read(TILE) is None


def test_a_tile_and_its_length() -> None:
    good = always(answer("200 OK", b"x" * 96))
    with scripted(good) as (url, asked), source(url) as tiles:
        assert tiles.read(TILE) == b"x" * 96
        # Twice in a row is asked once; the checkpoint is always asked for.
        assert tiles.read(TILE) == b"x" * 96
        assert len(asked) == 1
        tiles.read("checkpoint")
        tiles.read("checkpoint")
        assert len(asked) == 3


@pytest.mark.parametrize(
    ("path", "size"),
    [(TILE, 97), ("tile/0/000", 8193), ("checkpoint", MAX_NOTE_BYTES + 1)],
)
def test_more_bytes_than_can_be_right(path: str, size: int) -> None:
    with scripted(always(answer("200 OK", b"x" * size))) as (url, asked):
        with source(url) as tiles, refused(Code.LOG_TAMPERED):
            tiles.read(path)
        assert len(asked) == 1


def test_an_answer_without_end() -> None:
    def endless(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    too_long = refused(Code.LOG_TAMPERED)
    with scripted(endless) as (url, _), source(url) as tiles, too_long:
        tiles.read("checkpoint")


def test_an_answer_in_drops() -> None:
    ended = threading.Event()

    def drops(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 96\r\n\r\n")
        while not ended.wait(0.02):
            connection.sendall(b"x")

    with scripted(drops) as (url, _):
        for bounds in ({"answer_seconds": 0.3}, {"seconds": 0.3}):
            began = time.monotonic()
            with source(url, **bounds) as tiles, refused(Code.LOG_UNREACHABLE):
                tiles.read(TILE)
            assert time.monotonic() - began < PATIENT
        ended.set()


@pytest.mark.parametrize(
    "data",
    [
        answer("301 Moved", b"", "location: http://127.0.0.1:1/"),
        answer("403 Forbidden"),
        answer("500 Internal Server Error"),
        answer("206 Partial Content", b"x" * 96),
        answer("200 OK", b"x" * 96, "content-encoding: gzip"),
        answer("200 OK", b"x" * 96, "content-encoding: identity, br"),
    ],
    ids=["redirect", "forbidden", "error", "part", "gzip", "coded twice"],
)
def test_answers_that_are_no_tile_are_not_asked_for_again(data: bytes) -> None:
    with scripted(always(data)) as (url, asked):
        with source(url) as tiles, refused(Code.LOG_UNREACHABLE):
            tiles.read(TILE)
        assert len(asked) == 1


def test_a_broken_answer_is_asked_for_again() -> None:
    def once(connection: socket.socket, number: int) -> None:
        whole = answer("200 OK", b"x" * 96)
        connection.sendall(whole[:-1] if number == 1 else whole)

    slept: list[float] = []
    with scripted(once) as (url, asked), source(url, slept) as tiles:
        assert tiles.read(TILE) == b"x" * 96
    assert (len(asked), slept) == (2, [0.2])


def test_a_busy_server_is_given_the_time_that_it_asks_for() -> None:
    def busy(connection: socket.socket, number: int) -> None:
        later = answer("429 Too Many Requests", b"", "retry-after: 3")
        connection.sendall(answer("200 OK", b"x" * 96) if number == 3 else later)

    slept: list[float] = []
    with scripted(busy) as (url, asked), source(url, slept) as tiles:
        assert tiles.read(TILE) == b"x" * 96
    assert (len(asked), slept) == (3, [3.0, 3.0])


@pytest.mark.parametrize(("after", "times"), [(3, 4), (11, 1)])
def test_a_server_that_stays_busy_is_given_up(after: int, times: int) -> None:
    later = answer("503 Service Unavailable", b"", f"retry-after: {after}")
    with scripted(always(later)) as (url, asked), source(url) as tiles:
        with refused(Code.LOG_UNREACHABLE):
            tiles.read(TILE)
        assert len(asked) == times


def test_answers_are_counted() -> None:
    with scripted(always(answer("404 Not Found"))) as (url, asked):
        with source(url, answers=2) as tiles:
            tiles.read("tile/0/000")
            tiles.read("tile/0/001")
            with refused(Code.LOG_UNREACHABLE):
                tiles.read("tile/0/002")
        assert len(asked) == 2


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with source(f"http://127.0.0.1:{port}") as tiles, refused(Code.LOG_UNREACHABLE):
        tiles.read("checkpoint")


@pytest.mark.parametrize(
    "url", ["http://", "https://user@host/", "http://host/?x", "http://host/#x"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SettingsError):
        HttpTileSource(url)


def test_a_certificate_is_not_judged_by_a_pin_that_is_not_there() -> None:
    with pytest.raises(SettingsError):
        HttpTileSource("https://host", tls=TlsTrust.ATTESTED)


# -- a log ------------------------------------------------------------------------


def test_a_log_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """Partial tiles of the older checkpoint go; their full ones are read."""
    with opened(tmp_path / "journal.db") as journal, server_place() as server:
        trust = Trust(signer_of(journal).key)
        store = FileTileStore(tmp_path / "tiles")
        append(journal, 300)
        publish(journal, store)
        older = (tmp_path / "tiles" / "checkpoint").read_bytes()
        append(journal, 300, since=300)
        publish(journal, store)
        files = files_in(tmp_path / "tiles") | {"checkpoint": older}
        assert "tile/0/001.p/44" not in files
        server.fill(files)
        with server.source() as tiles:
            audited = verify_log(tiles, trust)
            assert audited.head.checkpoint.size == 300
            assert prove_entry(tiles, trust, 299).index == 299
            assert prove_consistency(tiles, 256, 300)
        # A folder's reader had listed what was removed since.
        (tmp_path / "tiles" / "checkpoint").write_bytes(older)
        again = _Listed(tmp_path / "tiles", ["tile/0/001.p/44"])
        assert verify_log(again, trust).head.checkpoint.size == 300
        (tmp_path / "tiles" / "tile/0/001").unlink()
        with refused(Code.LOG_TAMPERED):
            verify_log(again, trust)


class _Listed(FileTileStore):
    """A folder that has fewer files than when it was listed."""

    def __init__(self, folder: Path, gone: list[str]) -> None:
        super().__init__(folder)
        self._gone = gone

    def paths(self, size: int) -> Iterator[str]:
        yield from super().paths(size)
        yield from self._gone


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700])
def test_entries_are_proved_bundle_by_bundle(tmp_path: Path, size: int) -> None:
    store, trust = published(tmp_path, size)
    head = read_checkpoint(store, trust)
    with opened(tmp_path / "journal.db") as journal:
        entries = tuple(journal.leaves(0, size))
    for start, end in ((0, size), (size - 1, size), (0, 1), (size // 2, size), (0, 0)):
        assert read_entries(store, head, start, end) == entries[start:end]


def test_every_entry_of_a_bundle_is_covered_by_its_one_path(tmp_path: Path) -> None:
    store, trust = published(tmp_path, 300)
    head = read_checkpoint(store, trust)
    for path, start, end in (
        ("tile/entries/000", 0, 256),
        ("tile/entries/001.p/44", 256, 300),
    ):
        whole = store.read(path) or b""
        length = len(whole) // (end - start)
        for at in (*range(start, end, 13), end - 1):
            changed = bytearray(whole)
            changed[(at - start) * length + length - 1] ^= 1
            store.write(path, bytes(changed))
            with refused(Code.LOG_TAMPERED):
                read_entries(store, head, start, start + 1)
        store.write(path, whole)
        read_entries(store, head, start, end)

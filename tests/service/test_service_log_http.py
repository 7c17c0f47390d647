# SPDX-License-Identifier: Apache-2.0
"""A provider serves its own log over HTTP, and our reader takes it from there."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from service_harness import (
    HttpAnswer,
    ScriptedProvider,
    Served,
    ask_http,
    connect,
    http_request,
    scripted_front,
    scripted_settings,
    serving,
    until,
)

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_signer
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.tiles import TileSource
from tightseal.audit.verify import prove_entry, verify_log
from tightseal.errors import CODES, Code, ServiceError
from tightseal.model.ports import JournalEntry
from tightseal.service import tileroutes
from tightseal.service.admission import Admission
from tightseal.service.front import ServedLog
from tightseal.service.listen_settings import HostLimits, HttpSettings
from tightseal.service.tilefetch import HttpTileSource

SIZE = 300
LONGEST = 5 << 20


def log_key(log_id: bytes) -> bytes:
    return hashlib.sha256(b"of the provider" + log_id).digest()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Trust]:
    """A folder of tiles, the log's id, and its key."""
    folder = tmp_path_factory.mktemp("log")
    journal = SqliteJournal.create(folder / "journal.sqlite", log_key=log_key)
    waiting = []
    for number in range(SIZE):
        entry = JournalEntry(
            entry_id=number.to_bytes(16, "big"),
            time=1_800_000_000,
            granted=True,
            protocol_class="v1",
            code="granted",
            body={},
        )
        waiting.append(journal.submit(entry, redemption=None, response=b""))
    for done in waiting:
        done.result(timeout=30)
    publish(journal, FileTileStore(folder / "tiles"))
    log_id = journal.head().log_id
    journal.close()
    return folder / "tiles", log_id.hex(), Trust(log_signer(log_id, log_key).key)


@contextmanager
def served(
    log_id: str,
    source: TileSource,
    *,
    http: HttpSettings | None = None,
    rate: float = 0,
) -> Iterator[Served]:
    settings = scripted_settings(
        http=http, limits=HostLimits(requests_per_second=rate, failures_per_second=0)
    )
    front = replace(
        scripted_front(ScriptedProvider(), settings),
        admission=Admission(settings.host.limits),
        log=ServedLog(log_id, source),
    )
    with serving(front) as run:
        yield run


@pytest.fixture
def run(log: tuple[Path, str, Trust]) -> Iterator[Served]:
    folder, log_id, _ = log
    with served(log_id, FileTileStore(folder)) as found:
        yield found


def get(run: Served, log_id: str, path: str) -> HttpAnswer:
    return ask_http(run.http_port, "GET", f"/v1/log/{log_id}/{path}")


def test_the_log_is_read_and_verified_over_http(
    run: Served, log: tuple[Path, str, Trust]
) -> None:
    _, log_id, trust = log
    base = f"http://127.0.0.1:{run.http_port}/v1/log/{log_id}"
    with HttpTileSource(base) as source:
        audited = verify_log(source, trust)
        assert audited.head.checkpoint.size == SIZE
        assert (audited.files, audited.ahead) == (5, ())
        assert prove_entry(source, trust, 299).index == 299
        # What is not there is said to be not there, and nothing worse.
        assert source.read("tile/0/007") is None


def test_what_an_answer_says_of_itself(
    run: Served, log: tuple[Path, str, Trust]
) -> None:
    folder, log_id, _ = log
    forever = "public, max-age=31536000, immutable"
    kinds = {
        "checkpoint": ("text/plain; charset=utf-8", "no-cache"),
        "tile/0/000": ("application/octet-stream", forever),
        "tile/entries/000": ("application/octet-stream", forever),
        "tile/0/001.p/44": ("application/octet-stream", "public, max-age=3600"),
        "tile/1/000.p/1": ("application/octet-stream", "public, max-age=3600"),
    }
    for path, (content_type, caching) in kinds.items():
        answer = get(run, log_id, path)
        assert answer.status == 200, path
        assert answer.body == (folder / path).read_bytes()
        assert answer.headers["content-type"] == content_type
        assert answer.headers["cache-control"] == caching
        assert answer.headers["x-content-type-options"] == "nosniff"
    head = ask_http(run.http_port, "HEAD", f"/v1/log/{log_id}/tile/0/000")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == "8192"


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/001",
        "tile/0/000.p/12",
        "tile/9/000",
        "tile/0/0",
        "tile/0/../../checkpoint",
        "tile/..%2f..%2fjournal.sqlite",
        "tile/%2e%2e/%2e%2e/journal.sqlite",
        "tile/0/.000.0123456789abcdef",
        "tile/",
        "tile/entries",
        "checkpoint/",
        "journal.sqlite",
        "",
    ],
)
def test_nothing_but_tiles_is_served(
    run: Served, log: tuple[Path, str, Trust], path: str
) -> None:
    folder, log_id, _ = log
    assert (folder.parent / "journal.sqlite").exists()
    answer = get(run, log_id, path)
    assert answer.status == 404
    assert answer.json["code"] == "not_found"


def test_another_log_is_not_served(run: Served, log: tuple[Path, str, Trust]) -> None:
    _, log_id, _ = log
    for other in ("0" * 32, log_id.upper(), log_id[:-1], ".."):
        assert get(run, other, "checkpoint").status == 404
    posted = ask_http(run.http_port, "POST", f"/v1/log/{log_id}/checkpoint", b"x")
    assert (posted.status, posted.json["code"]) == (405, "method_not_allowed")


def test_without_the_setting_no_log_is_served(log: tuple[Path, str, Trust]) -> None:
    front = scripted_front(ScriptedProvider(), scripted_settings())
    with serving(front) as run:
        assert get(run, log[1], "checkpoint").status == 404


def test_readers_count_against_the_limit_of_their_source(
    log: tuple[Path, str, Trust],
) -> None:
    folder, log_id, _ = log
    with served(log_id, FileTileStore(folder), rate=2) as run:
        answers = [get(run, log_id, "checkpoint") for _ in range(20)]
    assert {answer.status for answer in answers} == {200, 429}
    late = next(answer for answer in answers if answer.status == 429)
    assert late.json["code"] == "rate_limited"
    assert int(late.headers["retry-after"]) >= 1


class Failing:
    """A database that is gone."""

    def read(self, path: str) -> bytes | None:
        raise ServiceError(Code.LOG_UNREACHABLE, f"{path}: gone")

    def paths(self, size: int) -> Iterator[str]:
        raise ServiceError(Code.LOG_UNREACHABLE, f"{size}: gone")


def test_a_place_that_cannot_be_read_is_told_as_such() -> None:
    with served("a" * 32, Failing()) as run:
        answer = get(run, "a" * 32, "tile/0/000")
        ready = ask_http(run.http_port, "GET", "/healthz")
    assert answer.status == CODES[Code.LOG_UNREACHABLE].status == 503
    assert answer.json["code"] == "log_unreachable"
    assert b"gone" not in answer.body
    assert ready.status == 200


class Long:
    """A bundle of many bytes."""

    def read(self, path: str) -> bytes | None:
        del path
        return bytes(LONGEST)

    def paths(self, size: int) -> Iterator[str]:
        del size
        return iter(())


def test_who_does_not_take_an_answer_holds_a_bounded_part_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tileroutes, "MAX_HELD_BYTES", 2 * LONGEST)
    limits = HttpSettings(request_seconds=2.0)
    log_id = "a" * 32
    request = http_request("GET", f"/v1/log/{log_id}/tile/entries/000")
    with served(log_id, Long(), http=limits) as run:
        assert len(get(run, log_id, "tile/entries/000").body) == LONGEST
        slow = [connect(run.http_port) for _ in range(2)]
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request)

        def full() -> bool:
            return get(run, log_id, "tile/entries/000").status == 503

        until(full, 20)
        # They are cut off, and what they held is given back.
        until(lambda: not full(), 30)
        for connection in slow:
            connection.close()


def test_tiles_come_while_all_other_threads_are_taken(
    log: tuple[Path, str, Trust],
) -> None:
    folder, log_id, _ = log
    with served(log_id, FileTileStore(folder)) as run:
        provider = run.front.provider
        assert isinstance(provider, ScriptedProvider)
        provider.gate = threading.Event()
        busy = [connect(run.http_port) for _ in range(4)]
        for connection in busy:
            connection.sendall(http_request("POST", "/v1/keys", b"{}"))
        try:
            until(lambda: run.front.pool.in_flight == 4, 20)
            assert get(run, log_id, "tile/0/000").status == 200
        finally:
            provider.open_gate()
            for connection in busy:
                connection.close()

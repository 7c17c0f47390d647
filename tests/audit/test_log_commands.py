# SPDX-License-Identifier: Apache-2.0
"""The commands over a log in each place: a folder, rows, a server."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from journal_worker import log_key

from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_signer
from tightseal.audit.note import NoteKey, NoteSigner, SignatureType, parse_note
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.witness import Witness
from tightseal.cli import audit_tiles, main
from tightseal.model.ports import JournalEntry
from tightseal.service.tilerows import RowTileStore
from tile_places import Server, ServerPlace, files_in, server_place, sql

NOW = 1_790_000_000
WITNESS = NoteSigner("witness.example/w", SignatureType.COSIGNATURE, b"\7" * 32)
SIZE = 300
RELOAD_SECONDS = 30.0


@dataclass
class Node:
    """A node's journal, and the places that its log was published to."""

    config: Path
    key: str
    log_id: bytes
    folder: Path
    dsn: str
    server: ServerPlace

    def places(self) -> list[str]:
        return [str(self.folder), self.dsn, self.server.url]

    def publish(self) -> None:
        for place in (str(self.folder), self.dsn):
            to = ["--config", str(self.config), "--tiles", place]
            assert main(["audit", "export", *to]) == 0
        self.server.fill(files_in(self.folder))

    def run(self, command: str, place: str, *more: str) -> int:
        keys = ["--tiles", place, "--log-key", self.key]
        return main(["audit", command, *keys, *more])


def record(path: Path, numbers: range) -> None:
    journal = SqliteJournal.open(path, log_key=log_key)
    waiting = []
    for number in numbers:
        entry = JournalEntry(
            entry_id=number.to_bytes(16, "big"),
            time=NOW + number,
            granted=number % 10 != 0,
            protocol_class="v1",
            code="granted" if number % 10 else "measurement_not_allowed",
            body={"keys": [{"purpose": "disk"}], "workload": f"w{number % 3}"},
        )
        waiting.append(journal.submit(entry, redemption=None, response=b""))
    for done in waiting:
        done.result(timeout=30)
    journal.close()


@contextmanager
def a_node(folder: Path, dsn: str) -> Iterator[Node]:
    folder.mkdir()
    config = folder / "tightseal.toml"
    config.write_text(f'[host]\nstate_dir = "{folder}"\n')
    journal = SqliteJournal.create(folder / "journal.sqlite", log_key=log_key)
    log_id = journal.head().log_id
    journal.close()
    key = str(log_signer(log_id, log_key).key)
    with server_place() as server:
        yield Node(config, key, log_id, folder / "tiles", dsn, server)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("nodes") / "one"
    with a_node(folder, postgres.new_address()) as made:
        record(folder / "journal.sqlite", range(SIZE))
        made.publish()
        yield made


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_log_is_verified_alike_in_every_place(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = []
    for place in node.places():
        assert node.run("verify", place, "--json", "--min-size", str(SIZE)) == 0
        found.append(told(capsys))
        assert node.run("verify", place) == 0
        assert capsys.readouterr().out.startswith(f"whole  {SIZE} entries in {place}")
        assert node.run("verify", place, "--min-size", str(SIZE + 1)) == 1
        assert capsys.readouterr().out == ""
    assert found[0] == found[1] == found[2]
    assert found[0]["size"] == SIZE


def test_an_entry_is_proved_alike_from_every_place(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proofs = []
    out = tmp_path / "entry.tlog-proof"
    for place in node.places():
        which = ["--entry-id", (271).to_bytes(16, "big").hex(), "--out", str(out)]
        assert node.run("prove", place, *which) == 0
        proofs.append(out.read_bytes())
        out.unlink()
    assert proofs[0] == proofs[1] == proofs[2]
    out.write_bytes(proofs[0])
    capsys.readouterr()
    check = ["audit", "verify", "--log-key", node.key, "--proof", str(out), "--json"]
    assert main(check) == 0
    assert told(capsys)["index"] == 271


@pytest.mark.parametrize(
    "asked",
    [
        ["tail", "--count", "3"],
        ["tail", "--after", "250", "--count", "10"],
        ["tail", "--after", "1000"],
        ["query", "--outcome", "denied"],
        ["query", "--workload", "w1", "--after", "290"],
        ["query", "--outcome", "denied", "--count", "4"],
        ["query", "--code", "granted", "--since", "2026-09-21T14:18:20Z"],
    ],
    ids=" ".join,
)
def test_entries_are_the_journals_in_every_place(
    node: Node, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    capsys.readouterr()
    command, *more = asked
    status = main(["audit", command, "--config", str(node.config), *more, "--json"])
    wanted = told(capsys)
    for place in node.places():
        assert node.run(command, place, *more, "--json") == status
        assert told(capsys) == wanted
        assert node.run(command, place, *more) == status
        assert len(capsys.readouterr().out.splitlines()) == len(wanted["entries"])


def test_changed_entries_are_not_shown(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = f"tile/entries/001.p/{SIZE - 256}"
    files = files_in(node.folder)
    changed = files[bundle][:-1] + b"\0"
    with RowTileStore(node.dsn, node.log_id) as rows:
        rows.write(bundle, changed)
        node.server.fill({**files, bundle: changed})
        (node.folder / bundle).write_bytes(changed)
        try:
            capsys.readouterr()
            for place in node.places():
                for command in (["tail"], ["query", "--outcome", "granted"]):
                    assert node.run(command[0], place, *command[1:]) == 1
                    out, err = capsys.readouterr()
                    assert out == ""
                    assert "log_tampered" in err
        finally:
            rows.write(bundle, files[bundle])
            (node.folder / bundle).write_bytes(files[bundle])
            node.server.fill(files)


def test_a_database_lists_the_logs_of_its_nodes(
    tmp_path: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = postgres.new_address()
    origins = {}
    assert main(["audit", "logs", "--tiles", dsn]) == 1
    for number in (1, 2, 3):
        with a_node(tmp_path / f"{number}", dsn) as made:
            record(made.config.with_name("journal.sqlite"), range(number))
            to = ["--config", str(made.config), "--tiles", dsn]
            assert main(["audit", "export", *to]) == 0
            assert made.run("verify", dsn) == 0
            origins[made.key.partition("+")[0]] = number
    capsys.readouterr()
    assert main(["audit", "logs", "--tiles", dsn, "--json"]) == 0
    listed = told(capsys)["logs"]
    assert {log["origin"]: log["size"] for log in listed} == origins
    for log in listed:
        assert set(log) == {
            *("id", "origin", "size", "checkpoint_time", "place", "problem"),
        }
        assert log["origin"].endswith(log["id"])
        assert log["checkpoint_time"].endswith("Z")
    assert main(["audit", "logs", "--tiles", dsn]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(log["id"] in line for log, line in zip(listed, lines, strict=True))


@contextmanager
def a_witness(key: str, folder: Path) -> Iterator[str]:
    """A witness over HTTP."""
    witness = Witness(WITNESS, [NoteKey.parse(key)], FileTileStore(folder))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            line = witness.add_checkpoint(body, now=NOW)
            self.send_response(200)
            self.send_header("content-length", str(len(line)))
            self.end_headers()
            self.wfile.write(line)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            del format, arguments

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_cosignatures_are_kept_in_rows(node: Node, tmp_path: Path) -> None:
    needed = ["--witness", str(WITNESS.key), "--threshold", "1"]
    assert node.run("verify", node.dsn, *needed) == 1
    with a_witness(node.key, tmp_path / "seen") as url:
        cosign = ["--witness", str(WITNESS.key), "--url", url]
        assert node.run("cosign", node.dsn, *cosign) == 0
        assert node.run("verify", node.dsn, *needed) == 0
        # What a server has is written by whoever runs it.
        assert node.run("cosign", node.server.url, *cosign) == 2
    with RowTileStore(node.dsn, node.log_id, read_only=True) as rows:
        assert len(parse_note(rows.read("checkpoint") or b"").signatures) == 2


def test_long_work_says_how_far_it_is(
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(audit_tiles, "PROGRESS_SECONDS", 0.0)
    assert node.run("verify", str(node.folder), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["size"] == SIZE
    assert "note: 299 entries checked so far" in err
    which = ["--entry-id", (9).to_bytes(16, "big").hex(), "--out", str(tmp_path / "x")]
    assert node.run("prove", node.server.url, *which) == 0
    assert "entries searched so far" in capsys.readouterr().err


# -- what is asked wrongly, or of nobody ------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://reader:hush@127.0.0.1:1/log",
        "postgresql://reader@127.0.0.1:1/log?password=hush",
        "postgresql://[::1/log",
        "https://user@host/log",
        "ftp://host/log",
    ],
)
def test_places_that_are_refused_before_they_are_asked(
    node: Node, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert node.run("verify", place) == 2
    assert main(["audit", "logs", "--tiles", place]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "settings_invalid" in err
    assert "hush" not in err


@pytest.mark.parametrize(
    ("place", "commands"),
    [
        ("postgresql://reader@127.0.0.1:1/log", ["verify", "tail", "query", "prove"]),
        ("http://127.0.0.1:1/log", ["verify"]),
    ],
    ids=["database", "server"],
)
def test_what_cannot_be_reached_is_not_judged(
    node: Node,
    place: str,
    commands: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    proof = ["--index", "1", "--out", str(tmp_path / "x")]
    for command in commands:
        assert node.run(command, place, *(proof if command == "prove" else [])) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "log_unreachable" in err


def test_a_password_comes_by_file_or_environment(
    node: Node,
    postgres: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    schema = node.dsn.rpartition("=")[2]
    rules = postgres.data / "pg_hba.conf"
    rule = f"local all auditor_{schema} scram-sha-256\n"
    rules.write_text(rule + rules.read_text())

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            f"CREATE ROLE auditor_{schema} LOGIN PASSWORD 'hush-hush'"
        )
        await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO auditor_{schema}")
        await connection.execute(
            f"GRANT SELECT ON tightseal_log_tile TO auditor_{schema}"
        )
        await connection.execute("SELECT pg_reload_conf()")

    sql(node.dsn, make)
    address = node.dsn.replace("postgres@", f"auditor_{schema}@")
    file = tmp_path / "passwords"
    file.write_text(f"*:*:*:auditor_{schema}:hush-hush\n")
    file.chmod(0o600)
    deadline = time.monotonic() + RELOAD_SECONDS
    while node.run("verify", address) != 2:
        assert time.monotonic() < deadline, "the server does not ask for passwords"
    assert "log_unreachable" in capsys.readouterr().err
    assert node.run("verify", f"{address}&passfile={file}") == 0
    for name, value in (("PGPASSFILE", str(file)), ("PGPASSWORD", "hush-hush")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert node.run("verify", address) == 0
            assert main(["audit", "logs", "--tiles", address]) == 0
    out, err = capsys.readouterr()
    assert "hush" not in out + err


def test_a_log_is_not_exported_to_a_server(node: Node) -> None:
    to = ["--config", str(node.config), "--tiles", node.server.url]
    assert main(["audit", "export", *to]) == 2


def test_tiles_and_key_belong_together(node: Node) -> None:
    for command in ("tail", "query"):
        assert main(["audit", command, "--tiles", str(node.folder)]) == 2
        assert main(["audit", command, "--log-key", node.key]) == 2


def test_a_reading_has_an_end(node: Node) -> None:
    limit = ["--max-seconds", "0"]
    assert node.run("verify", node.server.url, *limit) == 2
    assert node.run("verify", node.server.url, "--max-seconds", "60") == 0

# SPDX-License-Identifier: Apache-2.0
"""The commands of the log and of witnesses, over a real journal."""

import asyncio
import hashlib
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_signer
from tightseal.audit.proof import LogProof
from tightseal.cli import main
from tightseal.errors import Code, RequestError
from tightseal.model.ports import JournalEntry
from tightseal.service import witness as served

NOW = 1_790_000_000
STARTED = "witness "
SILENT, SOURCES = 600, 10
"""Connections that say nothing, and the addresses that they come from: more than a
witness takes, of all and of each."""


def log_key(log_id: bytes) -> bytes:
    return hashlib.sha256(b"of the provider" + log_id).digest()


class Provider:
    """A provider's state folder with a signed journal."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "tightseal.toml"
        self.config.write_text(f'[host]\nstate_dir = "{folder}"\n')
        self.path = folder / "journal.sqlite"
        self.tiles = folder / "tiles"
        self.size = 0
        journal = SqliteJournal.create(self.path, log_key=log_key)
        self.key = str(log_signer(journal.head().log_id, log_key).key)
        journal.close()

    def record(self, count: int) -> None:
        journal = SqliteJournal.open(self.path, log_key=log_key)
        for number in range(self.size, self.size + count):
            entry = JournalEntry(
                entry_id=number.to_bytes(16, "big"),
                time=NOW + number,
                granted=True,
                protocol_class="v1",
                code="granted",
                body={"keys": [{"purpose": "disk"}], "evidence_hash": b"\xab" * 32},
            )
            journal.record(entry, redemption=None, response=b"")
        journal.close()
        self.size += count

    def run(self, command: str, *arguments: str) -> int:
        where = ["--config", str(self.config)] if command == "export" else []
        return main(["audit", command, *where, *arguments])

    def export(self) -> int:
        return self.run("export", "--tiles", str(self.tiles), "--json")

    def of_tiles(self, command: str, *arguments: str) -> int:
        tiles = ["--tiles", str(self.tiles), "--log-key", self.key]
        return self.run(command, *tiles, *arguments)


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setenv("COLUMNS", "300")
    made = Provider(tmp_path)
    made.record(20)
    return made


def test_a_log_is_written_checked_and_grows(
    provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provider.export() == 0
    first = json.loads(capsys.readouterr().out)
    assert first["size"] == 20
    assert provider.of_tiles("verify", "--json") == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen == first | {"witnesses": [], "ahead": []}
    provider.record(5)
    assert provider.export() == 0
    assert json.loads(capsys.readouterr().out)["size"] == 25
    assert provider.of_tiles("verify") == 0
    assert capsys.readouterr().out.startswith("whole  25 entries")


def test_fewer_entries_than_before_are_too_few(
    provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provider.export() == 0
    assert provider.of_tiles("verify", "--min-size", "20") == 0
    capsys.readouterr()
    assert provider.of_tiles("verify", "--min-size", "21") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "log_tampered" in err


def test_a_changed_tile_is_found(
    provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provider.export() == 0
    (bundle,) = (provider.tiles / "tile/entries").rglob("20")
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"\0")
    assert provider.of_tiles("verify") == 1
    assert "log_tampered" in capsys.readouterr().err


def test_another_log_key_is_refused(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert provider.export() == 0
    provider.key = Provider(other).key
    assert provider.of_tiles("verify") == 1
    assert "log_undersigned" in capsys.readouterr().err
    provider.key = "no key"
    assert provider.of_tiles("verify") == 2


def test_the_journal_itself_is_checked(
    provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--config", str(provider.config), "--log-key", provider.key]
    assert main(["audit", "verify", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 20
    assert main(["audit", "verify", *where]) == 0
    connection = sqlite3.connect(provider.path, isolation_level=None)
    connection.execute("UPDATE journal SET granted = 0 WHERE seq = 7")
    connection.close()
    capsys.readouterr()
    assert main(["audit", "verify", *where]) == 1
    assert "log_tampered" in capsys.readouterr().err
    # Tiles are not brought up to a journal that was changed.
    assert provider.export() == 1


def test_where_there_is_no_log(provider: Provider, tmp_path: Path) -> None:
    assert provider.of_tiles("verify") == 2
    provider.path.unlink()
    assert provider.export() == 2
    proof = str(tmp_path / "no.tlog-proof")
    assert main(["audit", "verify", "--log-key", provider.key, "--proof", proof]) == 2


def test_an_entry_is_proved_and_the_proof_is_checked_alone(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provider.export() == 0
    out = tmp_path / "entry.tlog-proof"
    check = ["verify", "--log-key", provider.key, "--proof", str(out)]
    for which in (["--index", "7"], ["--entry-id", (7).to_bytes(16, "big").hex()]):
        out.unlink(missing_ok=True)
        assert provider.of_tiles("prove", *which, "--out", str(out)) == 0
        capsys.readouterr()
        assert main(["audit", *check, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["index"] == 7
        assert found["size"] == 20
        assert found["entry"]["entry_id"] == (7).to_bytes(16, "big").hex()
        assert found["entry"]["body"]["keys"] == [{"purpose": "disk"}]
    assert main(["audit", *check]) == 0
    assert capsys.readouterr().out.startswith("proved  entry 7 of 20")
    # Another entry in its place is not proved.
    proof = LogProof.parse(out.read_bytes())
    forged = LogProof(proof.index, proof.path, proof.checkpoint, extra=b"\x82")
    out.write_bytes(forged.encode())
    assert main(["audit", *check]) == 1
    assert "log_proof_invalid" in capsys.readouterr().err


def test_what_is_not_in_the_log_is_not_proved(
    provider: Provider, tmp_path: Path
) -> None:
    assert provider.export() == 0
    out = ["--out", str(tmp_path / "x")]
    assert provider.of_tiles("prove", "--index", "20", *out) == 1
    assert provider.of_tiles("prove", "--entry-id", "ff" * 16, *out) == 2
    assert provider.of_tiles("prove", "--entry-id", "zz", *out) == 2
    assert provider.of_tiles("prove", *out) == 2
    assert not (tmp_path / "x").exists()


# -- witnesses --------------------------------------------------------------------


def made_witness(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    name = f"witness.example/{folder.name}"
    capsys.readouterr()
    arguments = ["audit", "witness", "init", str(folder), "--name", name, "--json"]
    assert main(arguments) == 0
    return str(json.loads(capsys.readouterr().out)["key"])


@contextmanager
def running(folder: Path, log: str, port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "tightseal", "audit", "witness", "serve"]
    process = subprocess.Popen(
        [*command, str(folder), "--log", log, "--port", str(port)],
        stderr=subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the witness ended"
            try:
                httpx.get(f"{url}/x/checkpoint", trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("forked", [9, 4], ids=["longer", "as-long"])
def test_witnesses_cosign_and_find_a_fork(
    provider: Provider,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    forked: int,
) -> None:
    folder = tmp_path / "w1"
    key = made_witness(folder, capsys)
    assert provider.export() == 0
    with running(folder, provider.key, free_port()) as url:
        cosign = ["--witness", key, "--url", url]
        assert provider.of_tiles("cosign", *cosign, "--json") == 0
        capsys.readouterr()
        needed = ["--witness", key, "--threshold", "1"]
        assert provider.of_tiles("verify", *needed, "--json") == 0
        (witness,) = json.loads(capsys.readouterr().out)["witnesses"]
        assert witness["name"] == "witness.example/w1"
        assert witness["time"] > NOW
        # Another entry, so another checkpoint, which is not cosigned yet.
        older = provider.path.read_bytes()
        provider.record(4)
        assert provider.export() == 0
        assert provider.of_tiles("verify", *needed) == 1
        assert provider.of_tiles("cosign", *cosign) == 0
        assert provider.of_tiles("verify", *needed) == 0
        hashed = hashlib.sha256(provider.key.split("+")[0].encode()).hexdigest()
        answer = httpx.get(f"{url}/{hashed}/checkpoint", trust_env=False)
        assert answer.status_code == 200
        assert answer.content.splitlines()[1] == b"24"
        # The host puts the journal back, and goes on with another past.
        for left in tmp_path.glob("journal.sqlite-*"):
            left.unlink()
        provider.path.write_bytes(older)
        provider.size = 1000
        provider.record(forked)
        provider.tiles = tmp_path / "fork"
        assert provider.export() == 0
        assert provider.of_tiles("verify") == 0, "alone it looks whole"
        capsys.readouterr()
        assert provider.of_tiles("cosign", *cosign, "--json") == 1
        (line,) = json.loads(capsys.readouterr().out)["refused"]
        assert "log_forked" in line
        assert provider.of_tiles("verify", *needed) == 1


def test_what_a_witness_answers_over_http(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "w2"
    made_witness(folder, capsys)
    assert provider.export() == 0
    checkpoint = (provider.tiles / "checkpoint").read_bytes()
    with running(folder, provider.key, free_port()) as url:

        def post(body: bytes) -> httpx.Response:
            return httpx.post(f"{url}/add-checkpoint", content=body, trust_env=False)

        assert post(b"old 1\n\n" + checkpoint).status_code == 409
        stale = post(b"old 7\n\n" + checkpoint)
        assert stale.headers["content-type"].startswith("text/x.tlog.size")
        assert stale.content == b"0\n"
        unknown = checkpoint.replace(b"tightseal/v1/log/", b"tightseal/v1/log/x")
        assert post(b"old 0\n\n" + unknown).status_code == 404
        changed = checkpoint.replace(b"\n20\n", b"\n21\n")
        assert post(b"old 0\n\n" + changed).status_code == 403
        assert post(b"old 21\n\n" + checkpoint).status_code == 400
        assert post(b"hello").status_code == 400
        assert post(b"x" * 2_000_000).status_code == 413
        assert post(f"old 0\n{'A' * 43}=\n\n".encode() + checkpoint).status_code == 422
        good = post(b"old 0\n\n" + checkpoint)
        assert good.status_code == 200
        assert good.content.startswith("\N{EM DASH} witness.example/w2 ".encode())
        nothing = httpx.get(f"{url}/{'0' * 64}/checkpoint", trust_env=False)
        assert nothing.status_code == 404


def test_connections_that_say_nothing_keep_nobody_from_a_witness(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, port = tmp_path / "w4", free_port()
    made_witness(folder, capsys)
    assert provider.export() == 0
    checkpoint = (provider.tiles / "checkpoint").read_bytes()
    with running(folder, provider.key, port) as url, ExitStack() as silent:
        for number in range(SILENT):
            host = f"127.0.0.{1 + number % SOURCES}"
            one = socket.create_connection(
                ("127.0.0.1", port), source_address=(host, 0)
            )
            silent.enter_context(one)
        good = httpx.post(
            f"{url}/add-checkpoint",
            content=b"old 0\n\n" + checkpoint,
            trust_env=False,
            timeout=30,
        )
        assert good.status_code == 200


def test_an_address_that_is_taken_is_said(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "w5"
    made_witness(folder, capsys)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = ["audit", "witness", "serve", str(folder), "--log", provider.key]
        assert main([*command, "--port", port]) == 2
    assert port in capsys.readouterr().err


def test_a_body_that_does_not_end_is_given_up() -> None:
    class Endless:
        async def stream(self) -> AsyncIterator[bytes]:
            while True:
                yield b"o"
                await asyncio.sleep(0.01)

    async def read() -> None:
        await served._body(Endless())  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "BODY_SECONDS", 0.1)
        with pytest.raises(RequestError) as refused:
            asyncio.run(read())
    assert refused.value.code is Code.REQUEST_TIMEOUT


def test_one_folder_has_one_witness(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "w3"
    made_witness(folder, capsys)
    serve = ["audit", "witness", "serve", str(folder), "--log", provider.key]
    with running(folder, provider.key, free_port()):
        assert main(serve) == 1
        assert "state_conflict" in capsys.readouterr().err
    assert main(["audit", "witness", "init", str(folder), "--name", "n"]) == 1
    assert main([*serve[:-1], "no key"]) == 2
    (folder / "witness-key.json").write_text("{}")
    assert main(serve) == 1
    err = capsys.readouterr().err
    assert "log_malformed" in err


def test_too_few_witnesses(
    provider: Provider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = made_witness(tmp_path / "w4", capsys)
    assert provider.export() == 0
    nobody = f"http://127.0.0.1:{free_port()}"
    assert provider.of_tiles("cosign", "--witness", key, "--url", nobody) == 1
    out, err = capsys.readouterr()
    assert "too few" in out
    assert "provider_unreachable" in err
    assert provider.of_tiles("cosign", "--url", nobody) == 2

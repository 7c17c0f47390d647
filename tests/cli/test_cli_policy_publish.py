# SPDX-License-Identifier: Apache-2.0
"""What commands of signed bundles refuse, ask for, and hand to a provider."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from desk_support import AT, NOW, SECRET, Desk, document

from cli_support import run, run_process
from tightseal.cli import passphrase
from tightseal.errors import Code, SettingsError
from tightseal.model.base64url import encode_base64url
from tightseal.policy.bundle import keyfile


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "BCRYPT_ROUNDS", 1)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def signed(desk: Desk) -> Desk:
    """A folder of alice and bob, both of whom must sign, and have signed."""
    assert desk.init("alice", "bob").status == 0
    desk.sign("alice")
    assert desk.sign("bob")["complete"]
    return desk


# -- refusals ------------------------------------------------------------------------


def test_a_danger_is_signed_only_where_accepted(desk: Desk) -> None:
    text = document("database").replace('tee = "tdx"', 'tee = "tdx"\nplatform = "any"')
    desk.document.write_text(text)
    desk.init("alice")
    arguments = ("sign", desk.folder, "--key", desk.key("alice"), *AT)
    said = desk.run(*arguments)
    assert said.status == 1
    assert said.stdout.startswith("not signed  dangers 1\n")
    assert "--accept-danger named-anywhere" in said.stdout
    assert not (desk.folder / "metadata" / "targets.json").exists()
    refused = desk.run(*arguments, as_json=True)
    assert (refused.status, refused.document["signed"]) == (1, [])
    assert [d["id"] for d in refused.document["dangers"]] == ["named-anywhere"]
    signed = desk.sign("alice", "--accept-danger", "named-anywhere")
    assert set(signed) == set(refused.document)
    assert signed["dangers"] == []
    assert desk.publish().status == 0


def test_another_pin_is_refused(signed: Desk) -> None:
    for command, more in (("sign", ("--key", signed.key("alice"))), ("publish", ())):
        said = signed.run(command, signed.folder, *more, "--policy-root", "ab" * 32)
        assert said.status == 1
        assert "bundle_root_mismatch" in said.stderr


def test_a_wrong_passphrase(desk: Desk) -> None:
    desk.init("alice")
    desk.secret.write_text("something else")
    said = desk.run("sign", desk.folder, "--key", desk.key("alice"))
    assert (said.status, said.stdout) == (2, "")
    assert "the passphrase is wrong" in said.stderr
    assert "something else" not in said.stderr


def test_no_terminal_and_no_file(desk: Desk) -> None:
    desk.init("alice")
    said = run("policy", "sign", desk.folder, "--key", desk.key("alice"))
    assert (said.status, said.stdout) == (2, "")
    assert "--passphrase-file" in said.stderr
    assert run("policy", "keygen", desk.place / "new.key").status == 2


def test_a_key_is_not_overwritten(desk: Desk) -> None:
    before = desk.key("alice").read_bytes()
    said = desk.run("keygen", desk.key("alice"))
    assert (said.status, said.stdout) == (2, "")
    assert "no key is overwritten" in said.stderr
    assert desk.key("alice").read_bytes() == before


def test_documents_that_a_folder_does_not_take(desk: Desk) -> None:
    more = ("--approver", desk.pub("alice"), "--document")
    upper = desk.place / "Base.toml"
    upper.write_text(document("database"))
    said = desk.run("init", desk.folder, *more, upper)
    assert said.status == 2
    assert "in lower case" in said.stderr
    place = desk.folder / "targets" / "policy" / "base.toml"
    place.parent.mkdir(parents=True)
    place.write_text(document("mine"))
    said = desk.run("init", desk.folder, *more, desk.document)
    assert said.status == 2
    assert "is not overwritten" in said.stderr
    assert desk.run("init", desk.folder, *more[:2]).status == 0
    assert place.read_text() == document("mine")


def test_a_kind_of_key_that_providers_do_not_take(desk: Desk) -> None:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    file = desk.place / "p384.pub"
    file.write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    said = desk.run("init", desk.folder, "--approver", file)
    assert (said.status, said.stdout) == (1, "")
    assert "bundle_malformed" in said.stderr
    assert not desk.folder.exists()


def test_a_folder_has_one_policy_root(signed: Desk) -> None:
    before = (signed.folder / "metadata" / "1.root.json").read_bytes()
    said = signed.init("carol")
    assert said.status == 2
    assert (signed.folder / "metadata" / "1.root.json").read_bytes() == before


def test_a_malformed_document_is_not_signed(desk: Desk) -> None:
    desk.init("alice")
    (desk.folder / "targets" / "policy" / "base.toml").write_text("version = 2\n")
    said = desk.run("sign", desk.folder, "--key", desk.key("alice"))
    assert said.status == 2
    assert "policy/base.toml:1:1: version" in said.stderr


def test_release_settings_that_only_the_measured_configuration_has(desk: Desk) -> None:
    release = desk.place / "release.toml"
    release.write_text('policy_root = ""\n')
    more = ("--approver", desk.pub("alice"), "--release", release)
    said = desk.run("init", desk.folder, *more)
    assert said.status == 2
    assert "release.toml:1:1: policy_root" in said.stderr
    release.write_text("nonce_life = 60\n")
    assert desk.run("init", desk.folder, *more).status == 0
    assert (desk.folder / "targets" / "release.toml").exists()
    assert (desk.folder / "targets" / "policy" / "policy.toml").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "folder"),
        ("init", "--approver", "alice.pub"),
        ("init", "--threshold", "2"),
        ("keygen", "x.key", "--no-passphrase", "--passphrase-file", "y"),
        ("sign",),
        ("sign", "folder"),
        ("publish",),
        ("keygen",),
    ],
)
def test_wrong_command_lines_of_bundles(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run("policy", *arguments)
    assert (said.status, said.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []


# -- a terminal ----------------------------------------------------------------------


class Terminal:
    """A terminal on which somebody has typed."""

    def __init__(self, typed: str) -> None:
        self.typed = typed

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.typed


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("\n", 1), ("no\n", 1)])
def test_a_person_is_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, typed: str, status: int
) -> None:
    desk.init("alice")
    monkeypatch.setattr("tightseal.cli.policy_bundle.sys.stdin", Terminal(typed))
    from tightseal.cli.policy_bundle import sign  # noqa: PLC0415

    got = sign(
        desk.folder,
        key=str(desk.key("alice")),
        passphrase_file=desk.secret,
        at=str(NOW),
    )
    assert got == status
    made = (desk.folder / "metadata" / "targets.json").exists()
    assert made is (status == 0)


def test_a_new_passphrase_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([SECRET, SECRET, SECRET, "another"])
    monkeypatch.setattr(passphrase, "getpass", lambda *_, **__: next(said))
    monkeypatch.setattr(passphrase.sys, "stdin", Terminal(""))
    assert passphrase.new_passphrase(None) == SECRET.encode()
    with pytest.raises(passphrase.UsageError, match="differ"):
        passphrase.new_passphrase(None)


def test_a_passphrase_that_is_no_text_is_not_told(tmp_path: Path) -> None:
    file = tmp_path / "p"
    for data in (b"\xffsecret", b"x" * 2000):
        file.write_bytes(data)
        with pytest.raises(SettingsError) as caught:
            passphrase.new_passphrase(file)
        assert "secret" not in str(caught.value.detail)
        assert caught.value.code is Code.SETTINGS_INVALID


# -- a provider ----------------------------------------------------------------------

Answer = Callable[[bytes], tuple[int, str, dict[str, Any]]]


@pytest.fixture
def provider() -> Iterator[Callable[[Answer], str]]:
    servers: list[HTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/policy"
                assert self.headers["content-type"] == "application/octet-stream"
                body = self.rfile.read(int(self.headers["content-length"]))
                status, kind, told = answer(body)
                data = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def accepted(body: bytes) -> tuple[int, str, dict[str, Any]]:
    digest = encode_base64url(hashlib.sha256(body).digest())
    told = {"accepted": True, "policy_version": 1, "digest": digest}
    return 200, "application/json", {"version": 1, "expires_at": NOW, **told}


def test_a_bundle_is_handed_to_a_provider(
    signed: Desk, provider: Callable[[Answer], str]
) -> None:
    address = provider(accepted)
    said = signed.publish("--provider", address)
    assert said.status == 0
    assert address in said.document["places"]


def problem(_body: bytes) -> tuple[int, str, dict[str, Any]]:
    code = "bundle_rolled_back"
    told = {"type": f"urn:tightseal:error:{code}", "title": "No.", "status": 409}
    return 409, "application/problem+json", {**told, "code": code, "instance": "ab12"}


def another(body: bytes) -> tuple[int, str, dict[str, Any]]:
    return accepted(body + b"x")


def page(_body: bytes) -> tuple[int, str, dict[str, Any]]:
    return 200, "text/html", {}


def form(_body: bytes) -> tuple[int, str, dict[str, Any]]:
    return 200, "application/json", {"accepted": "yes"}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (problem, "bundle_rolled_back: The bundle was refused. A newer one was"),
        (another, "took another bundle"),
        (page, "content type 'text/html'"),
        (form, "response_invalid"),
    ],
)
def test_a_provider_that_does_not_take_it(
    signed: Desk, provider: Callable[[Answer], str], answer: Answer, told: str
) -> None:
    said = signed.publish("--provider", provider(answer))
    assert (said.status, said.stdout) == (1, "")
    assert told in said.stderr
    assert not (signed.folder / "published.tsb").exists()


def test_a_provider_that_is_not_there(signed: Desk) -> None:
    said = signed.publish("--provider", "http://127.0.0.1:1")
    assert said.status == 1
    assert "provider_unreachable" in said.stderr
    assert signed.publish("--provider", "ftp://x").status == 2


def test_a_bundle_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    key = tmp_path / "a.key"
    said = run_process("policy", "keygen", key, "--no-passphrase", "--json")
    assert said.status == 0
    assert said.document["encrypted"] is False
    assert len(said.document["public_key"]) == 64

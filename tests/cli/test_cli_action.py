# SPDX-License-Identifier: Apache-2.0
"""``tightseal action``: from evidence to a file that two operators signed, and away."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from action_cli import ROOT, key_files, made, new, read, run

import action_support as support
from tightseal.errors import Code
from tightseal.model.action import (
    MAX_SIGNATURES,
    ActionKind,
    KeyParameters,
    SignedAction,
)
from tightseal.model.action_file import encode_action, parse_action
from tightseal.model.base64url import encode_base64url
from tightseal.model.provider import sidecar_keyring_id
from tightseal.policy.actions import MAX_LIFE_SECONDS
from tightseal.policy.bundle.keyfile import generate_key, write_key_pair

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    return key_files(tmp_path)


# -- a new action -----------------------------------------------------------------


def test_a_new_action_says_what_was_asked(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    before = int(time.time())
    signed = read(made(tmp_path, keys, purpose="backup", expires_hours=2))
    action = signed.action
    assert action.kind is ActionKind.RESET_USAGE
    assert action.parameters == KeyParameters("acme", "database", "backup")
    assert (action.policy_root, action.keyring_id) == (
        support.ROOT,
        sidecar_keyring_id(),
    )
    assert 0 <= action.issued_at - before < 60
    assert action.expires_at - action.issued_at == 7200
    assert support.verifies_all(signed) == [True]


def test_no_two_new_actions_share_an_id(tmp_path: Path, keys: dict[str, Path]) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        assert new(key=keys["alice"], out=file).status == 0
    assert len({read(file).action.action_id for file in files}) == 2


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no kind": ({"kind": None}, "--kind: adopt, release-platform, reset-usage"),
    "no workload": ({"workload": None}, "--workload is missing"),
    "no policy root": ({"policy_root": None}, "--policy-root is missing"),
    "a short policy root": ({"policy_root": "ab"}, "expected 64 hex digits"),
    "a keyring that is no hex": ({"keyring": "k" * 64}, "expected 64 hex digits"),
    "too long a life": ({"expires_hours": 169}, "expected 1 to 168"),
    "no life": ({"expires_hours": 0}, "expected 1 to 168"),
    "a source of a reset": ({"source_tenant": "acme"}, "has no source"),
    "a reset that replaces": ({"replaces": "00" * 16}, "replaces nothing"),
    "a short id to replace": (
        {"kind": "adopt", "replaces": "00", "source_json": "x"},
        "expected 32 hex digits",
    ),
    "an adoption without a source": ({"kind": "adopt"}, "name evidence"),
    "nowhere to write": ({"out": None}, "--out"),
}


@pytest.mark.parametrize("defect", WRONG)
def test_a_wrong_command_line_writes_nothing(
    tmp_path: Path, keys: dict[str, Path], defect: str
) -> None:
    options, said = WRONG[defect]
    file = tmp_path / "new.action"
    got = new(**({"key": keys["alice"], "out": file} | options))
    assert (got.status, got.stdout) == (2, "")
    assert said in got.stderr
    assert not file.exists()


def test_a_name_of_another_form_is_told(tmp_path: Path, keys: dict[str, Path]) -> None:
    got = new(key=keys["alice"], out=tmp_path / "new", workload="Data Base")
    assert got.status == 2
    assert Code.ACTION_MALFORMED in got.stderr


def test_an_existing_file_is_not_overwritten(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    file = made(tmp_path, keys)
    before = file.read_bytes()
    assert new(key=keys["alice"], out=file).status == 2
    assert file.read_bytes() == before


def test_an_encrypted_key_asks_for_its_passphrase(tmp_path: Path) -> None:
    key, secret, file = tmp_path / "carol.key", tmp_path / "secret", tmp_path / "out"
    carol = generate_key()
    write_key_pair(carol, key, passphrase=PASSPHRASE)
    secret.write_bytes(b"wrong" + PASSPHRASE)
    assert new(key=key, out=file, passphrase_file=secret).status == 2
    assert not file.exists()
    secret.write_bytes(PASSPHRASE + b"\n")
    assert new(key=key, out=file, passphrase_file=secret).status == 0
    assert [s.key for s in read(file).signatures] == [carol.public_key]


# -- another signature ------------------------------------------------------------


def test_a_second_operator_sees_and_signs(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    file = made(tmp_path, keys)
    first = read(file)
    said = run("sign", file, "--key", keys["bob"], stdin=b"yes\n")
    assert said.status == 0, said.stderr
    assert "acme/database" in said.stdout
    assert "reset-usage" in said.stdout
    signed = read(file)
    assert signed.action == first.action
    assert signed.signatures[0] == first.signatures[0]
    assert support.verifies_all(signed) == [True, True]


def test_a_second_signature_may_go_to_another_file(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    file, other = made(tmp_path, keys), tmp_path / "both.action"
    before = file.read_bytes()
    said = run("sign", file, "--key", keys["bob"], "--out", other, "--yes")
    assert said.status == 0
    assert file.read_bytes() == before
    assert len(read(other).signatures) == 2


@pytest.mark.parametrize("answer", [b"", b"no\n", b"y\n", b"YES\n"])
def test_whoever_does_not_agree_does_not_sign(
    tmp_path: Path, keys: dict[str, Path], answer: bytes
) -> None:
    file = made(tmp_path, keys)
    before = file.read_bytes()
    said = run("sign", file, "--key", keys["bob"], stdin=answer)
    assert (said.status, file.read_bytes()) == (1, before)


def test_signing_twice_leaves_one_signature(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    file = made(tmp_path, keys)
    said = run("sign", file, "--key", keys["alice"], "--yes")
    assert said.status == 0
    assert "before" in said.stderr
    assert support.verifies_all(read(file)) == [True]


def test_more_signatures_than_are_read_are_not_written(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    names = [f"operator-{number}" for number in range(MAX_SIGNATURES)]
    file = written(tmp_path / "full", support.signed(lasting(), *names))
    before = file.read_bytes()
    said = run("sign", file, "--key", keys["bob"], "--yes")
    assert (said.status, file.read_bytes()) == (2, before)


def test_json_does_not_ask(tmp_path: Path, keys: dict[str, Path]) -> None:
    file = made(tmp_path, keys)
    said = run("sign", file, "--key", keys["bob"], "--json", stdin=b"yes\n")
    assert (said.status, said.stdout) == (2, "")
    assert "--yes" in said.stderr
    said = run("sign", file, "--key", keys["bob"], "--json", "--yes")
    assert [s["valid"] for s in said.document["signatures"]] == [True, True]


def test_an_action_that_exists_is_not_changed(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    file = made(tmp_path, keys)
    said = run("sign", file, "--key", keys["bob"], "--yes", "--workload", "other")
    assert said.status == 2
    assert len(read(file).signatures) == 1


def written(file: Path, signed: SignedAction) -> Path:
    file.write_bytes(encode_action(signed))
    return file


def lasting(**changes: Any) -> Any:
    """An action in the middle of its life."""
    now = int(time.time())
    times = {"issued_at": now - 60, "expires_at": now + 3600}
    return support.action(**(times | changes))


def test_an_expired_action_is_not_signed(tmp_path: Path, keys: dict[str, Path]) -> None:
    past = support.signed(lasting(expires_at=int(time.time()) - 1), "alice")
    file = written(tmp_path / "old", past)
    before = file.read_bytes()
    said = run("sign", file, "--key", keys["bob"], "--yes")
    assert (said.status, file.read_bytes()) == (2, before)
    assert "expired" in said.stderr


def test_a_file_that_is_no_action_is_not_signed(
    tmp_path: Path, keys: dict[str, Path]
) -> None:
    file = tmp_path / "none"
    file.write_bytes(b"{}")
    said = run("sign", file, "--key", keys["bob"], "--yes")
    assert (said.status, file.read_bytes()) == (2, b"{}")
    assert Code.ACTION_MALFORMED in said.stderr


# -- show -------------------------------------------------------------------------

ROLES = f"""version = 1
[[role]]
name = "operators"
tenant = "acme"
threshold = 2
keys = ["{support.public("alice").hex()}", "{support.public("bob").hex()}"]
actions = ["adopt", "reset-usage"]
"""


def test_show_says_all_that_is_signed(tmp_path: Path) -> None:
    asked = lasting(kind=ActionKind.ADOPT, parameters=support.adopt(replaces=b"o" * 16))
    file = written(tmp_path / "adopt", support.signed(asked, "alice"))
    said = run("show", file)
    assert said.status == 0
    source = support.source()
    for text in (
        "adopt",
        "acme/database",
        "disk",
        ROOT,
        "sidecar",
        asked.action_id.hex(),
        source.authority.value.hex(),
        (b"o" * 16).hex(),
        *(value.hex() for _, value in source.measurements),
        *(value.hex() for _, value in source.attributes),
        support.public("alice").hex(),
    ):
        assert text in said.stdout
    document = run("show", file, "--json").document
    assert document["action"]["parameters"]["source"]["authority"] == [
        "policy_root",
        source.authority.value.hex(),
    ]
    assert document["signatures"] == [
        {"key": support.public("alice").hex(), "valid": True}
    ]


def test_show_tells_a_key_of_another_authority(tmp_path: Path) -> None:
    ours, before = support.adopt(), support.adopt(authority=support.BEFORE)
    for parameters, told in ((ours, False), (before, True)):
        asked = lasting(kind=ActionKind.ADOPT, parameters=parameters)
        file = written(tmp_path / "adopt", support.signed(asked, "alice"))
        assert ("it will be refused" in run("show", file).stdout) is told


def test_show_tells_a_wrong_signature(tmp_path: Path) -> None:
    signed = support.signed(lasting(), "alice")
    other = SignedAction(lasting(action_id=b"j" * 16), signed.signatures)
    file = written(tmp_path / "forged", other)
    said = run("show", file)
    assert said.status == 1
    assert "INVALID" in said.stdout
    assert run("show", file, "--json").document["signatures"][0]["valid"] is False


def test_show_tells_an_end_that_has_come(tmp_path: Path) -> None:
    file = written(tmp_path / "old", support.signed(support.action(), "alice"))
    at = support.NOW + MAX_LIFE_SECONDS
    assert run("show", file, "--at", support.NOW).status == 0
    assert run("show", file, "--at", at).status == 1
    assert run("show", file, "--at", at, "--json").document["expired"] is True


def test_show_judges_by_roles(tmp_path: Path) -> None:
    policy = tmp_path / "roles.toml"
    policy.write_text(ROLES)
    one = written(tmp_path / "one", support.signed(lasting(), "alice"))
    both = written(tmp_path / "both", support.signed(lasting(), "alice", "bob"))
    said = run("show", one, "--policy", policy, "--json")
    assert (said.status, said.document["code"]) == (1, "action_undersigned")
    assert "1 of 2" in run("show", one, "--policy", policy).stdout
    said = run("show", both, "--policy", policy, "--json")
    assert (said.status, said.document["role"]) == (0, "acme/operators")
    assert "acme/operators" in run("show", both, "--policy", policy).stdout


@pytest.mark.parametrize("data", [None, b"", b"{}"], ids=["missing", "empty", "none"])
def test_show_of_no_action_is_unreadable(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "none"
    if data is not None:
        file.write_bytes(data)
    said = run("show", file)
    assert (said.status, said.stdout) == (2, "")


# -- submit -----------------------------------------------------------------------


@contextmanager
def provider(
    status: int, answer: object, kind: str = "application/json"
) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives one answer, and what it was sent."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            got.append((self.path, self.headers["content-type"], self.rfile.read(size)))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    return written(tmp_path / "ready", support.signed(lasting(), "alice"))


DONE = {"version": 1, "done": True, "entry_id": encode_base64url(b"e" * 16)}


def test_submit_sends_the_file_and_names_the_entry(ready: Path) -> None:
    with provider(200, DONE) as (url, got):
        said = run("submit", ready, "--provider", url)
        assert said.status == 0, said.stderr
        assert (b"e" * 16).hex() in said.stdout
        said = run("submit", ready, "--provider", url, "--json")
    assert said.document == {"done": True, "entry_id": (b"e" * 16).hex()}
    [(path, kind, body), _] = got
    assert (path, kind) == ("/v1/actions", "application/json")
    assert parse_action(body) == read(ready)


def test_submit_tells_a_refusal(ready: Path) -> None:
    problem = {
        "type": "urn:tightseal:error:action_replayed",
        "title": "The action was refused.",
        "status": 409,
        "code": "action_replayed",
    }
    with provider(409, problem, "application/problem+json") as (url, _):
        said = run("submit", ready, "--provider", url)
    assert (said.status, said.stdout) == (1, "")
    assert "action_replayed" in said.stderr


@pytest.mark.parametrize(
    "answer",
    [{}, DONE | {"entry_id": "AA"}, DONE | {"done": "yes"}, DONE | {"version": 2}],
    ids=["empty", "entry", "done", "version"],
)
def test_submit_believes_no_answer_of_another_form(ready: Path, answer: object) -> None:
    with provider(200, answer) as (url, _):
        said = run("submit", ready, "--provider", url)
    assert (said.status, said.stdout) == (1, "")
    assert Code.RESPONSE_INVALID in said.stderr


def test_submit_tells_what_was_not_done(ready: Path) -> None:
    with provider(200, DONE | {"done": False}) as (url, _):
        said = run("submit", ready, "--provider", url)
    assert said.status == 1
    assert "not done" in said.stdout


def test_submit_sends_nothing_that_is_no_action(tmp_path: Path) -> None:
    file = tmp_path / "none"
    file.write_bytes(b"{}")
    with provider(200, DONE) as (url, got):
        said = run("submit", file, "--provider", url)
    assert (said.status, got) == (2, [])

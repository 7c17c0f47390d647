# SPDX-License-Identifier: Apache-2.0
"""No key byte of a provider's life is in anything that it wrote, said or sent."""

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hushed_run import HushedRun
from secret_search import PIECE_BYTES, Search, forms

from tightseal.model.action import ActionKind
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyRequest
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene

KEY = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HushedRun]:
    with Scene(tmp_path_factory.mktemp("hushed")) as scene:
        yield HushedRun(scene)
    # Here its complaints are expected; see above.
    gc.collect()


@pytest.fixture(scope="module")
def lived(run: HushedRun) -> HushedRun:
    """A whole life: releases, rotation, refusals, faults, commands, a restart."""
    releases(run)
    refusals(run)
    run.rotate_twice()
    run.wait_for("wrapped_keys_moved")
    run.release("disk of generation 3", KeyRequest("disk"))
    run.release(
        "disk of generation 2", KeyRequest("disk", generation=GenerationName.PREVIOUS)
    )
    run.act(ActionKind.DESTROY_GENERATION, 1)
    run.break_keyring()
    operators(run)
    for path in ("/metrics", "/readyz", "/v1/info", "/v1/openapi.json"):
        run.ask("GET", path)
    run.running = {path.name: path.read_bytes() for path in run.files()}
    run.stop()
    run.provider = run.start()
    run.release("vault again", KeyRequest("vault"))
    run.stop()
    return run


def releases(run: HushedRun) -> None:
    # A root that is destroyed later would be out of the test's reach.
    root = run.keyring().root(1)
    run.released["root 1"] = root.reveal()
    run.release("disk of generation 1", KeyRequest("disk"))
    made = run.release("vault", KeyRequest("vault", create=True))
    assert run.release("vault opened", KeyRequest("vault")) == made
    run.release("private half", KeyRequest("sign"))


def refusals(run: HushedRun) -> None:
    other = run.scene.world.intel.platform("machine-a").launch_td(
        TdImage(kernel=b"another")
    )
    for request, td in (
        (KeyRequest("disk"), other),
        (KeyRequest("vault", create=True), run.td),
        (KeyRequest("unknown"), run.td),
        (KeyRequest("disk", generation=77), run.td),
        (KeyRequest("disk", length=64), run.td),
    ):
        with run.client(td) as client:
            run.refused(lambda c=client, r=request: c.keys(r))
    for path in ("/v1/challenge", "/v1/keys", "/v1/actions", "/v1/policy"):
        for body in (b"", b"{", b"null", b"\xff" * 300, os.urandom(5000)):
            run.ask("POST", path, body)


def operators(run: HushedRun) -> None:
    for words in (("status",), ("verify",), ("slot", "test"), ("rotate",), ("init",)):
        run.keyring_command(*words)
    aside = run.aside()
    run.command("keyring", "init", "--config", aside, "--json")
    run.keep_aside(aside)
    for words in (
        ("slot", "add", "--class", "sgx"),
        ("slot", "add", "--class", "passphrase", "--label", "typed"),
        ("rotate",),
        ("rotate", "--prepare"),
        ("destroy", "1", "--yes"),
        ("slot", "remove", "00"),
        ("status",),
        ("verify",),
        ("slot", "test"),
    ):
        run.keyring_command(*words, config=aside)
    run.keep_aside(aside)
    assert run.key_command("--json") == 0
    assert run.key_command("--json", "--generation", "77") == 1
    run.command("audit", "tail", "--config", run.provider.config, "--json")


def test_what_was_looked_at_is_the_whole_life(lived: HushedRun) -> None:
    """Silence proves nothing about what was never said."""
    log = b"".join(lived.logs)
    for event in (
        b'"level":"info"',
        b'"level":"warning"',
        b'"level":"error"',
        b"keyring_opened",
        b"keyring_not_taken",
        b"wrapped_keys_moved",
        b"answered",
        b"key_exists",
        b"generation_unknown",
        b"request_malformed",
        b'"worker":1',
    ):
        assert event in log, event
    names = {path.name for path in lived.files()} | set(lived.running)
    assert {"journal.sqlite", "keyring.tsk", "state.sqlite", "log"} <= names
    assert {"journal.sqlite-wal", "state.sqlite-wal"} <= names
    printed = b"".join(lived.said)
    for word in (b'"slots"', b"rotated", b"destroyed", b"receipt", b"keyring_exists"):
        assert word in printed, word
    wire = b"".join(lived.wire.said)
    for word in (b"tightseal_requests_total", b'"envelope', b'"ready"'):
        assert word in wire, word
    known = {"root 1", "root 2", "root 3", "root 4", "vault", "keyring key"}
    aside = {"keyring key aside", "root 1 aside", "root 3 aside"}
    assert known | aside <= set(lived.secrets())


def test_no_key_byte_is_in_logs_output_answers_or_state(lived: HushedRun) -> None:
    search = Search(lived.secrets())
    assert search.found_in(b"\n".join(lived.logs)) == set()
    assert search.found_in(b"\n".join(lived.said)) == set()
    assert search.found_in(b"\n".join(lived.wire.said)) == set()
    assert search.found_in(b"\n".join(lived.running.values())) == set()
    assert search.found_in_files(lived.files()) == {}
    assert search.looked_at > 200_000


def test_the_search_finds_what_a_command_is_told_to_reveal(lived: HushedRun) -> None:
    """The control: the same search, over output that does have a key."""
    again = lived.start()
    lived.provider = again
    before = len(lived.said)
    out = lived.scene.folder / "key.bin"
    try:
        assert lived.key_command("--json", "--reveal") == 0
        assert lived.key_command("--out", str(out)) == 0
        shown = b"".join(lived.said[before:])
        search = Search({"disk": bytes.fromhex(json.loads(lived.said[before])["key"])})
        assert search.found_in(shown) == {"disk"}
        assert search.found_in_files([out]) == {str(out): {"disk"}}
    finally:
        del lived.said[before:]
        out.unlink(missing_ok=True)
        lived.stop()


@pytest.mark.parametrize("start", [0, 8, 16, 24])
def test_the_search_finds_every_form_of_every_part(start: int) -> None:
    search = Search({"key": KEY})
    part = KEY[start : start + PIECE_BYTES]
    shown = list(forms(part))
    assert len(set(shown)) >= 12
    for form in shown:
        assert search.found_in(b"text " + form + b" text") == {"key"}, form


@pytest.mark.parametrize("before", range(6))
def test_the_search_finds_a_key_within_something_encoded(before: int) -> None:
    import base64  # noqa: PLC0415

    search = Search({"key": KEY})
    carrier = b"x" * before + KEY + b"more"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert search.found_in(encode(carrier)) == {"key"}
    for text in (carrier.hex(), carrier.hex().upper(), repr(carrier), repr([carrier])):
        assert search.found_in(text.encode()) == {"key"}
    assert search.found_in(repr(bytearray(carrier)).encode()) == {"key"}
    assert search.found_in(str(list(carrier)).encode()) == {"key"}
    assert search.found_in(carrier) == {"key"}


def test_the_search_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    search = Search({"key": KEY})
    file = tmp_path / "noise"
    file.write_bytes(os.urandom(1 << 20))
    assert search.found_in_files([file]) == {}

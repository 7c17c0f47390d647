# SPDX-License-Identifier: Apache-2.0
"""``tightseal nodes``: what it prints, and what it makes of an answer that is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cli_support import run
from tightseal.model.wire_nodes import (
    NODES_PATH,
    KeyringSeenJson,
    NodeJson,
    NodesResponse,
)
from tightseal_sim.scene import LoopbackServer, free_port

MINE, OTHER = "aa" * 16, "bb" * 16


def node(name: str = MINE, **changes: Any) -> NodeJson:
    made = NodeJson(
        node=name,
        standing="serving",
        wrong=[],
        silent_seconds=4,
        software="1.2.3",
        format=1,
        tee="sgx",
        measurement="cd" * 32,
        settings_digest="ef" * 64,
        policy_version=7,
        keyring=KeyringSeenJson("01" * 32, 2, 9),
        log_key="tightseal/v1/log/aa+0badf00d+key",
        log_entries=12,
        started=1_790_000_000,
        seen=1_790_000_100,
    )
    return msgspec.structs.replace(made, **changes)


def nodes(*found: NodeJson, understood: int = 1) -> NodesResponse:
    return NodesResponse(node=MINE, format=1, understood=understood, nodes=list(found))


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    def answer(_request: Request) -> Response:
        return Response(body, status_code=status, media_type="application/json")

    server = LoopbackServer(Starlette(routes=[Route(NODES_PATH, answer)]))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def saying(said: NodesResponse) -> Iterator[str]:
    with answering(msgspec.json.encode(said)) as url:
        yield url


def test_nodes_in_order_are_listed_with_what_they_are() -> None:
    with saying(nodes(node(), node(OTHER, policy_version=None, keyring=None))) as url:
        said = run("nodes", url)
    assert said.status == 0
    lines = said.stdout.splitlines()
    assert lines[0] == "in order  2 nodes, format 1"
    assert f"{MINE} (asked)" in lines
    assert OTHER in lines
    assert "  policy             7" in lines
    assert "  policy             none yet" in lines
    assert f"  keyring            {'01' * 32}, generation 2, counter 9" in lines
    assert said.stdout.count("keyring   ") == 1
    assert "  started            2026-09-21T14:13:20Z" in lines


def test_what_is_wrong_is_named_and_the_status_says_so() -> None:
    wrong = ["stale", "clock_apart"]
    with saying(nodes(node(), node(OTHER, standing="stale", wrong=wrong))) as url:
        said = run("nodes", url)
    assert said.status == 1
    assert said.stdout.startswith("not in order  1 of 2 nodes, format 1\n")
    assert "  wrong              stale, clock_apart" in said.stdout
    assert "  standing           stale, wrote 4 s ago" in said.stdout


def test_a_node_that_left_does_not_count() -> None:
    with saying(nodes(node(), node(OTHER, standing="left"))) as url:
        said = run("nodes", url)
    assert (said.status, said.stdout.splitlines()[0]) == (
        0,
        "in order  1 nodes, format 1",
    )


def test_a_format_that_all_understand_is_said_before_it_is_in_force() -> None:
    with saying(nodes(node(format=2), understood=2)) as url:
        said = run("nodes", url)
    assert said.stdout.startswith("in order  1 nodes, format 1, all understand 2\n")


def test_json_is_what_the_provider_said() -> None:
    answer = nodes(node(), node(OTHER, wrong=["policy_differs"]))
    with saying(answer) as url:
        said = run("nodes", url, "--json")
    assert said.status == 1
    assert said.document == msgspec.to_builtins(answer)


def test_a_provider_without_a_state_is_alone() -> None:
    alone = NodesResponse(node=None, format=1, understood=1)
    with saying(alone) as url:
        said = run("nodes", url)
    assert said.status == 0
    assert said.stdout.startswith("alone")


def test_text_from_a_provider_is_printed_as_text() -> None:
    with saying(nodes(node(software="\x1b[2J", seen=1 << 62))) as url:
        said = run("nodes", url)
    assert said.status == 0
    assert "\x1b" not in said.stdout


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 404, "response_invalid"),
        (b"{}", 200, "response_invalid"),
        (b"[" * 5000, 200, "response_invalid"),
        (b" " * ((1 << 20) + 1), 200, "response_invalid"),
    ],
    ids=["switched off", "no answer of ours", "no JSON", "too long"],
)
def test_an_answer_that_is_none_is_refused(body: bytes, status: int, code: str) -> None:
    with answering(body, status) as url:
        said = run("nodes", url)
    assert said.status == 1
    assert said.stdout == ""
    assert code in said.stderr


def test_nobody_answers() -> None:
    said = run("nodes", f"http://127.0.0.1:{free_port()}")
    assert said.status == 1
    assert "provider_unreachable" in said.stderr


@pytest.mark.parametrize("arguments", [("no address",), ("http://x", "--ca-file", "x")])
def test_what_cannot_be_asked_is_said(arguments: tuple[str, ...]) -> None:
    said = run("nodes", *arguments)
    assert (said.status, "settings_invalid" in said.stderr) == (2, True)

# SPDX-License-Identifier: Apache-2.0
"""``tightseal nodes``: who is there over a provider's state, and what differs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.top import tls_of
from tightseal.errors import Code, ProviderError, RequestError
from tightseal.guest.http import LIMITS, Bounds, provider_url, unreachable
from tightseal.model.tls import TlsTrust
from tightseal.model.wire import decode_json
from tightseal.model.wire_nodes import NODES_PATH, NodeJson, NodesResponse

__all__ = ["nodes"]

BOUNDS: Final = Bounds(attempts=1)
MAX_ANSWER_BYTES: Final = 1 << 20
"""Longest answer that is read: 256 nodes with all that they say."""

_OK: Final = 200
_LEFT: Final = "left"


def nodes(
    provider: str,
    /,
    *,
    ca_file: Path | None = None,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Show the nodes over a provider's state: 0 all in order, 1 something is wrong.

    Unsigned, for people: what one provider found when it last looked, seconds ago.

    Args:
        provider: address, such as http://10.0.2.2:3442.
        ca_file: PEM of the CA of a provider with a certificate of its own.
        tls: how its certificate is judged without that: by public CAs, or not at all
            (``exchange``), where it ends TLS with a key of its own.
        as_json: one JSON document on stdout.
    """
    answer = _asked(provider, tls=tls_of(ca_file, tls))
    there = [node for node in answer.nodes if node.standing != _LEFT]
    wrong = [node for node in there if node.wrong]
    if as_json:
        ui.print_json(msgspec.to_builtins(answer))
    else:
        _show(answer, there=len(there), wrong=len(wrong))
    return ui.EXIT_NO if wrong else ui.EXIT_YES


def _show(answer: NodesResponse, *, there: int, wrong: int) -> None:
    if answer.node is None:
        ui.verdict("alone", "no state, or it was not looked at yet", tone="unsure")
        return
    form = f"format {answer.format}"
    if answer.understood > answer.format:
        form += f", all understand {answer.understood}"
    if wrong:
        ui.verdict("not in order", f"{wrong} of {there} nodes, {form}", tone="no")
    else:
        ui.verdict("in order", f"{there} nodes, {form}", tone="yes")
    for node in answer.nodes:
        ui.heading(node.node + (" (asked)" if node.node == answer.node else ""))
        ui.facts(_facts(node))


def _facts(node: NodeJson) -> list[tuple[str, str]]:
    policy = "none yet" if node.policy_version is None else str(node.policy_version)
    found = [
        ("standing", f"{node.standing}, wrote {node.silent_seconds} s ago"),
        ("wrong", ", ".join(node.wrong) or "nothing"),
        ("version", f"{node.software}, understands format {node.format}"),
        ("measurement", f"{node.tee} {node.measurement}"),
        ("settings digest", node.settings_digest),
        ("policy", policy),
    ]
    if (kept := node.keyring) is not None:
        said = f"generation {kept.generation}, counter {kept.counter}"
        found.append(("keyring", f"{kept.keyring_id}, {said}"))
    return [
        *found,
        ("log", f"{node.log_entries} entries, {node.log_key}"),
        ("started", _when(node.started)),
        ("its clock said", _when(node.seen)),
    ]


def _when(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _asked(provider: str, *, tls: ssl.SSLContext | bool) -> NodesResponse:
    """Ask once; raises ``ProviderError``, or ``SettingsError`` for the address."""
    body = bytearray()
    try:
        with (
            httpx.Client(
                base_url=provider_url(provider),
                timeout=BOUNDS.timeout(),
                limits=LIMITS,
                # A compressed answer could unpack to any size.
                headers={"accept-encoding": "identity"},
                follow_redirects=False,
                trust_env=False,
                verify=tls,
            ) as http,
            http.stream("GET", NODES_PATH) as response,
        ):
            for part in response.iter_raw():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise _odd("the answer is too long")
    except httpx.HTTPError as e:
        raise unreachable(NODES_PATH, e) from e
    if response.status_code != _OK:
        raise _odd(f"status {response.status_code}; is host.http.metrics switched off?")
    try:
        return decode_json(bytes(body), NodesResponse, max_bytes=MAX_ANSWER_BYTES)
    except RequestError as e:
        raise _odd(e.detail) from e


def _odd(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, f"{NODES_PATH}: {detail}")

# SPDX-License-Identifier: Apache-2.0
"""The log after a drill, held against what clients saw while it went on.

Read twice: by ``tightseal audit verify``, and by a reader written from the text of the
specifications alone. Nothing here asks the provider.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
from c2sp_reader import in_folder, read_checkpoint, read_log, read_proof, sha256

from cli_support import run

__all__ = ["Seen", "WrittenLog", "read_written"]

LABEL = "tightseal/v1/hash/log-entry"
LOGGED_REFUSALS = frozenset({"usage_limit_reached", "purpose_not_allowed"})
"""Refusals that are decisions, and so entries."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer as a client saw it.

    Attributes:
        at: when it came, by the monotonic clock.
        platform: the machine that it asked from.
        purpose: what it asked for.
        outcome: ``granted``, or the code.
        evidence: SHA-256 of the evidence that it sent; empty where none was sent.
        entry_id, leaf, log_key, proof: of the receipt.
    """

    at: float
    platform: str
    purpose: str
    outcome: str
    evidence: bytes = b""
    entry_id: bytes = b""
    leaf: bytes = b""
    log_key: str = ""
    proof: bytes = b""


@dataclass
class WrittenLog:
    """Every entry of a log, in order, with what is wanted of each."""

    key: str
    raw: list[bytes]
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for raw in self.raw:
            label, (_, entry_id, time, granted, kind, code, body) = cbor2.loads(raw)
            assert label == LABEL
            if not isinstance(body, bytes):
                body = cbor2.dumps({})
            self.entries.append(
                {
                    "id": entry_id,
                    "time": time,
                    "granted": granted,
                    "class": kind,
                    "code": code,
                    "body": cbor2.loads(body),
                }
            )
        self._by_leaf = {
            sha256(b"\x00" + raw): number for number, raw in enumerate(self.raw)
        }
        self._by_evidence = defaultdict(list)
        for entry in self.entries:
            found = entry["body"].get("evidence_hash", b"")
            self._by_evidence[found].append(entry)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def raw_leaves(self) -> set[bytes]:
        """The hash of every entry."""
        return set(self._by_leaf)

    def granted(self, purpose: str) -> int:
        """Releases of a purpose."""
        return sum(
            entry["granted"]
            and any(
                path["purpose"] == purpose for path in entry["body"].get("keys", [])
            )
            for entry in self.entries
        )

    def require(self, seen: list[Seen]) -> None:
        """Every answer has its entry, and every proof leads into this very log."""
        roots = _roots(self.raw)
        for answer in seen:
            if answer.outcome == "granted":
                self._require_proved(answer, roots)
            elif answer.outcome in LOGGED_REFUSALS:
                codes = [e["code"] for e in self._by_evidence[answer.evidence]]
                assert answer.outcome in codes, "a denial without its entry"
        for evidence, entries in self._by_evidence.items():
            granted = sum(entry["granted"] for entry in entries)
            assert granted <= 1 or not evidence, "one request was released twice"

    def _require_proved(self, answer: Seen, roots: list[bytes]) -> None:
        assert answer.log_key == self.key, "a receipt of another log"
        number = self._by_leaf.get(answer.leaf)
        assert number is not None, "an entry that was proved is not in the log"
        assert read_proof(answer.proof, self.raw[number], self.key) == number
        entry = self.entries[number]
        assert entry["id"] == answer.entry_id
        assert entry["granted"]
        assert entry["body"]["evidence_hash"] == answer.evidence
        # The head that was proved to is a beginning of this log: it never went back.
        size, root = read_checkpoint(answer.proof.partition(b"\n\n")[2], self.key)
        assert size <= len(self.raw)
        assert roots[size] == root

    def per_minute(self, platform_of: dict[bytes, str]) -> dict[tuple[str, int], int]:
        """Releases by platform and minute, received or not."""
        found: Counter[tuple[str, int]] = Counter()
        for entry in self.entries:
            evidence = entry["body"].get("evidence_hash", b"")
            if entry["granted"] and evidence in platform_of:
                found[platform_of[evidence], entry["time"] // 60] += 1
        return dict(found)


def read_written(config: Path, folder: Path, log_key: str) -> WrittenLog:
    """Export a provider's log, have it verified, and read it independently."""
    tiles = folder / "tiles"
    _command("audit", "export", "--tiles", tiles, "--config", config)
    _command("audit", "verify", "--tiles", tiles, "--log-key", log_key)
    _command("audit", "verify", "--config", config, "--log-key", log_key)
    return WrittenLog(log_key, read_log(in_folder(tiles), log_key))


def _command(*arguments: object) -> None:
    said = run(*arguments)
    assert said.status == 0, (arguments, said.stdout, said.stderr)


def _roots(raw: list[bytes]) -> list[bytes]:
    """The root at every size, by RFC 6962, without a line of the product's."""
    found = [hashlib.sha256(b"").digest()]
    stack: list[tuple[int, bytes]] = []
    for entry in raw:
        stack.append((1, sha256(b"\x00" + entry)))
        while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
            (span, right), (_, left) = stack.pop(), stack.pop()
            stack.append((2 * span, sha256(b"\x01" + left + right)))
        root = stack[-1][1]
        for _, left in reversed(stack[:-1]):
            root = sha256(b"\x01" + left + root)
        found.append(root)
    return found

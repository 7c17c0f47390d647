# SPDX-License-Identifier: Apache-2.0
"""This provider as one of the nodes over a state: what it says of itself, and hears.

All of it is the background thread's. What was heard last is kept for health, metrics
and ``/v1/nodes``, so that nobody who asks makes the provider work.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import msgspec
import structlog

from tightseal._version import __version__
from tightseal.audit.log import LogKey, log_signer
from tightseal.errors import Code, ServiceError
from tightseal.model import formats
from tightseal.model.node import RUN_BYTES, KeyringSeen, NodeRecord, NodeState
from tightseal.model.ports import Clock
from tightseal.model.settings import ReleaseSettings
from tightseal.model.state import StateStore
from tightseal.model.wire_nodes import KeyringSeenJson, NodeJson, NodesResponse
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.logmark import MarkedLog
from tightseal.release.nodes import NodeBook, Nodes, NodeView, Wrong
from tightseal.release.policy import PolicyKeeper
from tightseal.service.health import Note

__all__ = ["ALONE", "Membership"]

ALONE: Final = msgspec.json.encode(
    NodesResponse(
        node=None, format=formats.FIRST_FORMAT, understood=formats.FIRST_FORMAT
    )
)
"""What a provider without a state says: it is no node of anything."""

MAX_NAMED: Final = 3
"""Most nodes that a note names."""

log = structlog.get_logger("tightseal.nodes")


class Membership:
    """One worker's part in it. ``look`` and ``leave`` may be called by any thread.

    Args:
        store: that the nodes share.
        journal: of this node, whose log names it.
        log_key: derives the log's key.
        run: 16 bytes or more that all workers of this start share.
        own: TEE and measurement of this provider.
        release: the measured release settings, in force before the first bundle.
        policy, keyring: what is in force.
        ended: ids of logs of nodes that are gone, in hex.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        journal: MarkedLog,
        log_key: LogKey,
        run: bytes,
        own: tuple[str, bytes],
        release: ReleaseSettings,
        policy: PolicyKeeper,
        keyring: KeyringKeeper | None,
        ended: Iterable[str],
        clock: Clock,
    ) -> None:
        log_id = journal.head().log_id
        self._book = NodeBook(store, log_id.hex(), frozenset(ended))
        self._journal = journal
        self._log_key = str(log_signer(log_id, log_key).key)
        self._run = run[:RUN_BYTES]
        self._own = own
        self._release = release
        self._policy = policy
        self._keyring = keyring
        self._clock = clock
        self._started = clock()
        self._state = NodeState.SERVING
        self._lock = threading.Lock()
        self._last: Nodes | None = None
        self._told = ALONE

    @property
    def state(self) -> NodeState:
        """How far this worker is."""
        return self._state

    def last(self) -> Nodes | None:
        """What the last look found; ``None`` before the first."""
        return self._last

    @property
    def told(self) -> bytes:
        """The same as ``/v1/nodes`` answers it, JSON."""
        return self._told

    def look(self, state: NodeState) -> Nodes:
        """Say how far this node is, where that is due, and look at all of them.

        Raises:
            ServiceError: what the store raises.
        """
        with self._lock:
            self._state = max(self._state, state, key=lambda s: s.rank)
            now, before = self._clock(), self._last
            found = self._last = self._book.look(self._record(now), now=now)
            self._told = msgspec.json.encode(_response(found))
            if before is not None and found.format > before.format:
                log.warning("state_format_raised", format=found.format)
            return found

    def notes(self) -> list[Note]:
        """What the operator should know of the other nodes."""
        last = self._last
        if last is None:
            return []
        found = [(what, last.wrong(what)) for what in Wrong]
        return [_note(what, names) for what, names in found if names]

    def _record(self, now: int) -> NodeRecord:
        version, settings = self._in_force()
        tee, measurement = self._own
        head = self._journal.signed_head() or self._journal.head()
        return NodeRecord(
            software=__version__,
            format=formats.FORMAT,
            tee=tee,
            measurement=measurement,
            settings=settings,
            policy=version,
            keyring=self._keyring_seen(),
            log_key=self._log_key,
            log_size=head.frontier.size,
            run=self._run,
            started=self._started,
            seen=now,
            state=self._state,
        )

    def _in_force(self) -> tuple[int | None, bytes]:
        try:
            in_force = self._policy.current()
        except ServiceError as e:
            if e.code is not Code.POLICY_MISSING:
                raise
            return None, self._release.digest()
        return in_force.version, in_force.settings_digest

    def _keyring_seen(self) -> KeyringSeen | None:
        if self._keyring is None:
            return None
        header = self._keyring.keyring.header
        current = self._keyring.generations().current
        return KeyringSeen(header.keyring_id, current, header.counter)


_NOTES: Final[dict[Wrong, tuple[str, str, str]]] = {
    Wrong.STALE: (
        "nodes_stale",
        "Nodes that have not left, and give no sign",
        "Start them; if one is gone for good: host.state.ended_logs, tightseal nodes",
    ),
    Wrong.SETTINGS: (
        "nodes_settings_differ",
        "Nodes with other release settings in force than this one",
        "Give all nodes the same measured settings and bundle: tightseal nodes",
    ),
    Wrong.POLICY: (
        "nodes_policy_differs",
        "Nodes with another policy version in force than this one",
        "Where it stays, look for policy_not_taken in the log of the older one",
    ),
    Wrong.KEYRING: (
        "nodes_keyring_differs",
        "Nodes with another version of the keyring in use than this one",
        "Where it stays, look for keyring_not_taken in the log of the older one",
    ),
    Wrong.CLOCK: (
        "nodes_clock_apart",
        "Nodes whose clock is apart from this one's",
        "Mend the clocks: limits by the minute and windows go by them",
    ),
    Wrong.REPLACED: (
        "node_log_in_use_twice",
        "Another process writes as this node, with its log",
        "Stop one of them: two copies of a folder of state must never run at once",
    ),
}


def _note(what: Wrong, names: tuple[str, ...]) -> Note:
    name, text, remedy = _NOTES[what]
    named = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return Note(name, None, f"{text}: {named}{more}.", f"{remedy}.")


def _response(nodes: Nodes) -> NodesResponse:
    return NodesResponse(
        node=nodes.own,
        format=nodes.format,
        understood=nodes.understood,
        nodes=[_node_json(view) for view in nodes.nodes],
    )


def _node_json(view: NodeView) -> NodeJson:
    node = view.record
    kept = node.keyring
    return NodeJson(
        node=view.name,
        standing=view.standing.value,
        wrong=[wrong.value for wrong in view.wrong],
        silent_seconds=view.silent,
        software=node.software,
        format=node.format,
        tee=node.tee,
        measurement=node.measurement.hex(),
        settings_digest=node.settings.hex(),
        policy_version=node.policy,
        keyring=None
        if kept is None
        else KeyringSeenJson(kept.keyring_id.hex(), kept.generation, kept.counter),
        log_key=node.log_key,
        log_entries=node.log_size,
        started=node.started,
        seen=node.seen,
    )

# SPDX-License-Identifier: Apache-2.0
"""What a keyring costs by its generations, and a release by how many keys are wrapped.

    python benchmarks/keyring.py [--json] [--records N]

A keyring opens through a slot that costs nothing of its own, with every check: form,
MAC, terms, and each root in its place. Saving is with its syncs, in a temporary folder.

Wrapped keys lie in a PostgreSQL that the script starts. Two providers, one with few
keys and one with ``N``, release in turns, in this process; the ratio is of the best
mean of several rounds. Challenges and evidence are made before, untimed.
"""

import argparse
import hmac
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from own_postgres import postgres
from rows import Row, at_most, best_seconds, figure, note, show
from wrapped_keys import FEW, best_open, best_release, fill, pair

from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Terms,
    keep,
    keep_new,
    new_keyring,
    open_keyring,
    rotate,
)
from tightseal.keys.keyring.generation import GenerationState, seal_root
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.service.logs import configure_logs
from tightseal.service.settings import LogLevel, LogSettings

NOW = 1_800_000_000
TERMS = Terms(trust_domain="intel", policy_root=None, policy_version=0)
SMALL = 2
OPENED = 1_000
MOST = 10_000
RECORDS = 1_000_000
RELEASE_LIMIT = 1.2
ROUNDS = 5
RELEASES = 200
"""Releases of each provider in a round."""


class PlainSlot:
    """A slot key without any hardware."""

    slot_class = SlotClass.GRAMINE

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """No parameters, and the key."""
        return {}, self.open({}, keyring_id=keyring_id, slot_id=slot_id)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again."""
        del parameters
        return Secret(hmac.digest(b"s" * 32, keyring_id + slot_id, "sha256"))


def filled(count: int) -> Keyring:
    """A keyring of ``count`` generations, the last one current, none destroyed."""
    first = new_keyring(
        [PlainSlot()],
        trust_domain="intel",
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=[SlotClass.GRAMINE],
        now=NOW,
    )
    keyring_id = first.header.keyring_id
    made = []
    for number in range(1, count + 1):
        root = Secret(number.to_bytes(32, "big"))
        sealed = seal_root(root, key=first.key, keyring_id=keyring_id, number=number)
        current = number == count
        made.append(
            replace(
                first.current,
                number=number,
                state=GenerationState.CURRENT if current else GenerationState.RETIRED,
                retired_at=None if current else NOW,
                sealed=sealed,
            )
        )
    return replace(first, generations=tuple(made))


def opening(data: bytes) -> Keyring:
    """Open a file with every check."""
    slots = [PlainSlot()]
    return open_keyring(data, terms=TERMS, slot_keys=slots, anchor=None).keyring


def saving_seconds(keyring: Keyring) -> float:
    """Seconds to rotate and to save, opened again from what was read back."""
    with tempfile.TemporaryDirectory() as folder:
        file = KeyringFile(Path(folder) / "keyring")
        saved = keep_new(file, keyring, anchor=None)
        start = perf_counter()
        keep(file, rotate(keyring, now=NOW), replaces=saved, anchor=None)
        return perf_counter() - start


def generations() -> list[Row]:
    """Figures by the number of generations."""
    rows = []
    for count in (SMALL, OPENED, MOST):
        note(f"{count} generations")
        data = filled(count).seal()
        keyring = opening(data)
        repeat = 200 if count == SMALL else 1
        seconds = best_seconds(lambda data=data: opening(data), repeat=repeat)
        name = f"open, {count} generations"
        if count == OPENED:
            rows.append(at_most(name, seconds, "s", 2))
        else:
            rows.append(figure(name, seconds, "s"))
        rows.append(figure(f"file, {count} generations", len(data) / 1024, "KiB"))
        root = best_seconds(lambda k=keyring, n=count: k.root(n), repeat=200)
        rows.append(figure(f"one root, {count} generations", root * 1e6, "us"))
        if count < MOST:
            name = f"rotate and save, {count} generations"
            rows.append(figure(name, saving_seconds(keyring), "s"))
    return rows


def wrapped(records: int) -> list[Row]:
    """Figures by the number of wrapped keys."""
    # Theirs would go to the place of the figures.
    configure_logs(LogSettings(level=LogLevel.ERROR), simulated=True)
    with postgres() as server, pair(server) as (empty, filled_one):
        for bench in (empty, filled_one):
            bench.create(FEW)
        seconds = fill(filled_one, records)
        both = best_release((empty, filled_one), rounds=ROUNDS, each=RELEASES)
        opens = [
            best_open(bench, rounds=ROUNDS, each=RELEASES)
            for bench in (empty, filled_one)
        ]
    (empty_mean, empty_median), (mean, median) = both
    much = f"{records} wrapped keys"
    return [
        figure(f"release, {FEW} wrapped keys", empty_mean * 1e3, "ms"),
        figure(f"release, {much}", mean * 1e3, "ms"),
        at_most(f"release, {much} / {FEW}", mean / empty_mean, "x", RELEASE_LIMIT),
        figure(f"release, {much} / {FEW}, medians", median / empty_median, "x"),
        figure(f"reading a record, {FEW} wrapped keys", opens[0] * 1e3, "ms"),
        figure(f"reading a record, {much}", opens[1] * 1e3, "ms"),
        figure(f"writing {much}", records / seconds, "1/s"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--records", type=int, default=RECORDS)
    given = parser.parse_args(argv)
    if given.records < FEW:
        parser.error(f"--records: at least {FEW}")
    rows = [*generations(), *wrapped(given.records)]
    return show("keyring", rows, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())

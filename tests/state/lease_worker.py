# SPDX-License-Identifier: Apache-2.0
"""A node of its own process that spends a limit by the minute, to be raced and killed.

Arguments: PLACE LIMIT EPOCH. It spends as fast as it can in that one minute, and says a
line for each unit before it goes on; ``dry`` when the limit says no.
"""

import sys

from store_places import sealer

from tightseal.errors import Code, ServiceError
from tightseal.release.leaserecord import EPOCH_SECONDS, Allowance
from tightseal.release.leases import Leases
from tightseal.state.postgres import PostgresEngine
from tightseal.state.store import SealedStore

_REPEATED = frozenset({Code.OVERLOADED, Code.STATE_UNAVAILABLE})


def main() -> None:
    place, limit, epoch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    leases = Leases(SealedStore.attach(PostgresEngine(place), sealer()))
    wanted = Allowance("platform_per_minute", ("intel", "a" * 32), limit)
    say("ready")
    # All at once, from the first unit on.
    sys.stdin.readline()
    while True:
        try:
            leases.take((wanted,), now=epoch * EPOCH_SECONDS)
        except ServiceError as e:
            if e.code is Code.RATE_LIMITED:
                break
            if e.code not in _REPEATED:
                raise
        else:
            say("unit")
    say("dry")


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A provider's counting as a process of its own, to be raced and killed.

Arguments: ``PLACE LIMIT``. Each line of standard input is a request, the same line
again a byte-identical retry. Each gets one line of standard output, after one that says
``counted REQUEST`` as soon as that was done:

* ``have REQUEST POSITION``: counted, as the so manieth; ``-`` where it was before.
* ``limit REQUEST``: refused, the limit is reached.
* ``lost REQUEST CODE``: not known whether it was counted; nothing may be released.
"""

import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from store_places import sealer
from store_worker import engine_of
from usage_support import HERE, NOW, demand, tag_of

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.model.state import Change, Create, Replace
from tightseal.policy.usage import UsageRecord
from tightseal.release.usage import UsageCounter
from tightseal.state.store import SealedStore

THREADS = 4
RELEASE_SECONDS = 0.03
"""From the count to the answer: derive, seal, attest, record."""


class Watched:
    """Remembers what total each thread wrote last, once that was acknowledged."""

    def __init__(self, store: SealedStore) -> None:
        self._store = store
        self.written = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        version = self._store.batch(changes, now=now)
        (change,) = changes
        assert isinstance(change, Create | Replace)
        self.written.total = str(UsageRecord.decode(change.value).total)
        return version


def attached(place: str) -> SealedStore:
    """The database may be down while a provider starts."""
    while True:
        engine = engine_of(place)
        try:
            return SealedStore.attach(engine, sealer())
        except ServiceError as e:
            engine.close()
            if e.code is not Code.STATE_UNAVAILABLE:
                raise
            time.sleep(0.05)


def main() -> None:
    place, limit = sys.argv[1:]
    store = Watched(attached(place))
    counter = UsageCounter(store)
    demands = (demand(total=int(limit)),)
    speaking = threading.Lock()

    def say(line: str) -> None:
        with speaking:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def answer(request: str) -> None:
        store.written.total = "-"
        try:
            counter.count(demands, platform=HERE, tag=tag_of(request), now=NOW)
        except TightsealError as e:
            if e.code is Code.USAGE_LIMIT_REACHED:
                say(f"limit {request}")
            else:
                say(f"lost {request} {e.code}")
        except BaseException as e:
            say(f"lost {request} {type(e).__name__}")
            raise
        else:
            say(f"counted {request}")
            time.sleep(RELEASE_SECONDS)
            say(f"have {request} {store.written.total}")

    say("ready")
    with ThreadPoolExecutor(THREADS) as pool:
        for line in sys.stdin:
            pool.submit(answer, line.strip())


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What a decision costs, with one workload loaded and with a hundred thousand.

    python benchmarks/policy.py [--workloads N] [--json]

All workloads share firmware and kernel and differ in one register, as on one platform
of many tenants. Decisions go round over a few hundred different workloads, so that none
is found in the processor's caches because it was just asked for. A grant's trace is
complete in every figure.
"""

import argparse
import hashlib
import itertools
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from time import perf_counter

from rows import Row, at_most, best_seconds, figure, note, show

from tightseal.errors import PolicyError
from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.keypath import Authority, IdentityKind, KeyRequest
from tightseal.model.settings import PlatformRule
from tightseal.policy.compile import Policy, compile_policy
from tightseal.policy.document import (
    Document,
    ImageRules,
    KeyRules,
    UsageRules,
    WorkloadRules,
)
from tightseal.policy.engine import Circumstances, decide
from tightseal.policy.eventlog import EventFacts, LogFormat
from tightseal.policy.fields import MEASUREMENT_BYTES
from tightseal.policy.lint import lint
from tightseal.policy.read import Parsed, Text, parse
from tightseal.policy.start import render

NOW = 1_790_000_000
DOMAIN = TrustDomain(Vendor.INTEL, "aa" * 48)
HERE = PlatformIdentity(ppid=b"p" * 16, piid=b"i" * 16)
CIRCUMSTANCES = Circumstances(Authority("policy_root", b"r" * 64), HERE, DOMAIN)
DISK = (KeyRequest("disk"),)
SELECTED = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "td_attributes")
PINNED = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "td_attributes")
ASKED = 256
IN_ONE_TEXT = 1000


def value(name: str, number: int) -> bytes:
    """Everything is shared but RTMR3."""
    seed = f"{name} {number if name == 'rtmr3' else ''}"
    digest = hashlib.sha384(seed.encode()).digest()
    return digest[: MEASUREMENT_BYTES[name]]


def claims(number: int) -> Claims:
    """Claims of one workload."""
    return Claims(
        tee=Tee.TDX,
        trust_domain=DOMAIN,
        measurements={n: value(n, number) for n in MEASUREMENT_NAMES[Tee.TDX]},
        report_data=bytes(64),
        debug=False,
        platform=HERE,
        tcb=Tcb(TcbStatus.UP_TO_DATE, frozenset(), 17, "2024-03-13T00:00:00Z"),
    )


def workload(number: int) -> WorkloadRules:
    """A named workload with one image and one key."""
    image = ImageRules(
        label="2026-10",
        measurements={n: value(n, number).hex() for n in SELECTED},
    )
    return WorkloadRules(
        tenant=f"tenant-{number % 100}",
        name=f"workload-{number}",
        identity=IdentityKind.NAMED,
        tee=Tee.TDX,
        platform=PlatformRule.SAME,
        image=(image,),
        key=(KeyRules(purpose="disk"),),
    )


def documents(count: int) -> list[Parsed]:
    """``count`` workloads as one typed document."""
    rules = tuple(workload(number) for number in range(count))
    return [Parsed(Text("bench", ""), Document(version=1, workload=rules))]


def compose_hash(number: int) -> bytes:
    """Of one application among many on one base system."""
    return hashlib.sha256(str(number).encode()).digest()


def application(number: int) -> WorkloadRules:
    """A workload that its compose hash tells apart, with a usage rule."""
    image = ImageRules(
        label="2026-10",
        measurements={n: value(n, number).hex() for n in PINNED},
        events={"compose-hash": compose_hash(number).hex()},
    )
    return WorkloadRules(
        name=f"application-{number}",
        identity=IdentityKind.NAMED,
        tee=Tee.TDX,
        image=(image,),
        key=(KeyRules(purpose="disk", usage=UsageRules(per_hour=10)),),
    )


def deciding_by_log(count: int) -> Callable[[], object]:
    """A call that decides for one of ``count`` applications by its event log."""
    rules = tuple(application(number) for number in range(count))
    document = Document(version=1, workload=rules)
    policy = compile_policy([Parsed(Text("bench", ""), document)])
    asked = claims(0)
    identity = {"compose-hash": compose_hash(count // 2)}
    events = EventFacts(LogFormat.DSTACK, {}, (), boundary=True, identity=identity)

    def call() -> object:
        return decide(
            asked,
            keys=DISK,
            policy=policy,
            circumstances=CIRCUMSTANCES,
            now=NOW,
            events=events,
        )

    return call


def deciding(policy: Policy, asked: Sequence[Claims]) -> Callable[[], object]:
    """A call that decides for the next of ``asked``."""
    rotation = itertools.cycle(asked)

    def call() -> object:
        return decide(
            next(rotation),
            keys=DISK,
            policy=policy,
            circumstances=CIRCUMSTANCES,
            now=NOW,
        )

    return call


def denying(policy: Policy, stranger: Claims) -> Callable[[], object]:
    """A call that is denied, with the nearest image found."""

    def call() -> object:
        try:
            return decide(
                stranger,
                keys=DISK,
                policy=policy,
                circumstances=CIRCUMSTANCES,
                now=NOW,
            )
        except PolicyError as e:
            return e

    return call


def loaded(count: int) -> tuple[Policy, float, float]:
    """A policy of ``count`` workloads, seconds to compile it, and bytes it keeps."""
    given = documents(count)
    start = perf_counter()
    compile_policy(given)
    seconds = perf_counter() - start
    tracemalloc.start()
    policy = compile_policy(given)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return policy, seconds, kept


def parse_seconds() -> float:
    """Seconds to read a text of ``IN_ONE_TEXT`` workloads."""
    text = render(tuple(workload(number) for number in range(IN_ONE_TEXT)))
    start = perf_counter()
    parse(text)
    return perf_counter() - start


def measure(count: int) -> list[Row]:
    """Every figure."""
    note(f"loading 1 and {count} workloads")
    one, _, _ = loaded(1)
    many, seconds, kept = loaded(count)
    step = max(1, count // ASKED)
    # As many different claims for one workload, so that both sides miss caches alike.
    same = [claims(0) for _ in range(ASKED)]
    spread = [claims(number) for number in range(0, count, step)][:ASKED]
    note("deciding")
    calls = (deciding(one, same), deciding(many, spread))
    best = [float("inf"), float("inf")]
    for _ in range(15):
        for i, call in enumerate(calls):
            best[i] = min(best[i], best_seconds(call, repeat=2 * ASKED, rounds=1))
    denial = best_seconds(denying(many, claims(count + 1)), repeat=50)
    by_log = best_seconds(deciding_by_log(min(count, 1000)), repeat=ASKED)
    start = perf_counter()
    lint(documents(1000), now=NOW)
    lint_seconds = perf_counter() - start
    return [
        at_most("decision, 1 workload", best[0] * 1e6, "us", 50),
        at_most(f"decision, {count} workloads", best[1] * 1e6, "us", 60),
        at_most("ratio", best[1] / best[0], "x", 1.2),
        figure("decision by event log, with a usage rule", by_log * 1e6, "us"),
        figure(f"denial with the nearest image, {count}", denial * 1e6, "us"),
        figure(f"compile {count} workloads", seconds, "s"),
        figure(f"memory of {count} workloads", kept / 2**20, "MiB"),
        figure(f"read {IN_ONE_TEXT} workloads of TOML", parse_seconds(), "s"),
        figure("lint 1000 workloads", lint_seconds, "s"),
    ]


def main() -> int:
    """Measure and show; 1 where a target was not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", dest="as_json")
    arguments = parser.parse_args()
    return show("policy", measure(arguments.workloads), as_json=arguments.as_json)


if __name__ == "__main__":
    sys.exit(main())

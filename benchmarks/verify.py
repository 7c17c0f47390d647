# SPDX-License-Identifier: Apache-2.0
"""What a verification costs, ours against dcap-qvl's, on the same quotes in one run.

Simulated quotes always; real ones where the vectors are (TIGHTSEAL_VECTORS). What is
judged are ratios, so that they hold on any machine.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import loads
from pathlib import Path
from statistics import median
from time import perf_counter

import dcap_qvl
from rows import Row, at_least, at_most, best_seconds, figure, note, show

from tightseal.collateral.bundle import intel_from_json, intel_to_json
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.model.claims import Tee
from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import TdImage
from tightseal_sim.world import World

WARM_LIMIT = 0.35
COLD_LIMIT = 2.0
THREADS_LIMIT = 1.6
SIM_NOW = 1_790_000_000


@dataclass(frozen=True)
class Subject:
    """One quote with everything that its verification needs."""

    name: str
    quote: bytes
    collateral: IntelCollateral
    now: int
    root: TrustedRoot
    library: Callable[[], object]


def simulated(folder: Path) -> list[Subject]:
    """Quotes of a simulated TD and a simulated enclave."""
    world = World.create(folder, seed=b"\x07" * 32)
    platform = world.intel.platform("bench")
    td = platform.launch_td(TdImage())
    enclave = platform.load_enclave(EnclaveImage(name="bench"))
    subjects = []
    for name, tee, quote in (
        ("sim tdx", Tee.TDX, td.evidence(bytes(64))),
        ("sim sgx", Tee.SGX, enclave.evidence(bytes(64))),
    ):
        collateral = world.intel.collateral(
            fmspc=platform.fmspc, ca="platform", tee=tee, now=SIM_NOW
        )
        theirs = dcap_qvl.QuoteCollateralV3.from_json(intel_to_json(collateral))
        root = world.intel.root_certificate

        def library(
            quote: bytes = quote, theirs: object = theirs, root: bytes = root
        ) -> object:
            return dcap_qvl.verify_with_root_ca(quote, theirs, root, SIM_NOW)

        subjects.append(
            Subject(name, quote, collateral, SIM_NOW, world.intel.trusted_root, library)
        )
    return subjects


def real() -> list[Subject]:
    """The real quotes that are authentic, where the vectors are."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "vectors"
    folder = Path(os.environ.get("TIGHTSEAL_VECTORS", default)) / "dcap"
    if not (folder / "INDEX.json").is_file():
        note("no vectors: simulated quotes only")
        return []
    subjects = []
    for entry in loads((folder / "INDEX.json").read_text()):
        verdict = entry.get("verdict") or {}
        if "status" not in verdict:
            continue
        text = (folder / entry["name"] / "collateral.json").read_text()
        quote = (folder / entry["name"] / "quote.bin").read_bytes()
        quote = quote[: parse_quote(quote).declared_length]
        theirs = dcap_qvl.QuoteCollateralV3.from_json(text)
        now = verdict["now"]

        def library(
            quote: bytes = quote, theirs: object = theirs, now: int = now
        ) -> object:
            return dcap_qvl.verify(quote, theirs, now)

        root = VENDOR_ROOTS.intel[0]
        subjects.append(
            Subject(entry["name"], quote, intel_from_json(text), now, root, library)
        )
    return subjects


def ours(subject: Subject, cache: ResultCache | None) -> object:
    """Our verification, with or without results to reuse."""
    return verify_quote(
        subject.quote,
        subject.collateral,
        now=subject.now,
        roots=(subject.root,),
        cache=cache,
    )


def measure(subject: Subject, *, repeat: int) -> tuple[float, float, float]:
    """Seconds of: ours warm, ours cold, the library."""
    cache = ResultCache(256)
    ours(subject, cache)
    warm = best_seconds(lambda: ours(subject, cache), repeat=repeat)
    cold = best_seconds(lambda: ours(subject, None), repeat=max(1, repeat // 4))
    theirs = best_seconds(subject.library, repeat=max(1, repeat // 2))
    return warm, cold, theirs


def threads(call: Callable[[], object], *, count: int, calls: int) -> float:
    """Calls a second by ``count`` threads; best of five."""

    def run(_: int) -> None:
        for _ in range(calls):
            call()

    best = 0.0
    with ThreadPoolExecutor(count) as pool:
        for _ in range(5):
            start = perf_counter()
            list(pool.map(run, range(count)))
            best = max(best, count * calls / (perf_counter() - start))
    return best


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeat", type=int, default=400)
    arguments = parser.parse_args()
    rows: list[Row] = []
    warm_ratios: list[float] = []
    cold_ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        subjects = simulated(Path(folder) / "world") + real()
        for subject in subjects:
            note(f"measuring {subject.name}")
            warm, cold, theirs = measure(subject, repeat=arguments.repeat)
            warm_ratios.append(warm / theirs)
            cold_ratios.append(cold / theirs)
            rows += [
                figure(f"{subject.name}: ours warm", warm * 1e6, "us"),
                figure(f"{subject.name}: ours cold", cold * 1e6, "us"),
                figure(f"{subject.name}: dcap-qvl verify", theirs * 1e6, "us"),
                at_most(
                    f"{subject.name}: warm / dcap-qvl",
                    warm / theirs,
                    "ratio",
                    WARM_LIMIT,
                ),
                at_most(
                    f"{subject.name}: cold / dcap-qvl",
                    cold / theirs,
                    "ratio",
                    COLD_LIMIT,
                ),
            ]
        rows += [
            at_most("median warm / dcap-qvl", median(warm_ratios), "ratio", WARM_LIMIT),
            at_most("median cold / dcap-qvl", median(cold_ratios), "ratio", COLD_LIMIT),
        ]
        note("measuring threads")
        cache = ResultCache(256)
        subject = subjects[0]
        ours(subject, cache)
        calls = arguments.repeat * 2
        one = threads(lambda: ours(subject, cache), count=1, calls=calls)
        two = threads(lambda: ours(subject, cache), count=2, calls=calls)
        one_theirs = threads(subject.library, count=1, calls=arguments.repeat)
        two_theirs = threads(subject.library, count=2, calls=arguments.repeat)
        rows += [
            at_least("ours: two threads / one", two / one, "ratio", THREADS_LIMIT),
            figure("dcap-qvl: two threads / one", two_theirs / one_theirs, "ratio"),
        ]
    return show("verification", rows, as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())

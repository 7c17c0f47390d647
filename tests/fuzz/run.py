# SPDX-License-Identifier: Apache-2.0
"""Fuzz every parser: whatever comes, nothing but Tightseal's own errors goes out.

``python tests/fuzz/run.py --runs 100000`` runs every target in a process of its own,
guided by coverage; ``--target NAME`` runs one, ``--input FILE`` repeats one input.
Exit status 1 where a target failed; the input and what repeats it are printed.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tightseal.errors import TightsealError

__all__ = ["TARGETS", "Outcome", "fuzz", "main"]

HERE: Final = Path(__file__).resolve().parent
TARGETS: Final = tuple(sorted(p.stem for p in (HERE / "targets").glob("*.py")))

MAX_INPUT_BYTES: Final = 16384
INPUT_SECONDS: Final = 20
RSS_MIB: Final = 2048
SECONDS_PER_RUN: Final = 0.02
"""Slowest pace at which a target may go before its process is ended."""

STARTUP_SECONDS: Final = 120


class Target(Protocol):
    """A module in ``targets``."""

    def seeds(self) -> list[bytes]:
        """Good inputs, to start from."""
        ...

    def one(self, data: bytes) -> None:
        """Parse one input; may raise ``TightsealError`` and nothing else."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How one target went.

    Attributes:
        target: its name.
        failed: whether something but ``TightsealError`` came out, or it hung.
        seconds: with start-up.
        said: what the process printed.
        inputs: the inputs that failed.
    """

    target: str
    failed: bool
    seconds: float
    said: str
    inputs: tuple[Path, ...]

    def __str__(self) -> str:
        """One line, and for a failure what came out and what repeats it."""
        word = "FAILED" if self.failed else "passed"
        line = f"{self.target:<16} {word} {self.seconds:7.1f} s"
        if not self.failed:
            return line
        again = [
            f"python tests/fuzz/run.py --target {self.target} --input {path}"
            for path in self.inputs
        ]
        return "\n".join((line, self.said[-4000:], *again))


def load(name: str) -> Target:
    """The target's module."""
    for folder in (HERE, HERE / "targets"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    module: Target = importlib.import_module(f"targets.{name}")
    return module


def contained(target: Target, data: bytes) -> None:
    """One input; whatever else than ``TightsealError`` escapes is the finding."""
    with suppress(TightsealError):
        target.one(data)


def child(name: str, runs: int, seed: int, corpus: Path) -> None:
    """Fuzz one target in this process, which ends with it."""
    # Only the process that fuzzes needs it, and it ships no types.
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415

    with atheris.instrument_imports(include=["tightseal", "targets"]):
        target = load(name)
    seeds = corpus / "seeds"
    seeds.mkdir()
    for at, data in enumerate(target.seeds()):
        contained(target, data)
        (seeds / f"{at:03}").write_bytes(data)
    longest = max(MAX_INPUT_BYTES, *(len(data) for data in target.seeds()))
    arguments = [
        sys.argv[0],
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={longest}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-artifact_prefix={corpus}/failed-",
        "-print_final_stats=1",
        str(seeds),
    ]
    atheris.Setup(arguments, lambda data: contained(target, data))
    atheris.Fuzz()


def fuzz(name: str, *, runs: int, seed: int = 1, folder: Path | None = None) -> Outcome:
    """Fuzz one target in a process of its own.

    Args:
        name: of ``TARGETS``.
        runs: inputs.
        seed: decides them, for the same build of everything.
        folder: where seeds and failing inputs lie; a new one by default.
    """
    corpus = Path(tempfile.mkdtemp(prefix=f"tightseal-fuzz-{name}-", dir=folder))
    command = [sys.executable, str(HERE / "run.py"), "--child", name]
    command += ["--runs", str(runs), "--seed", str(seed), "--corpus", str(corpus)]
    begun = time.monotonic()
    limit = STARTUP_SECONDS + runs * SECONDS_PER_RUN
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=limit)
        failed, said = done.returncode != 0, done.stderr.decode(errors="replace")
        said += done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace")
        failed, said = True, f"{said}\nnot done after {limit:.0f} s"
    inputs = tuple(sorted(corpus.glob("failed-*")))
    seconds = time.monotonic() - begun
    return Outcome(name, failed or bool(inputs), seconds, said, inputs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--input", type=Path, help="repeat one input of --target")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child is not None:
        child(given.child, given.runs, given.seed, given.corpus)
        return 0
    if given.input is not None:
        if given.target is None:
            parser.error("--input needs --target")
        contained(load(given.target), given.input.read_bytes())
        return 0
    failed = 0
    for name in (given.target,) if given.target else TARGETS:
        outcome = fuzz(name, runs=given.runs, seed=given.seed)
        failed += outcome.failed
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

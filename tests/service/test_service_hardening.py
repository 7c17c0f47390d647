# SPDX-License-Identifier: Apache-2.0
"""A core attempt on real providers and commands, and others that read their memory."""

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hushed_run import HushedRun
from service_harness import until

from core_support import (
    core_files,
    cores_allowed,
    read_memory,
    require_cores_in_cwd,
    require_readable_neighbours,
    without_ptrace,
)
from tightseal.model.keypath import KeyRequest
from tightseal.service.hardening import swap_is_on
from tightseal_sim.scene import Provider, Scene

PLANTED = bytes((i * 37 + 11) % 256 for i in range(32))
HOLDER = """
import os, sys
planted = bytes((i * 37 + 11) % 256 for i in range(32))
print("ready", flush=True)
sys.stdin.read()
"""
"""Holds bytes in the open, like any program."""

COMMAND = """
import ctypes, resource, sys
from tightseal.cli import main
status = main()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
print(status, dumpable, resource.getrlimit(resource.RLIMIT_CORE), file=sys.stderr)
"""
"""Runs a command as its program does, and says what became of the process (3 is
``PR_GET_DUMPABLE``)."""

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel would put a core dump of what is started here."""
    made = tmp_path / "cwd"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made
    # Here its complaints are expected; see above.
    gc.collect()


def holder() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate(timeout=10)


def workers(provider: Provider) -> list[int]:
    """Every other process that the provider has started, helpers too."""
    tasks = Path(f"/proc/{provider.process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def died_by(pid: int, number: signal.Signals) -> tuple[bool, bool]:
    """Whether a child died by a signal, and whether the kernel dumped its memory."""
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == number, os.WCOREDUMP(
        status
    )


# -- the control -------------------------------------------------------------------


def test_an_unprotected_process_leaves_a_core_with_its_keys(folder: Path) -> None:
    """Without this, the tests below would show nothing."""
    require_cores_in_cwd()
    with cores_allowed():
        process = holder()
    assert died_by(process.pid, signal.SIGABRT) == (True, True)
    process.wait()
    (core,) = core_files(folder)
    assert PLANTED in core.read_bytes()
    process.communicate()


def test_an_unprotected_process_is_read_by_its_neighbours() -> None:
    require_readable_neighbours()

    def attempt() -> str:
        process = holder()
        try:
            return read_memory(process.pid, PLANTED)
        finally:
            end(process)

    assert without_ptrace(attempt) == "found"


# -- providers ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_provider_with_keys_in_use_leaves_no_core(
    folder: Path, scene: Scene, number: signal.Signals
) -> None:
    with cores_allowed():
        run = HushedRun(scene, workers=1)
    run.release("disk", KeyRequest("disk"))
    assert died_by(run.provider.process.pid, number) == (True, False)
    run.provider.process.wait()
    assert core_files(folder) == []


def test_workers_with_keys_in_use_leave_no_core(folder: Path, scene: Scene) -> None:
    with cores_allowed():
        run = HushedRun(scene, workers=2)
    for turn in range(4):
        run.release(f"disk {turn}", KeyRequest("disk"))
    before = workers(run.provider)
    assert len(before) >= 2
    for pid in before:
        os.kill(pid, signal.SIGABRT)
    until(lambda: not set(before) & set(workers(run.provider)), 30)
    died = [x for x in run.log_lines() if x["event"] == "worker_died"]
    assert [x["exit_code"] for x in died] == [-signal.SIGABRT] * 2
    run.stop()
    assert core_files(folder) == []


def test_no_process_of_a_provider_is_read_by_its_neighbours(scene: Scene) -> None:
    require_readable_neighbours()

    def attempt() -> tuple[set[str], int]:
        run = HushedRun(scene, workers=2)
        root = run.keyring().root(1).reveal()
        served = [
            pid
            for pid in workers(run.provider)
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        seen = {read_memory(pid, root) for pid in (run.provider.process.pid, *served)}
        run.stop()
        return seen, len(served)

    assert without_ptrace(attempt) == ({"refused"}, 2)


def test_every_process_of_a_provider_has_a_limit_of_zero(scene: Scene) -> None:
    with cores_allowed():
        run = HushedRun(scene, workers=2)
    for pid in (run.provider.process.pid, *workers(run.provider)):
        limits = Path(f"/proc/{pid}/limits").read_text()
        (core,) = [x for x in limits.splitlines() if x.startswith("Max core file")]
        assert core.split()[4:6] == ["0", "0"], pid
    run.stop()


def test_a_provider_says_once_a_process_what_was_refused_to_it(scene: Scene) -> None:
    run = HushedRun(scene, workers=2)
    told = [x for x in run.log_lines() if x["event"] == "memory_not_protected"]
    limited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY
    assert len(told) == (3 if limited else 0)
    for line in told:
        assert set(line["refused"]) == {"mlockall"}
        assert "RLIMIT_MEMLOCK" in line["refused"]["mlockall"]
        assert line["level"] == ("warning" if swap_is_on() else "info")
    notes = {note["name"] for note in run.ask("GET", "/readyz").json()["notes"]}
    assert ("memory_not_locked" in notes) == (limited and swap_is_on())
    run.stop()


# -- commands ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("keyring", "status", "--config", "none.toml"),
        ("key", "--provider", "x", "--pin", "none.toml", "--purpose", "x", "--json"),
        ("serve", "--config", "none.toml"),
        ("drill", "--only", "nothing of that name"),
        ("policy", "keygen", "--help"),
    ],
    ids=lambda words: words[0],
)
def test_commands_that_handle_keys_cannot_be_dumped(
    folder: Path, words: tuple[str, ...]
) -> None:
    with cores_allowed():
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words],
            capture_output=True,
            cwd=folder,
            timeout=60,
            check=True,
        )
    assert done.stderr.decode().splitlines()[-1].split(" ", 2)[1:] == ["0", "(0, 0)"]


def test_a_program_that_calls_a_command_stays_as_it_was() -> None:
    """Its process is not ours to change."""
    called = COMMAND.replace("main()", "main(['openapi'])")
    with cores_allowed():
        limit = resource.getrlimit(resource.RLIMIT_CORE)
        done = subprocess.run(
            [sys.executable, "-c", called], capture_output=True, timeout=60, check=True
        )
    last = done.stderr.decode().splitlines()[-1]
    assert last.split(" ", 2)[1:] == ["1", str(limit)]


# -- locking -----------------------------------------------------------------------

LOCKING = """
import re, resource, sys
from tightseal.service.hardening import lock_memory, may_be_swapped
before = bytes(1 << 22)
resource.getrlimit = lambda _: (int(sys.argv[1]), resource.RLIM_INFINITY)
refused = lock_memory()
status = open("/proc/self/status").read()
print(int(re.search(r"VmLck:\\s+(\\d+)", status).group(1)), may_be_swapped(), refused)
"""
"""Locks all memory, under a limit as the process sees it."""


def locking(limit: int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", LOCKING, str(limit)], capture_output=True, check=True
    )
    kilobytes, rest = done.stdout.decode().split(" ", 1)
    return int(kilobytes), rest.strip()


def test_without_a_limit_all_memory_is_locked() -> None:
    kilobytes, rest = locking(resource.RLIM_INFINITY)
    if kilobytes == 0:
        pytest.skip(f"locking all memory is refused here: {rest}")
    assert kilobytes > 4096
    assert rest == "False {}"


def test_under_a_limit_nothing_is_locked_that_could_fail_later() -> None:
    kilobytes, rest = locking(1 << 20)
    assert kilobytes == 0
    assert rest.endswith(
        "{'mlockall': 'RLIMIT_MEMLOCK is 1048576 bytes, not unlimited'}"
    )


@pytest.mark.parametrize(
    ("content", "on"),
    [
        ("Filename\tType\tSize\tUsed\tPriority\n", False),
        ("Filename\tType\n/dev/sda2 partition 1 0 -2\n", True),
        ("", False),
        (None, False),
    ],
    ids=["none", "one", "empty", "no such file"],
)
def test_swap_is_what_the_kernel_lists(
    tmp_path: Path, content: str | None, *, on: bool
) -> None:
    file = tmp_path / "swaps"
    if content is not None:
        file.write_text(content)
    assert swap_is_on(file) is on

# SPDX-License-Identifier: Apache-2.0
"""``make serve``: what it prints works as printed, it ends on Ctrl-C, and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

FOLDER = "a folder's name"
START_SECONDS = 60
STOP_SECONDS = 40


@contextmanager
def playground(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process, and the commands that it printed; Ctrl-C goes to all of it."""
    said = folder / "said"
    with (
        said.open("w") as sink,
        subprocess.Popen(
            [sys.executable, "-m", "tightseal_sim.playground", "--folder", FOLDER],
            cwd=folder,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        ) as process,
    ):
        try:
            yield process, printed_commands(said)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def printed_commands(said: Path) -> list[str]:
    deadline = time.monotonic() + START_SECONDS
    while "Ctrl-C stops it" not in said.read_text():
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)
    lines = said.read_text().splitlines()
    return [
        command.strip()
        for comment, command in pairwise(lines)
        if comment.startswith("  # ")
    ]


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """As it was printed, in a shell, in the same folder."""
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def key_from(folder: Path, command: str) -> str:
    done = run(folder, command)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["simulated"] is True
    key = document["key"]
    assert isinstance(key, str)
    assert len(key) == 64
    return key


def interrupt(process: subprocess.Popen[str], folder: Path) -> None:
    """What a terminal does: the signal goes to the whole group."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(STOP_SECONDS) == 0, (folder / "said").read_text()
    assert (folder / "said").read_text().endswith("stopped\n")
    assert "Traceback" not in (folder / "said").read_text()


def test_printed_commands_work_and_the_world_stays(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with playground(tmp_path) as (process, commands):
            same, other_kernel, other_machine, *under_policy = commands
            first = key_from(tmp_path, same)
            assert key_from(tmp_path, same) == first
            other = key_from(tmp_path, other_kernel)
            assert other != first
            refused = run(tmp_path, other_machine)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "platform_mismatch" in refused.stderr
            name = signed_policy(tmp_path, under_policy, accepted=bool(keys))
            keys.append((first, other, name))
            interrupt(process, tmp_path)
        assert no_process_left(tmp_path)
    # Same world, same keys.
    assert keys[0] == keys[1]


def signed_policy(folder: Path, commands: list[str], *, accepted: bool) -> str:
    """The policy as it stays from one run to the next; the key of the name."""
    named, explain, accept, after = commands
    first = key_from(folder, named)
    explained = run(folder, explain)
    if accepted:
        assert explained.returncode == 0, explained.stderr
    else:
        assert "rtmr1 differs; all else matches image quote" in explained.stdout
        refused = run(folder, after)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "measurements_not_accepted" in refused.stderr
    published = run(folder, accept)
    assert published.returncode == 0, published.stderr
    assert "published  version 2" in published.stdout
    assert key_from(folder, after) == first
    return first


def no_process_left(folder: Path) -> bool:
    mine = str(folder).encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            cwd = str((place / "cwd").readlink()).encode()
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if cwd == mine and b"serve" in command:
            return False
    return True

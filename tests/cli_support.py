# SPDX-License-Identifier: Apache-2.0
"""Run a command in this process or in one of its own, and keep what it said."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

import structlog

from tightseal.cli import main


@dataclass(frozen=True)
class Said:
    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        loaded = json.loads(self.stdout)
        assert isinstance(loaded, dict)
        return loaded


@contextmanager
def _logs_as_at_start() -> Iterator[None]:
    """A command finds the log as its own process would; what it sets goes with it."""
    configured, before = structlog.is_configured(), structlog.get_config()
    structlog.reset_defaults()
    try:
        yield
    finally:
        structlog.reset_defaults()
        if configured:
            structlog.configure(**before)


def run(*arguments: object, stdin: bytes = b"") -> Said:
    out, err = io.StringIO(), io.StringIO()
    source = io.TextIOWrapper(io.BytesIO(stdin))
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "stdin", source),
        _logs_as_at_start(),
    ):
        status = main([str(argument) for argument in arguments])
    return Said(status, out.getvalue(), err.getvalue())


def run_process(*arguments: object, stdin: bytes = b"") -> Said:
    code = "import sys; from tightseal.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(a) for a in arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

# SPDX-License-Identifier: Apache-2.0
"""A provider as a process of its own whose clock is a file, to be killed at any moment.

Arguments: the settings as JSON, and the file that says what its clock says.
"""

from __future__ import annotations

import secrets
import sys
from functools import partial
from pathlib import Path

import msgspec
from service_harness import listener

from tightseal.model.secret import Secret
from tightseal.service.compose import compose, prepare
from tightseal.service.logs import configure_logs
from tightseal.service.server import Listeners, run_worker
from tightseal.service.settings import Settings


def read_clock(file: Path) -> int:
    """Unix seconds; the file is replaced whole."""
    return int(file.read_text())


def main() -> None:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    clock = partial(read_clock, Path(sys.argv[2]))
    configure_logs(settings.host.log, simulated=True)
    prepare(settings, host_clock=clock)
    seed = Secret(secrets.token_bytes(32))
    composed = compose(settings, seed=seed, host_clock=clock)
    http, framed = listener(), listener()
    port = http.getsockname()[1]
    run_worker(
        composed.front,
        Listeners(http, framed, shared=False),
        background=composed.background,
        attach=lambda _loop, _worker: None,
        on_ready=lambda: print(f"port {port}", flush=True),  # noqa: T201
    )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A simulated world's PCCS as a process of its own, for several providers on one world.

    python -m tightseal_sim.pccs_server --world FOLDER --listen HOST:PORT [--seed HEX]

Makes the world where there is none. Whoever knows the seed knows every key of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from tightseal.errors import Code, SettingsError
from tightseal.service.settings import split_address
from tightseal_sim.pccs import pccs_app
from tightseal_sim.state import STATE_FILE
from tightseal_sim.world import World

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 2 where world, seed or address cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m tightseal_sim.pccs_server")
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--listen", required=True, help="host:port")
    parser.add_argument("--seed", default=None, help="32 bytes in hex; else random")
    given = parser.parse_args(argv)
    try:
        host, port = split_address(given.listen, setting="--listen")
        world = _world(given.world, given.seed)
    except SettingsError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    app = pccs_app(world.intel, now=lambda: int(time.time()))
    uvicorn.run(app, host=host, port=port, log_level="warning", lifespan="off")
    return 0


def _world(folder: Path, seed: str | None) -> World:
    if (folder / STATE_FILE).exists():
        return World.open(folder)
    try:
        octets = None if seed is None else bytes.fromhex(seed)
    except ValueError as e:
        detail = "--seed: not in hex"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    return World.create(folder, seed=octets)


if __name__ == "__main__":
    raise SystemExit(main())

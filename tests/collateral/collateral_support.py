# SPDX-License-Identifier: Apache-2.0
"""Real collateral behind the interface of a world, clocks turned by hand, a server."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette

from tightseal.collateral.parts import split
from tightseal.errors import Code, CollateralError
from tightseal.model.claims import Tee
from tightseal.model.collateral import IntelCollateral
from tightseal_sim.pccs import SharedParts


@dataclass
class Recorded:
    """Collateral of one platform family behind the interface of a world."""

    collateral_: IntelCollateral
    fmspc: bytes = b""
    ca: str = ""
    tee: Tee = Tee.TDX
    now: int = 0
    latest: int = 0
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        parts = split(self.collateral_)
        tee, _, fmspc = parts[0].name.subject.partition(":")
        self.fmspc, self.tee = bytes.fromhex(fmspc), Tee(tee)
        self.ca = parts[2].name.subject.removeprefix("crl:")
        self.now = max(part.issued_at for part in parts) + 60
        self.latest = min(part.expires_at for part in parts)

    def collateral(
        self, *, fmspc: bytes, ca: str, tee: Tee, now: int
    ) -> IntelCollateral:
        del now
        self.asked.append(fmspc)
        if (fmspc, ca, tee) != (self.fmspc, self.ca, self.tee):
            raise CollateralError(Code.COLLATERAL_UNAVAILABLE, "no such family")
        return self.collateral_

    @property
    def shared(self) -> SharedParts:
        return SharedParts(self.fmspc, self.ca, self.tee)

    @property
    def query(self) -> dict[str, object]:
        return {"fmspc": self.fmspc, "ca": self.ca, "tee": self.tee}


class Ticker:
    """A monotonic clock whose sleep moves it; remembers every pause."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.at += seconds


@contextmanager
def served(app: Starlette, **options: Any) -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        app,
        loop="asyncio",
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=1,
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, daemon=True
    )
    thread.start()
    for _ in range(500):
        if server.started:
            break
        time.sleep(0.01)
    try:
        scheme = "https" if options else "http"
        yield f"{scheme}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()

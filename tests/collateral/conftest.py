# SPDX-License-Identifier: Apache-2.0
"""Fixtures over real collateral and simulated services."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from collateral_support import Recorded, Ticker, served
from starlette.applications import Starlette

from tightseal.collateral.bundle import intel_from_json
from tightseal.collateral.http import Asker, FetchLimits


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    """Commands set logging up for a process of their own."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def recorded(vectors: Path) -> Callable[[str], Recorded]:
    def load(name: str) -> Recorded:
        path = vectors / "dcap" / name / "collateral.json"
        return Recorded(intel_from_json(path.read_bytes()))

    return load


@pytest.fixture
def october(recorded: Callable[[str], Recorded]) -> Recorded:
    """Family B0C06F000000 in October 2026."""
    return recorded("gramine-skp-tdx-v4")


@pytest.fixture
def june(recorded: Callable[[str], Recorded]) -> Recorded:
    """The same family in June 2025."""
    return recorded("phala-tdx-v4")


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
def serve() -> Iterator[Callable[[Starlette], str]]:
    """Serve an app on loopback until the test ends; gives its address."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture
def make_asker() -> Iterator[Callable[..., Asker]]:
    """Askers that pause for next to nothing, closed when the test ends."""
    made: list[Asker] = []

    def make(**options: object) -> Asker:
        limits = options.pop("limits", FetchLimits(backoff_seconds=0.001))
        asker = Asker(limits, **options)
        made.append(asker)
        return asker

    yield make
    for asker in made:
        asker.close()


@pytest.fixture
def dcap_names(vectors: Path) -> list[str]:
    entries = json.loads((vectors / "dcap" / "INDEX.json").read_text())
    folder = vectors / "dcap"
    names = [entry["name"] for entry in entries]
    return [name for name in names if (folder / name / "collateral.json").exists()]

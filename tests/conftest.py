# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent


def cannot_run(why: str) -> NoReturn:
    """What a test needs is not here: a skip, and a failure where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def vectors_dir() -> Path:
    return Path(
        os.environ.get("TIGHTSEAL_VECTORS", ROOT.parent / "shared" / "vectors")
    ).resolve()


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of real evidence; where it is missing, the test cannot run."""
    folder = vectors_dir()
    if not (folder / "dcap" / "INDEX.json").is_file():
        cannot_run(f"no vectors at {folder}: set TIGHTSEAL_VECTORS to their folder")
    return folder


@pytest.fixture(scope="session", name="cannot_run")
def cannot_run_fixture() -> Callable[[str], NoReturn]:
    """For fixtures of other folders, which cannot import this file."""
    return cannot_run

# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def vectors_dir() -> Path:
    return Path(
        os.environ.get("TIGHTSEAL_VECTORS", ROOT.parent / "shared" / "vectors")
    ).resolve()


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of real evidence; where it is missing, the test cannot run."""
    folder = vectors_dir()
    if not (folder / "dcap" / "INDEX.json").is_file():
        message = f"no vectors at {folder}: set TIGHTSEAL_VECTORS to their folder"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder

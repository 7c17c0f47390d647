# SPDX-License-Identifier: Apache-2.0
"""TPMs for the tests of slots and of the keyring's anchor."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tpm_swtpm import MissingError, Tpm, Tpms, swtpm


@pytest.fixture(scope="module", params=["simulated", "swtpm"])
def tpms(
    request: pytest.FixtureRequest, cannot_run: Callable[[str], NoReturn]
) -> Iterator[Tpms]:
    # Not below pytest's folder: a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        program = None
        if request.param == "swtpm":
            try:
                program = swtpm()
            except MissingError as missing:
                cannot_run(str(missing))
        made = Tpms(program, Path(folder))
        yield made
        made.stop()


@pytest.fixture
def tpm(tpms: Tpms) -> Tpm:
    return tpms.new()

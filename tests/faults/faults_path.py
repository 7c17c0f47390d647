# SPDX-License-Identifier: Apache-2.0
"""Lets these tests use the harness and the database of other folders: import first."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

for folder in ("service", "state"):
    if str(TESTS / folder) not in sys.path:
        sys.path.append(str(TESTS / folder))

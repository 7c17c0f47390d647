# SPDX-License-Identifier: Apache-2.0
"""A process that holds the lock of a keyring's file until it is killed."""

import sys
import time
from pathlib import Path

from tightseal.keys.keyring import KeyringFile


def wait(data: bytes) -> None:
    sys.stdout.write(f"{len(data)}\n")
    sys.stdout.flush()
    time.sleep(600)


path = Path(sys.argv[1])
loaded = KeyringFile(path).load()
KeyringFile(path).save(Path(sys.argv[2]).read_bytes(), wait, replaces=loaded)

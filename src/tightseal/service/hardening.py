# SPDX-License-Identifier: Apache-2.0
"""Process settings that keep secrets out of files: no core dumps, no tracing."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

import structlog

__all__ = ["forbid_core_dumps"]

PR_SET_DUMPABLE: Final = 4
"""From ``linux/prctl.h``."""

log = structlog.get_logger("tightseal.hardening")


def forbid_core_dumps() -> None:
    """Let no core dump of this process or its children be written.

    Also keeps other processes of the same user from reading this one's memory. Where
    the platform does not know one of the calls, the log says so and the other holds.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        error = os.strerror(ctypes.get_errno())
        log.warning("dumpable_stays", call="prctl(PR_SET_DUMPABLE)", error=error)

# SPDX-License-Identifier: Apache-2.0
"""Process settings that keep secrets out of files: no core dumps, no tracing, no swap.

They are of one process and are not inherited by what it starts, except for the limit.
What a system refuses comes back to the caller, who knows where to say so.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

__all__ = ["forbid_core_dumps", "lock_memory", "may_be_swapped", "swap_is_on"]

PR_SET_DUMPABLE: Final = 4
"""From ``linux/prctl.h``."""

MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
"""From ``asm-generic/mman.h``. The last: what was reserved and is never touched costs
no memory."""

SWAPS: Final = Path("/proc/swaps")


class _Done:
    """What this process has done to itself."""

    locked = False


def forbid_core_dumps() -> dict[str, str]:
    """Let no core dump of this process be written, nor its memory be read by others.

    The limit holds for children too, and not where the kernel pipes dumps to a program
    (core(5)). Not being dumpable holds there as well, and keeps processes of the same
    user from reading memory (``ptrace(2)``); those with ``CAP_SYS_PTRACE`` still can.

    Returns:
        each call that was refused, and why.
    """
    refused = {}
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as e:
        refused["RLIMIT_CORE"] = str(e)
    error = _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    if error:
        refused["PR_SET_DUMPABLE"] = error
    return refused


def lock_memory() -> dict[str, str]:
    """Lock all memory of this process, now and later, so that none goes to swap.

    Only where no limit is set on locked memory (``RLIMIT_MEMLOCK``): with one, a
    process that grows beyond it fails where it asks for memory.

    Returns:
        the call that was refused, or not made, and why.
    """
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY:
        return {"mlockall": f"RLIMIT_MEMLOCK is {limit} bytes, not unlimited"}
    error = _call("mlockall", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)
    _Done.locked = not error
    return {"mlockall": error} if error else {}


def may_be_swapped() -> bool:
    """Whether memory of this process may go to swap: there is some, and no lock."""
    return not _Done.locked and swap_is_on()


def swap_is_on(swaps: Path = SWAPS) -> bool:
    """Whether this kernel has any swap; ``False`` where it does not say."""
    try:
        return len(swaps.read_text(encoding="ascii").splitlines()) > 1
    except (OSError, UnicodeDecodeError):
        return False


def _call(name: str, *arguments: int) -> str:
    """Call libc; why it failed, or nothing."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError) as e:
        return str(e)
    if function(*arguments) == 0:
        return ""
    return os.strerror(ctypes.get_errno())

# SPDX-License-Identifier: Apache-2.0
"""How the process takes memory from the system and gives it back: glibc's settings, for the
commands to call.
"""

import ctypes
import os
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_MOST_ARENAS = 9  # each keeps what was freed in it


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, instead of giving large blocks back to the system at once.

    XLA's CPU runtime allocates its temporary memory anew for every call. By default glibc maps and
    unmaps it each time, and the page faults cost a fifth of a small training step
    (docs/performance.md). Its threads take from one arena each: from a single one they wait for
    each other, which halves programs of many small operations (docs/log.md). Returns whether the
    setting was made: on Linux with glibc only.
    """
    arenas = min((os.cpu_count() or 1) + 1, _MOST_ARENAS)
    mallopt = _glibc("mallopt")
    return mallopt is not None and all(
        [
            mallopt(_M_MMAP_MAX, 0),
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),
            mallopt(_M_ARENA_MAX, arenas),
        ]
    )


def give_back_freed_memory() -> bool:
    """Give what malloc keeps back to the system, once: after a rare, large piece of work.

    Returns whether there was any; False where there is no glibc.
    """
    malloc_trim = _glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def _glibc(name: str) -> Any:
    """A function of glibc's; None on another system or with another C library."""
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None

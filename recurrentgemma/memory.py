# SPDX-License-Identifier: Apache-2.0
"""How the process takes memory from the system: a setting of glibc, for the commands to call."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, instead of giving large blocks back to the system at once.

    XLA's CPU runtime allocates its temporary memory anew for every call. By default glibc maps and
    unmaps it each time, and the page faults cost a fifth of a small training step
    (docs/performance.md). Returns whether the setting was made: on Linux with glibc only.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(
        [mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_ARENA_MAX, 1)]
    )

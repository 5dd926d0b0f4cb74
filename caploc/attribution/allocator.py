"""Keep freed memory for the next pass."""

from __future__ import annotations

import ctypes
import platform

# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no more
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Ask glibc to hold on to up to 1 GiB that this process frees; whether it did.

    Otherwise every tensor of some megabytes comes fresh from the system, page by page, and goes back: a fifth of the
    CPU time of attributing a small model. For a process of our own, such as an audit's; a library should not decide
    this for its host, so ``caploc.attribute`` does not call it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    )

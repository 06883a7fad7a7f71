"""Keeps large freed buffers inside the process, so that products do not pay for page faults."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's <malloc.h>


def keep_large_buffers() -> bool:
    """Tells glibc to reuse large freed buffers; returns whether the process has such an allocator.

    glibc gives buffers above 128 kB to 32 MB back to the kernel when they are freed, and every
    product then faults its temporaries in again, page by page. This raises the thresholds
    (mallopt(3)): buffers up to 32 MB come from the heap, and 1 GB of free heap is kept. The
    process then holds that memory until it ends. It is a setting of the whole process, which is
    why the library leaves it to its caller; the command line makes it. Elsewhere than on Linux
    with glibc nothing happens.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  musl also has mallopt, which does nothing
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 1 << 30), (_TOP_PAD, 256 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)

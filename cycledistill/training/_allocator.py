"""Keeping memory that the CPU's tensors are done with, for the tensors of the next step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

# Names and numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = 2**31 - 1  # bytes; the largest that mallopt takes
# Where glibc's own thresholds, which rise with what a program frees, come to rest.
MMAP_DEFAULT, TRIM_DEFAULT, PAD_DEFAULT = 32 * 2**20, 64 * 2**20, 128 * 2**10


@contextlib.contextmanager
def kept_memory(wanted: bool) -> Iterator[bool]:
    """Let glibc keep freed memory inside the block, of tensors of any size; says whether it does.

    Otherwise it takes blocks above 32 MiB from the system, and gives them back, each time. The
    system fills every page with zeros when it is first written, which can take longer than what
    the tensor is for. Other C libraries are left alone, and so is a glibc that was told in the
    environment what to do.
    """
    told = any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("MMAP", "TRIM"))
    if not wanted or told or platform.libc_ver()[0] != "glibc":
        yield False
        return
    libc = ctypes.CDLL(None)
    done = libc.mallopt(M_MMAP_THRESHOLD, KEPT) and libc.mallopt(M_TRIM_THRESHOLD, KEPT)
    libc.mallopt(M_TOP_PAD, 64 * 2**20)
    try:
        yield bool(done)
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_DEFAULT)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_DEFAULT)
        libc.mallopt(M_TOP_PAD, PAD_DEFAULT)
        libc.malloc_trim(0)

"""One run at a time in an output folder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "run.lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of ``folder`` inside the block.

    The lock is the operating system's (a POSIX record lock): it ends with this process, however
    that ends, so nothing needs to be cleaned up after ``kill -9``; the file itself stays. Unlike
    ``flock`` it is not passed on to data workers, which may live on for seconds then. Where there
    are no such locks (Windows, some network file systems) nothing is checked.

    Raises:
        ValueError: Another process holds it; the text says which.
    """
    path = folder / LOCK_FILE
    with open(path, "a+", encoding="utf-8") as file:
        if not _lock(file.fileno()):
            file.seek(0)
            raise ValueError(
                f"another run is writing to output_dir {folder} ({file.read() or 'unknown'}): wait "
                "for it, stop it, or choose another output_dir"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # no locks on this file system
        return True
    return True

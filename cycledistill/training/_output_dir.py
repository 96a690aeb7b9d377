"""The folder of a run: shared by all its processes, and by no other run."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from cycledistill.training.processes._communication import (
    broadcast_value,
    gather_over_processes,
    on_main,
)

LOCK_FILE = "run.lock"


def check_output_dir(folder: Path) -> None:
    """Make the folder and check that every process sees and may write the same one.

    Raises:
        ValueError: It cannot be written, or another process does not see it.
    """
    probe = folder / f".probe-{broadcast_value(uuid.uuid4().hex)}"

    def touch() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as error:
            raise ValueError(f"output_dir {folder} cannot be written: {error.strerror}") from error

    on_main(touch)
    blind = sum(gather_over_processes([not probe.exists()]))
    on_main(lambda: probe.unlink(missing_ok=True))
    if blind:
        raise ValueError(
            f"output_dir {folder} is not the same folder for all processes: {blind} of them do not "
            "see what the main process wrote. It must lie on a file system that all machines share"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of ``folder`` inside the block.

    The lock is a POSIX record lock, which ends with this process, even after ``kill -9``; the file
    itself stays. Unlike ``flock`` it is not inherited by data workers, which may outlive the run by
    seconds. Without such locks (Windows, some network file systems) nothing is checked.

    Raises:
        ValueError: Another process holds it; the text says which.
    """
    with open(folder / LOCK_FILE, "a+", encoding="utf-8") as file:
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

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):  # no locks here
        return True
    return True

"""Finding files, and writing files and folders so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder and its subfolders, by path; hidden ones are left out.

    Links to folders are followed, unless they lead to a folder around them.

    Raises:
        ValueError: There are none.
    """
    paths = sorted(path for path in _shown_files(folder) if path.suffix.lower() in IMAGES)
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGES)})")
    return paths


def _shown_files(folder: Path, around: tuple[Path, ...] = ()) -> Iterator[Path]:
    around = (*around, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in around:
            yield from _shown_files(path, around)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; on success the file there replaces ``path``.

    After an error or SIGTERM nothing is left behind, and an existing file stays as it was.
    """
    with _room(path) as room:
        yield room / path.name
        os.replace(room / path.name, path)


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write that replaces ``path`` once it is complete and on the disk."""
    encoding = None if "b" in mode else "utf-8"
    with replacing_file(path) as temporary, open(temporary, mode, encoding=encoding) as file:
        yield file
        flush_to_disk(file)
    sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path, ours: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A temporary folder to fill; on success it replaces ``folder``.

    After an error or SIGTERM nothing is left behind, and an existing folder stays as it was. The
    files get the permissions of the umask, whatever wrote them.

    Args:
        folder: The folder, or a link to it.
        ours: Names of the files that we write into such a folder, each with a text that it must
            contain (usually ""). Only a folder with these files and nothing else is replaced.

    Raises:
        FileExistsError: There is a file of this name, or a folder that is neither empty nor ours.
    """
    folder = folder.resolve()
    _refuse_strangers(folder, ours)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _room(folder) as room:
        new, old = room / "new", room / "old"
        new.mkdir()
        yield new
        for path in new.rglob("*"):
            if path.is_file():
                path.chmod(new.stat().st_mode & 0o666)
        _refuse_strangers(folder, ours)
        try:
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
        except BaseException:
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            raise
        if old.is_dir():
            shutil.rmtree(old)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system that name no file, such as that of a full disk, name this."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def flush_to_disk(file: IO[Any]) -> None:
    """Return when everything written to ``file`` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in ``folder`` are on the disk."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refuse_strangers(folder: Path, ours: Mapping[str, str] | None) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: expected a folder or nothing, found a file")
    ours = ours or {}
    strangers_first = sorted((path.name in ours, path.name) for path in folder.iterdir())
    found = [name for _, name in strangers_first]
    if found and not (ours.keys() >= set(found) and _are_marked(folder, ours)):
        rest = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise FileExistsError(
            f"{folder}: expected no folder, an empty one, or one that was written here before and "
            f"holds nothing else, found {', '.join(found[:3])}{rest}; name another"
        )


def _are_marked(folder: Path, ours: Mapping[str, str]) -> bool:
    marked = {folder / name: mark for name, mark in ours.items() if mark}
    return all(
        path.is_file() and mark in path.read_text("utf-8", "replace")
        for path, mark in marked.items()
    )


@contextmanager
def _room(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, removed at the end, also after SIGTERM."""
    with (
        naming(path),
        _unwound_by_sigterm(),
        tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}-", dir=path.parent) as room,
    ):
        yield Path(room)


class _Terminated(BaseException):
    pass


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM leaves this block like an error, then ends the process as usual.

    Does nothing if the program handles SIGTERM itself, or outside of the main thread.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def leave(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    terminated = False
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except _Terminated:
        terminated = True
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if terminated:
        os.kill(os.getpid(), signal.SIGTERM)

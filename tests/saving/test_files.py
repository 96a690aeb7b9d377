"""Files and folders appear whole or not at all, and nothing of a stranger's goes."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cycledistill.saving._files import replacing, replacing_file, replacing_folder

OURS = {"config.json": "our format", "weights": ""}


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def write_ours(folder: Path, text: str = "new") -> None:
    with replacing_folder(folder, OURS) as temporary:
        (temporary / "config.json").write_text("our format")
        (temporary / "weights").write_text(text)


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_absent_empty_and_ours_are_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty", "deep/er"):
        write_ours(tmp_path / name, "old")
        write_ours(tmp_path / name)
        assert everything(tmp_path / name) == {"config.json": "our format", "weights": "new"}
    (tmp_path / "link").symlink_to("empty")
    write_ours(tmp_path / "link", "through the link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "weights").read_text() == "through the link"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "x"},
        {"photos/1.jpg": "x"},
        {".git/HEAD": "x"},
        {"weights": "of something else"},
        {"config.json": "another format", "weights": "x"},
        {"config.json": "our format", "weights": "x", "notes.txt": "mine"},
        {"config.json": "our format", "weights/inner": "x", "photos/1.jpg": "x"},
    ],
)
def test_strangers_files_stay(files: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(FileExistsError, match=r"mine: expected no folder, an empty one, .*, found"):
        write_ours(folder)
    assert everything(folder) == files
    with pytest.raises(FileExistsError), replacing_folder(folder):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="expected a folder or nothing, found a file"):
        write_ours(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_that_fills_meanwhile_stays(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    with pytest.raises(FileExistsError), replacing_folder(folder, OURS) as temporary:
        (temporary / "weights").write_text("x")
        folder.mkdir()
        (folder / "thesis.tex").write_text("x")
    assert everything(tmp_path) == {"plain/thesis.tex": "x"}


def test_errors_leave_what_was_there(tmp_path: Path) -> None:
    write_ours(tmp_path / "plain", "old")
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyError), replacing_folder(tmp_path / "plain", OURS) as temporary:
        (temporary / "weights").write_text("half")
        raise KeyError
    with pytest.raises(KeyError), replacing(tmp_path / "file") as file:
        file.write("half")
        raise KeyError
    assert everything(tmp_path) == {
        "file": "old",
        "plain/config.json": "our format",
        "plain/weights": "old",
    }


def test_errors_name_what_is_written(tmp_path: Path) -> None:
    for error, named in (
        (OSError(errno.ENOSPC, "No space left on device"), r"on device: '.*/file'$"),
        (OSError(errno.ENOENT, "No such file", "other"), "No such file: 'other'"),
        (OSError("of a library"), "^of a library$"),
    ):
        with pytest.raises(OSError, match=named), replacing(tmp_path / "file"):
            raise error


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    """Whatever has written them: some libraries write for the owner's eyes alone."""
    with replacing_folder(tmp_path / "plain") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "weights").write_text("x")
        (temporary / "inner" / "weights").chmod(0o600)
    with replacing_file(tmp_path / "file") as path:
        path.write_text("x")
    with replacing(tmp_path / "text") as file:
        file.write("x")
    for path in tmp_path.rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


WRITER = """
import sys, time
from pathlib import Path
from cycledistill.saving._files import replacing, replacing_folder
folder = Path(sys.argv[1])
with replacing_folder(folder / "new"), replacing_folder(folder / "old", {"a": "a"}) as old:
    (old / "a").write_text("half")
    with replacing(folder / "file") as file:
        file.write("half")
        file.flush()
        print("writing", flush=True)
        time.sleep(30)
"""


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("a")
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    assert len(list(tmp_path.glob(".*"))) == 3
    writer.send_signal(signal.SIGTERM)
    assert writer.wait(timeout=20) == -signal.SIGTERM
    assert everything(tmp_path) == {"old/a": "a"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_programs_own_handler_of_sigterm_stays(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with replacing(tmp_path / "file") as file:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            file.write("whole")
        assert received == [signal.SIGTERM]
        assert (tmp_path / "file").read_text() == "whole"
    finally:
        signal.signal(signal.SIGTERM, before)

"""What CI's entry does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def test_ci_unpacks_the_data_and_makes_test(repository: Path, tmp_path: Path) -> None:
    entry = tmp_path / "project/.ci/run"
    entry.parent.mkdir(parents=True)
    shutil.copy(repository / ".ci/run", entry)
    assert os.access(entry, os.X_OK)
    unpack = tmp_path / "shared/data/unpack"
    unpack.parent.mkdir(parents=True)
    unpack.write_text('mkdir -p "$1/tiny_coco"\n')
    make = tmp_path / "bin/make"
    make.parent.mkdir()
    make.write_text('#!/bin/sh\necho "$@"; pwd; ls "$CYCLEDISTILL_DATA"; exit 7\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{make.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([entry], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["test", str(tmp_path / "project"), "tiny_coco"]
    assert done.returncode == 7
    ignored = (repository / ".gitignore").read_text().split()
    assert {f"{path.name}/" for path in (tmp_path / "project").iterdir()} - {".ci/"} <= set(ignored)

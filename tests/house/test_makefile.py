"""What the Makefile says and does on a bare machine, with stand-ins for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Takes the part of `python3` and, under the name .venv/bin/python, of the environment's Python;
# writes down what it was asked to install.
STAND_IN = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install"*"--editable"*) echo "$*" >> installed; exit "${PIP_FAILS:-0}" ;;
  "-m pip "*) ;;
  "-c "*) exec {python} "$@" ;;
  *) echo "ran: $*" ;;
esac
"""
OLD = """#!/bin/sh
exec {python} -c 'import sys; sys.version_info = (3, 9, 18, "final", 0); exec(sys.argv[2])' "$@"
"""
NO_VENV = """#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
exec {python} "$@"
"""


@pytest.fixture
def project(repository: Path, tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path)
    return tmp_path


def program(path: Path, text: str) -> str:
    path.write_text(text.replace("{python}", sys.executable))
    path.chmod(0o755)
    return str(path)


def make(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Without the variables by which a `make test` around this test would reach into it.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=project,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("name", "stand_in", "said"),
    [
        (
            "python3.9",
            OLD,
            ["needs Python 3.10 or newer", "is 3.9.18.", "make test PYTHON=python3.12"],
        ),
        ("python3", NO_VENV, ["cannot make virtual environments", "python3-venv"]),
        ("no-such-python", None, ["error: there is no 'no-such-python' here"]),
    ],
)
def test_a_python_that_will_not_do_is_told(
    project: Path, name: str, stand_in: str | None, said: list[str]
) -> None:
    python = name if stand_in is None else program(project / name, stand_in)
    done = make(project, "test", f"PYTHON={python}")
    assert done.returncode != 0
    for text in said:
        assert text in done.stderr
    assert not (project / ".venv").exists()


def test_installs_once_and_again_when_the_project_file_changes(project: Path) -> None:
    python = "PYTHON=" + program(project / "python3", STAND_IN)
    installed = project / "installed"

    first = make(project, "install", python)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Installing into .venv: PyTorch")
    assert "--editable .[dev]" in installed.read_text()

    second = make(project, "install", python)
    assert "Installing" not in second.stdout
    demo = make(project, "demo", python)
    assert "Installing" not in demo.stdout  # what development needs is more than the demo does
    assert "ran: examples/" in demo.stdout
    assert len(installed.read_text().splitlines()) == 1

    later = (project / ".venv/.installed-dev").stat().st_mtime + 10
    os.utime(project / "pyproject.toml", (later, later))
    assert "Installing" in make(project, "install", python).stdout
    assert len(installed.read_text().splitlines()) == 2


def test_a_failed_install_is_tried_again(project: Path) -> None:
    python = "PYTHON=" + program(project / "python3", STAND_IN)
    assert make(project, "demo", python, PIP_FAILS="1").returncode != 0
    assert list(project.glob(".venv/.installed-*")) == []
    assert make(project, "demo", python).returncode == 0
    installed = (project / "installed").read_text().splitlines()
    assert len(installed) == 2
    assert all("--editable .[pose,deit]" in line for line in installed)  # less than development

"""Runs the examples as `python examples/NAME ...` does, but for another interpreter's start."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

EXAMPLES = Path(__file__).parents[1] / "examples"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_example(name: str, *arguments: object) -> Done:
    """Run an example to its end; an exception that it does not handle comes through."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, [str(EXAMPLES / name), *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code or 0
    finally:
        sys.argv = before
    return Done(code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def run_program(name: str, *arguments: object) -> Done:
    """The same in an interpreter of its own: where it matters how the program ends."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)

"""Runs the examples as `python examples/NAME ...` does, but for another interpreter's start."""

from __future__ import annotations

import contextlib
import io
import runpy
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

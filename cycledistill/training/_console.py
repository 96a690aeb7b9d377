"""Where programs print what they found."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDE = 1000


def report_console() -> Console:
    """A console for tables and paths: in a pipe or a file, no line is broken."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(markup=False, highlight=False, width=width)

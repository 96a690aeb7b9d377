"""Packages that only an extra brings."""

from __future__ import annotations

import importlib.util


def require(what: str, extra: str, *modules: str) -> None:
    """Check that the modules that ``what`` needs are installed.

    Raises:
        ImportError: Some are not; the text names them and the extra.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'{what} needs {", ".join(missing)}: pip install "cycledistill[{extra}]"')

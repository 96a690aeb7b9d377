"""Shows the doctests of docstrings as code, wherever in the docstring they stand."""

from __future__ import annotations

import re
from typing import Any

import griffe

_HEADING = re.compile(r"^Example:$", re.MULTILINE)
_DOUBLE_COLON = re.compile(r"::$", re.MULTILINE)
_BARE = re.compile(r"^>>> .*(?:\n.*\S.*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences examples that stand in running text, and takes ``Example:`` for ``Examples:``.

    The double colon that announces a literal block becomes a single one.
    """

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = _HEADING.sub("Examples:", obj.docstring.value)
            text = _DOUBLE_COLON.sub(":", text)
            obj.docstring.value = _BARE.sub(r"```pycon\n\g<0>\n```", text)

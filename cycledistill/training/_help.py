"""What ``--help`` says: the fields' docstrings as flowing text."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any

import docstring_parser


def explain_fields(config_class: type) -> None:
    """Note each field's docstring, line breaks taken out, as its help; nested dataclasses too.

    Left alone, tyro keeps the breaks of indented lines, which makes ragged text in a narrower or
    wider terminal.
    """
    hints = typing.get_type_hints(config_class)
    texts: dict[str, str] = {}
    for owner in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(owner):
            for item in docstring_parser.parse_from_object(owner).params:
                texts[item.arg_name] = " ".join((item.description or "").split()).replace("``", "")
    for field in dataclasses.fields(config_class):
        if text := texts.get(field.name):
            text = text[0].upper() + text[1:]
            field.metadata = types.MappingProxyType({"help": text, **field.metadata})
        hint: Any = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            explain_fields(hint)


def describe_options(presets: Mapping[str, Any], default: str | None) -> str:
    """The options that are no fields, in a column as wide as the terminal."""
    names = ", ".join(f"{name}{' (default)' * (name == default)}" for name in presets)
    options = {
        "--preset NAME": f"start from the values of {names}",
        "--config FILE.yaml": "values from a file, such as a run's config.yaml; flags win",
        "--debug": "show the traceback of errors",
    }
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(text, width, initial_indent=f"{flag:20}", subsequent_indent=" " * 20)
        for flag, text in options.items()
        if presets or flag != "--preset NAME"
    )

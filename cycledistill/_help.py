"""Help texts of options, from docstrings: Tyro would keep the line breaks of the source."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from docstring_parser import parse_from_object


def join_help_lines(config: Any) -> None:
    """Give each field of a config, and of configs in it, its docstring as one line.

    Args:
        config: A dataclass object.
    """
    texts = {
        field.arg_name: " ".join((field.description or "").split())
        for parent in reversed(type(config).__mro__[:-1])
        for field in parse_from_object(parent).params
    }
    for field in dataclasses.fields(config):
        if texts.get(field.name):
            field.metadata = MappingProxyType({"help": texts[field.name], **field.metadata})
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            join_help_lines(value)


def join_argument_lines(function: Callable[..., Any]) -> None:
    """Join the lines of each argument in the docstring of a function that is a command."""
    function.__doc__ = re.sub(r"\n {8}(?=\S)", " ", inspect.getdoc(function) or "")

"""Configurations as YAML files."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from cycledistill.saving._files import replacing


def plain(value: Any) -> Any:
    """A config value as YAML knows it: paths as texts, tuples as lists, enums by name."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.name if isinstance(value, Enum) else value


def save_config(config: Any, path: str | Path) -> None:
    """Write a config dataclass as YAML, for ``--config`` to read again.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(Path(path)) as file:
        yaml.safe_dump(plain(dataclasses.asdict(config)), file, sort_keys=False)


def read_config(path: str | Path, config: Any) -> list[str]:
    """Read a YAML file, of UTF-8 or UTF-16, as command-line arguments for a config dataclass.

    So a value in a file is checked and converted by the same rules as on the command line.

    Args:
        path: The file: a mapping with the fields' names, nested for nested dataclasses.
        config: The dataclass object whose fields may be named.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML mapping, or names an unknown field.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no config file {file}")
    return _arguments(read_mapping(file, _Loader), config, str(file), prefix="")


def read_mapping(file: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """The options in a YAML file; none if it is empty.

    Raises:
        ValueError: It is no YAML mapping.
    """
    try:
        content = yaml.load(file.read_bytes(), Loader=loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a mapping from options to values")
    return content


class _Loader(yaml.SafeLoader):
    """YAML whose scalars are all texts but for null: ``no`` is a precision, ``1e-3`` a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = [key for number, key in enumerate(keys) if key in keys[:number]]
        if twice:
            raise yaml.YAMLError(f"it has {twice[0]} twice")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _arguments(content: Mapping[str, Any], config: Any, file: str, prefix: str) -> list[str]:
    known = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    arguments: list[str] = []
    for name, value in content.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{file}: there is no option {prefix}{name}{hint}")
        flag = f"--{prefix}{name}".replace("_", "-")
        if dataclasses.is_dataclass(known[name]) and isinstance(value, Mapping):
            arguments += _arguments(value, known[name], file, f"{prefix}{name}.")
        elif isinstance(known[name], bool):
            if str(value).lower() not in ("true", "false"):
                raise ValueError(f"{file}: {prefix}{name} must be true or false, got {value!r}")
            no = "" if str(value).lower() == "true" else "no-"
            arguments.append(f"--{prefix}{no}{name}".replace("_", "-"))
        elif isinstance(value, list):
            arguments += [flag, *(str(item) for item in value)]
        elif isinstance(value, Mapping):
            arguments += [flag, *(str(part) for item in value.items() for part in item)]
        else:
            arguments.append(f"{flag}={value}")
    return arguments

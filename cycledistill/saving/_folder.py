"""Folders of saved models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def check_files(folder: Path, what: str, *names: str) -> None:
    """Check that a folder has the files of a saved model.

    Args:
        folder: The folder.
        what: What it should be, for the message, which also says where the model of a run is.
        *names: Names of the files.

    Raises:
        FileNotFoundError: A file is missing.
    """
    for name in names:
        if not (folder / name).is_file():
            text = f"{folder} has no {name}, which a saved {what} has"
            plain = folder / "plain"
            if (plain / name).is_file():
                text += f"; it looks like a run, whose {what} is {plain}"
            raise FileNotFoundError(text)


def read_config(folder: Path, what: str, *names: str) -> dict[str, Any]:
    """The content of ``config.json`` in a folder that has it and the other files.

    Raises:
        FileNotFoundError: See `check_files`.
        ValueError: It is not a JSON object.
    """
    path = folder / "config.json"
    check_files(folder, what, path.name, *names)
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(config).__name__}")
    return config

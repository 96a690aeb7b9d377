"""Folders of saved models."""

from __future__ import annotations

from pathlib import Path


def missing_file(folder: Path, name: str, what: str) -> FileNotFoundError:
    """The error for a folder without one of its files; says where the model of a run is."""
    text = f"{folder} has no {name}, which a saved {what} has"
    plain = folder / "plain"
    if (plain / name).is_file():
        text += f"; it looks like a run, whose {what} is {plain}"
    return FileNotFoundError(text)

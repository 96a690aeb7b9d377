"""Which formats can be written here."""

from __future__ import annotations

import pytest
import torch


def skip_without(suffix: str) -> None:
    """Skip where torch is too old for a format."""
    if suffix == ".onnx" and torch.__version__ < "2.7":
        pytest.skip(f"ONNX needs torch 2.7 or newer, this is {torch.__version__}")

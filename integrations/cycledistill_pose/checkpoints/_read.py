"""Reading the tensors of a checkpoint, from a file or a dictionary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

# The function that NumPy pickles scalars with; NumPy 2 renamed its module.
_make_number = np.float64(0).__reduce__()[0]


def _make_old_number(*arguments: Any) -> Any:
    return _make_number(*arguments)


_make_old_number.__module__ = (
    "numpy.core.multiarray" if "_core" in _make_number.__module__ else "numpy._core.multiarray"
)
_make_old_number.__qualname__ = _make_old_number.__name__ = "scalar"
_NUMBER_TYPES = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
_NUMBERS: list[Any] = [
    _make_number,
    _make_old_number,
    np.dtype,
    *{type(np.dtype(number)) for number in _NUMBER_TYPES},
]


def read_tensors(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict in `source`, which may stand under `"state_dict"` in it.

    Files are read without running any code in them (`weights_only=True`, or safetensors). Besides
    tensors they may hold NumPy scalars, which training tools write for the best score.
    """
    if isinstance(source, Mapping):
        content: Any = source
        origin = "the dictionary"
    else:
        content = _read_file(Path(source))
        origin = str(source)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{origin} holds no state dict, but {_describe(content)}")
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(
            f"{origin} holds no state dict: {strange[0]!r} is {_describe(content[strange[0]])}, "
            "not a tensor"
        )
    parallel = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if parallel else key: v for key, v in content.items()}


def _read_file(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of any type, for a file that is none of PyTorch's
        raise ValueError(
            f"{path} cannot be read as a checkpoint of tensors (damaged, or it holds Python "
            f"objects other than tensors): {str(error) or type(error).__name__}"
        ) from error


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, list(value)[:5])) or '(none)'}"
    return f"a {type(value).__name__}"

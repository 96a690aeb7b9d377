"""Cycles in trainers of other libraries.

Needs the extra ``trainer``: ``pip install "cycledistill[trainer]"``.
"""

from __future__ import annotations

import importlib.util

_missing = [
    name
    for name in ("accelerate", "safetensors", "transformers")
    if importlib.util.find_spec(name) is None
]
if _missing:
    raise ImportError(
        f'cycledistill.trainers needs {", ".join(_missing)}: pip install "cycledistill[trainer]"'
    )

from cycledistill.trainers._hugging_face import CycleTrainer  # noqa: E402

__all__ = ["CycleTrainer"]

"""Cycles in trainers of other libraries.

Needs the extra ``trainer``: ``pip install "cycledistill[trainer]"``.
"""

from cycledistill import _extras

_extras.require("cycledistill.trainers", "trainer", "accelerate", "safetensors", "transformers")

from cycledistill.trainers._hugging_face import CycleTrainer

__all__ = ["CycleTrainer"]

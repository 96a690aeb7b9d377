"""One small training loop for every task, on Hugging Face Accelerate.

Needs the extra ``train``: ``pip install "cycledistill[train]"``.
"""

from __future__ import annotations

import importlib.util

_NEEDED = {
    "accelerate": "accelerate",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "rich": "rich",
    "tyro": "tyro",
    "yaml": "pyyaml",
}
_missing = [package for name, package in _NEEDED.items() if importlib.util.find_spec(name) is None]
if _missing:
    raise ImportError(
        f'cycledistill.training needs {", ".join(_missing)}: pip install "cycledistill[train]"'
    )

from cycledistill.training._budget import budget_rows, training_macs  # noqa: E402
from cycledistill.training._checkpoint import load_weights  # noqa: E402
from cycledistill.training._cli import parse_cli, run_cli  # noqa: E402
from cycledistill.training._config import TrainConfig, free  # noqa: E402
from cycledistill.training._config_file import save_config  # noqa: E402
from cycledistill.training._curves import draw_curves  # noqa: E402
from cycledistill.training._cycled_config import CycledConfig  # noqa: E402
from cycledistill.training._errors import (  # noqa: E402
    CheckpointError,
    Interrupted,
    NonFiniteLossError,
    TrainingError,
)
from cycledistill.training._evaluator import BestEvaluation  # noqa: E402
from cycledistill.training._log import read_log  # noqa: E402
from cycledistill.training._module import Losses  # noqa: E402
from cycledistill.training._nonfinite import replay  # noqa: E402
from cycledistill.training._schedule import WarmupCosine, WarmupSteps  # noqa: E402
from cycledistill.training._trained import TrainedRun, find_trained, start_from  # noqa: E402
from cycledistill.training._trainer import FitResult, Trainer, fit  # noqa: E402

__all__ = [
    "BestEvaluation",
    "CheckpointError",
    "CycledConfig",
    "FitResult",
    "Interrupted",
    "Losses",
    "NonFiniteLossError",
    "TrainConfig",
    "TrainedRun",
    "Trainer",
    "TrainingError",
    "WarmupCosine",
    "WarmupSteps",
    "budget_rows",
    "draw_curves",
    "find_trained",
    "fit",
    "free",
    "load_weights",
    "parse_cli",
    "read_log",
    "replay",
    "run_cli",
    "save_config",
    "start_from",
    "training_macs",
]

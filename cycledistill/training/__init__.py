"""One small training loop for every task, on Hugging Face Accelerate.

Needs the extra ``train``: ``pip install "cycledistill[train]"``.
"""

from cycledistill import _extras

_extras.require(
    "cycledistill.training", "train", "accelerate", "matplotlib", "numpy", "rich", "tyro", "yaml"
)

from cycledistill.training._budget import budget_rows, training_macs
from cycledistill.training._checkpoint import load_weights
from cycledistill.training._cli import parse_cli, run_cli
from cycledistill.training._config import TrainConfig, free, within
from cycledistill.training._config_file import save_config
from cycledistill.training._console import report_console
from cycledistill.training._curves import draw_curves
from cycledistill.training._cycled_config import CycledConfig
from cycledistill.training._errors import (
    CheckpointError,
    Interrupted,
    NonFiniteLossError,
    TrainingError,
)
from cycledistill.training._evaluator import BestEvaluation
from cycledistill.training._log import read_log
from cycledistill.training._module import Losses
from cycledistill.training._nonfinite import replay
from cycledistill.training._schedule import WarmupCosine, WarmupSteps
from cycledistill.training._trained import TrainedRun, find_trained, start_from
from cycledistill.training._trainer import FitResult, Trainer, fit

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
    "report_console",
    "run_cli",
    "save_config",
    "start_from",
    "training_macs",
    "within",
]

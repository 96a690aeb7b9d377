"""What the pose examples share: options, data, a whole run. Needs the extra ``[train]``."""

from cycledistill_pose.recipes._build import (
    build_codec,
    build_criterion,
    build_model,
    input_size_of,
    model_options,
    wrap_model,
)
from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.recipes._data import PoseData, load_data
from cycledistill_pose.recipes._evaluate import evaluate_cycles, save_predictions, scores_by_cycle
from cycledistill_pose.recipes._evaluation_options import EvaluationOptions
from cycledistill_pose.recipes._files import OpenFiles, open_files
from cycledistill_pose.recipes._report import report
from cycledistill_pose.recipes._train import PoseRun, train_pose

__all__ = [
    "EvaluationOptions",
    "OpenFiles",
    "PoseConfig",
    "PoseData",
    "PoseRun",
    "build_codec",
    "build_criterion",
    "build_model",
    "evaluate_cycles",
    "input_size_of",
    "load_data",
    "model_options",
    "open_files",
    "report",
    "save_predictions",
    "scores_by_cycle",
    "train_pose",
    "wrap_model",
]

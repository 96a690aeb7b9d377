"""Parts of the recipes in ``examples/``: options, people, evaluation. Needs extra ``[train]``."""

from __future__ import annotations

from cycledistill_pose.recipes._build import (
    build_criterion,
    build_model,
    build_teacher,
    model_options,
)
from cycledistill_pose.recipes._config import EvaluationOptions, PoseConfig
from cycledistill_pose.recipes._evaluate import evaluate_cycles, save_predictions, scores_by_cycle
from cycledistill_pose.recipes._finish import PoseRun, finish_run
from cycledistill_pose.recipes._open import open_evaluation, open_people
from cycledistill_pose.recipes._people import EvaluationPeople, TrainingPeople, people_rows

__all__ = [
    "EvaluationOptions",
    "EvaluationPeople",
    "PoseConfig",
    "PoseRun",
    "TrainingPeople",
    "build_criterion",
    "build_model",
    "build_teacher",
    "evaluate_cycles",
    "finish_run",
    "model_options",
    "open_evaluation",
    "open_people",
    "people_rows",
    "save_predictions",
    "scores_by_cycle",
]

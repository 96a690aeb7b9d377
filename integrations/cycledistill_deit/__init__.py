"""Image classification with timm's models: data, recipe, accuracy by cycle, export."""

from cycledistill_deit._config import PRESETS, ClassificationConfig
from cycledistill_deit._data import ClassificationData, load_data
from cycledistill_deit._evaluate import cycle_accuracies
from cycledistill_deit._export import load_plain, load_teachers, load_trained, save_plain
from cycledistill_deit._images import example_input
from cycledistill_deit._loss import MixupTargets, build_criterion
from cycledistill_deit._model import create_classifier

__all__ = [
    "PRESETS",
    "ClassificationConfig",
    "ClassificationData",
    "MixupTargets",
    "build_criterion",
    "create_classifier",
    "cycle_accuracies",
    "example_input",
    "load_data",
    "load_plain",
    "load_teachers",
    "load_trained",
    "save_plain",
]

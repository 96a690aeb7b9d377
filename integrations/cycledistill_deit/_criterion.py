"""The loss of each mode."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cycledistill import CycleDistillLoss, FoldLoss
from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._mixup import SoftCrossEntropy


def build_criterion(
    config: ClassificationConfig, teachers: Sequence[nn.Module] = ()
) -> CycleDistillLoss | FoldLoss:
    """Cross entropy on every cycle with token distillation, or on the last cycle alone.

    In mode fold, cross entropy beside the divergence from the ``teachers``, which are frozen. The
    targets are class probabilities `[B, K]` (see `MixupTargets`).
    """
    task: nn.Module = SoftCrossEntropy()
    if config.mode == "fold":
        return FoldLoss(task, teachers, config.truth_weight, temperature=config.temperature)
    if config.mode != "distill":
        return CycleDistillLoss(task, token_weight=0.0, task_cycles="last")
    return CycleDistillLoss(
        task,
        token_weight=config.token_weight,
        detach_teacher=config.detach_teacher,
        task_cycles=config.task_cycles,
        prediction_weight=config.prediction_weight,
    )

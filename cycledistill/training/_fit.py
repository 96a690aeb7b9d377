"""``fit``: one call that trains."""

from __future__ import annotations

from typing import Any

from cycledistill.training._config import TrainConfig
from cycledistill.training._trainer import FitResult, Trainer


def fit(config: TrainConfig, **parts: Any) -> FitResult:
    """Train a model, or continue where an earlier run in ``output_dir`` ended.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> from cycledistill import CycleDistillLoss, CycleWrapper
        >>> from cycledistill.training import TrainConfig, fit
        >>> blocks = [nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2)]
        >>> model = CycleWrapper(nn.Sequential(*blocks), num_cycles=2)
        >>> criterion = CycleDistillLoss(nn.MSELoss())
        >>> def forward_loss(model, criterion, batch):
        ...     return criterion(model(batch), batch), len(batch)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = TrainConfig(folder, epochs=2, batch_size=4, num_workers=0, device="cpu")
        ...     result = fit(
        ...         config,
        ...         model=model,
        ...         criterion=criterion,
        ...         optimizer=torch.optim.Adam(model.parameters(), lr=config.scaled_lr),
        ...         train_dataset=torch.randn(8, 3, 4),
        ...         forward_loss=forward_loss,
        ...     )
        model       CycleWrapper(Sequential)
        parameters  40
        ...
        >>> result.steps
        4

    The same code runs in one process or in several, started by ``accelerate launch`` or
    ``torchrun``. The samples of each step, and so the result up to rounding, are the same for any
    world size.

    Args:
        config: The options.
        **parts: Those of `Trainer`.

    Raises:
        ValueError: An option, device, folder, optimiser or checkpoint is wrong; raised before the
            first step.
        TrainingError: The run cannot go on (non-finite loss, full disk, broken checkpoints).
        Interrupted: The run was asked to stop and saved a checkpoint.
    """
    return Trainer(config, **parts).train()

"""What a run costs in arithmetic, for the summary at its start."""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import EngFormatter

from cycledistill import CycleWrapper, count_macs
from cycledistill.training._config import TrainConfig

# A backward pass computes two products for each one of the forward pass.
_FORWARD_AND_BACKWARD = 3


def training_macs(config: TrainConfig, model: CycleWrapper, *inputs: Any, num_samples: int) -> int:
    """Multiply-accumulates of a whole run, including attention products.

    Three times those of the training forward pass for each sample of each epoch. Recomputed
    activations and evaluations are not counted.

    Args:
        config: The run's.
        model: The wrapped model, with the cycles of training.
        *inputs: What it is called with for one sample.
        num_samples: Samples of the training set.
    """
    per_epoch = min(config.steps_per_epoch(num_samples) * config.batch_size, num_samples)
    return _FORWARD_AND_BACKWARD * _forward_macs(model, *inputs) * config.epochs * per_epoch


def budget_rows(
    config: TrainConfig, model: CycleWrapper, *inputs: Any, num_samples: int
) -> dict[str, str]:
    """Lines for the summary of a run: what the model costs in use and in training.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> blocks = [nn.Sequential(nn.Linear(40, 40), nn.GELU()) for _ in range(2)]
        >>> config = TrainConfig(epochs=2, batch_size=4)
        >>> cycled = CycleWrapper(nn.Sequential(*blocks), num_cycles=2)
        >>> budget_rows(config, cycled, torch.zeros(1, 3, 40), num_samples=8)
        {'MACs': '9.6 k a sample in use (9.6 k with attention products), 19.2 k in a forward pass
        of training with 2 cycles', 'training': 'about 922 k MACs, forward and backward'}

    Args:
        config: The run's. Its ``inference_cycles``, if any, are the cycles in use, otherwise one.
        model: The wrapped model, with the cycles of training.
        *inputs: What it is called with for one sample.
        num_samples: Samples of the training set.
    """
    use = count_macs(model, *inputs, num_cycles=getattr(config, "inference_cycles", 1))
    forward = _forward_macs(model, *inputs)
    total = training_macs(config, model, *inputs, num_samples=num_samples)
    cycles = f"{model.num_cycles} cycle{'s' * (model.num_cycles > 1)}"
    return {
        "MACs": f"{_short(use.without_attention_products)} a sample in use "
        f"({_short(use.with_attention_products)} with attention products), "
        f"{_short(forward)} in a forward pass of training with {cycles}",
        "training": f"about {_short(total)} MACs, forward and backward",
    }


def _forward_macs(model: CycleWrapper, *inputs: Any) -> int:
    """MACs of all cycles and their predictions for one sample, including attention products."""
    cycles = model.num_cycles
    return count_macs(
        model, *inputs, method="forward_cycles", num_cycles=cycles
    ).with_attention_products


def _short(number: float) -> str:
    """Three digits and a prefix: 2.38 G."""
    return EngFormatter()(float(f"{number:.3g}"))

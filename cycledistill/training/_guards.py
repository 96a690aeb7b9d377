"""What is checked before the first step, and while training goes on."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import LBFGS, Optimizer

_GROWTH = 10.0


def check_trackers(trackers: Sequence[str]) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        ValueError: One is missing.
    """
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ValueError(
                f"trackers has {tracker!r}, which is not installed: pip install {tracker}"
            )


def check_optimizer(optimizer: Optimizer, module: nn.Module) -> None:
    """Check that the optimiser holds the module's trainable parameters and no others.

    Raises:
        ValueError: A parameter is missing, or unknown, or a step computes the loss several times.
    """
    if isinstance(optimizer, LBFGS):
        raise ValueError("optimizer: expected one whose step needs no closure, got LBFGS")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    known = {id(p): name for name, p in module.named_parameters()}
    trained = [p for p in module.parameters() if p.requires_grad]
    missing = [known[id(p)] for p in trained if id(p) not in held]
    if missing:
        raise ValueError(
            f"the optimizer lacks {len(missing)} trainable parameters: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Give it those of model and criterion, or "
            "freeze these with requires_grad_(False)"
        )
    unknown = len(held - known.keys())
    if unknown:
        raise ValueError(
            f"the optimizer holds {unknown} parameters that belong neither to the model nor to the "
            "criterion; was it made for another copy of them?"
        )


def warn_of_growing_tokens(means: Mapping[str, float]) -> bool:
    """Warn where tokens become much larger from the first cycle to the last; returns whether.

    Args:
        means: Of the log, with the root mean square of the tokens of cycle n as ``scale/n``.
    """
    scales = [value for name, value in means.items() if name.startswith("scale/")]
    if not scales or not scales[-1] > _GROWTH * scales[0]:
        return False
    warnings.warn(
        "the tokens grow from cycle to cycle, to a root mean square of "
        f"{', '.join(f'{scale:.3g}' for scale in scales)}: later cycles get inputs "
        "that the blocks were not trained on. Options of CycleWrapper that help: "
        "cycle_norm='input', gate=True",
        UserWarning,
        stacklevel=2,
    )
    return True

"""What to say and keep when a loss is infinite or not a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn

from cycledistill._files import replacing
from cycledistill.training._parallel import ForwardLoss, Losses, LossModule
from cycledistill.training._seeding import seed_step
from cycledistill.training._state import load_module_state


def bad_terms(scalars: Mapping[str, float]) -> list[str]:
    """Names of the terms that are not finite, the sum of all ("loss") last.

    Example:
        >>> bad_terms({"loss": float("nan"), "task/1": 0.5, "task/2": float("inf")})
        ['task/2', 'loss']
    """
    bad = [name for name, value in scalars.items() if not math.isfinite(value)]
    return sorted(bad, key=lambda name: name == "loss")


def describe_term(name: str, value: float) -> str:
    """A term in words.

    Example:
        >>> describe_term("tokens/visual/1", float("nan"))
        'tokens/visual of cycle 1 is nan'
    """
    term, _, cycle = name.rpartition("/")
    return f"{term} of cycle {cycle} is {value}" if cycle.isdigit() else f"{name} is {value}"


@torch.no_grad()
def culprits(module: LossModule, batch: Any, num_samples: int) -> list[int]:
    """Positions of the samples whose loss on their own is not finite.

    Empty when no single one is to blame, or the batch cannot be cut into samples.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    found = []
    try:
        for position in range(num_samples):
            one = recursively_apply(_cut(position, num_samples), batch)
            losses, _ = module(one)
            if bad_terms(losses.scalars()):
                found.append(position)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return []
    finally:
        for buffer, saved in buffers:
            buffer.copy_(saved)
    return found


def save_reproducer(
    path: Path,
    batch: Any,
    module_state: Mapping[str, Tensor],
    place: Sequence[int],
    indices: Sequence[int],
) -> None:
    """Write batch, weights and seed of a failed computation, for ``replay``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "batch": recursively_apply(lambda tensor: tensor.detach().cpu(), batch),
        "module": {name: tensor.cpu() for name, tensor in module_state.items()},
        "place": list(place),
        "indices": list(indices),
    }
    with replacing(path, "wb") as file:
        torch.save(content, file)


def replay(
    reproducer: str | Path, model: nn.Module, criterion: nn.Module, forward_loss: ForwardLoss
) -> Losses:
    """Compute the failed losses of a saved reproducer again, for a look with a debugger.

    Args:
        reproducer: The file that the error message names.
        model: The model as it was given to ``fit``; takes the saved weights.
        criterion: Likewise.
        forward_loss: Likewise.
    """
    content = torch.load(reproducer, map_location="cpu", weights_only=True)
    module = LossModule(model, criterion, forward_loss).train()
    load_module_state(module, content["module"], f"reproducer {reproducer}")
    device = next(module.parameters()).device
    seed_step(*content["place"])
    losses, _ = module(recursively_apply(lambda tensor: tensor.to(device), content["batch"]))
    return losses


def _cut(position: int, num_samples: int) -> Any:
    def cut(tensor: Tensor) -> Tensor:
        if tensor.ndim and tensor.shape[0] == num_samples:
            return tensor[position : position + 1]
        return tensor

    return cut

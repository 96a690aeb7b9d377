"""Whole states of modules and optimisers as plain tensors, sharded or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer by its full name, whole.

    Unlike ``state_dict()`` of a ``CycleWrapper`` this holds the teacher-only parameters as well.
    Sharded parameters are gathered, so all processes must call it. Tensors that are not sharded
    are the module's own, not copies.
    """
    return {name: whole(tensor.detach()) for name, tensor in named_tensors(module)}


@torch.no_grad()
def load_module_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy whole tensors into a module that may be sharded.

    Raises:
        ValueError: Names or shapes differ; the text lists them and says ``what`` was loaded.
    """
    own = dict(named_tensors(module))
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"unknown: {name}" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, the model's has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        listed = "; ".join(problems[:8]) + (f"; {len(problems) - 8} more" * (len(problems) > 8))
        raise ValueError(f"{what} is of another model than this one. {listed}")
    for name, tensor in own.items():
        tensor.copy_(like(state[name].to(tensor.device), tensor))


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """``optimizer.state_dict()`` with whole tensors. All processes must call it."""
    state = optimizer.state_dict()
    return {
        "state": {
            index: {
                key: whole(value) if isinstance(value, Tensor) else value
                for key, value in entry.items()
            }
            for index, entry in state["state"].items()
        },
        "param_groups": state["param_groups"],
    }


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any], what: str) -> None:
    """Load what ``optimizer_state`` gave, sharding it as the parameters are.

    Raises:
        ValueError: The optimiser's groups are of other sizes.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved_sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes != saved_sizes:
        raise ValueError(
            f"{what} is of another optimiser: its parameter groups hold {saved_sizes} parameters, "
            f"this one's {sizes}"
        )
    placed = {
        index: {
            key: like(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for key, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({"state": placed, "param_groups": state["param_groups"]})


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards gathered; itself when it has none."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, cut into shards when ``model`` is."""
    if not hasattr(model, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = model
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements)


def named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers by full name, each tensor once."""
    found: list[tuple[str, Tensor]] = list(module.named_parameters())
    seen = set()
    for prefix, owner in module.named_modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if name not in owner._non_persistent_buffers_set and buffer not in seen:
                seen.add(buffer)
                found.append((f"{prefix}.{name}" if prefix else name, buffer))
    return found

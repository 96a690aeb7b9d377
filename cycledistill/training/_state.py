"""Full states of modules and optimisers, sharded or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.optim import Optimizer

FULL = StateDictOptions(full_state_dict=True)


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """``module.state_dict()`` with sharded tensors gathered; all processes must call it."""
    state: dict[str, Any] = get_model_state_dict(module, options=FULL)
    return state


@torch.no_grad()
def load_module_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load full tensors into a module that may be sharded.

    Raises:
        ValueError: Names or shapes differ; the text lists them and says ``what`` was loaded.
    """
    own = module.state_dict()
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
    # torch's `set_model_state_dict` goes through the children, and misses parameters that a wrapper
    # shows as its own; its optimiser's counterpart fails without any state (plain SGD) too.
    for name, tensor in own.items():
        tensor.copy_(_sharded_as(tensor, state[name]))


def optimizer_state(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's state by names of parameters, unsharded. All processes must call it."""
    return get_optimizer_state_dict(module, optimizer, options=FULL)


def load_optimizer_state(
    module: nn.Module, optimizer: Optimizer, state: dict[str, Any], what: str
) -> None:
    """Load what ``optimizer_state`` gave, sharded as the parameters are.

    Raises:
        ValueError: The optimiser's groups hold other parameters.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    own = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    saved = [list(group["params"]) for group in state["param_groups"]]
    if own != saved:
        raise ValueError(
            f"{what} is of another optimiser: its parameter groups hold "
            f"{[len(group) for group in saved]} parameters, this one's "
            f"{[len(group) for group in own]}{' other ones' * (len(own) == len(saved))}"
        )
    parameters = {names[p]: p for group in optimizer.param_groups for p in group["params"]}
    numbers = {name: number for number, name in enumerate(parameters)}
    entries = {
        numbers[name]: {
            key: _sharded_as(parameters[name], value)
            if isinstance(value, Tensor) and value.shape == parameters[name].shape
            else value
            for key, value in entry.items()
        }
        for name, entry in state["state"].items()
    }
    groups = [
        {**group, "params": [numbers[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor with all its shards gathered; itself when it has none."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _sharded_as(tensor: Tensor, value: Tensor) -> Tensor:
    """A full value on the tensor's device, and cut into shards if the tensor is."""
    value = value.to(tensor.device)
    if not hasattr(tensor, "placements"):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = tensor
    return distribute_tensor(value, sharded.device_mesh, sharded.placements)

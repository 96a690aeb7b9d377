"""Sharding over the processes (FSDP2), and full states of modules that may be sharded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

FULL = StateDictOptions(full_state_dict=True)


def shard(module: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Shard a module's parameters in place, and put the shards into the optimiser.

    Each block of a stack is gathered on its own while it runs, all other parameters together.
    """
    from torch.distributed.fsdp import fully_shard

    groups = [] if optimizer is None else optimizer.param_groups
    held = _names_in_groups(module, groups)
    for unit in _shard_units(module):
        fully_shard(unit)
    fully_shard(module)
    sharded = dict(module.named_parameters())
    for group, names in zip(groups, held, strict=True):
        group["params"] = [sharded[name] for name in names]


def is_sharded(module: nn.Module) -> bool:
    """Whether ``shard`` was applied to the module."""
    return hasattr(module, "set_requires_gradient_sync")


@contextlib.contextmanager
def gradient_sync(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Average gradients over the processes in this backward pass, or in a later one."""
    shared: Any = module
    if is_sharded(module):
        shared.set_requires_gradient_sync(wanted)
    elif not wanted and hasattr(module, "no_sync"):
        with shared.no_sync():
            yield
        return
    yield


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor with its shards gathered; itself if it has none."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """``module.state_dict()`` with sharded tensors gathered; all processes must call it."""
    state: dict[str, Any] = get_model_state_dict(module, options=FULL)
    return state


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
        raise ValueError(f"{what} belongs to another model. {listed}")
    set_model_state_dict(module, dict(state), options=FULL)


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
    own = _names_in_groups(module, optimizer.param_groups)
    saved = [list(group["params"]) for group in state["param_groups"]]
    if own != saved:
        raise ValueError(
            f"{what} belongs to another optimiser: its parameter groups hold "
            f"{[len(group) for group in saved]} parameters, this one's "
            f"{[len(group) for group in own]}{' other ones' * (len(own) == len(saved))}"
        )
    # Without any tensor (plain SGD) torch would not know on which device to put a full state.
    options = StateDictOptions(full_state_dict=any(state["state"].values()))
    set_optimizer_state_dict(module, optimizer, state, options=options)


def _names_in_groups(module: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in groups]


def _shard_units(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        elements = list(child.children())
        alike = len(elements) > 1 and len({type(element) for element in elements}) == 1
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and alike:
            if any(True for _ in elements[0].parameters()):
                yield from elements
        else:
            yield from _shard_units(child)

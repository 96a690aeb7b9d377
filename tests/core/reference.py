"""Cycles by hand, slow and simple: what the wrapper is compared with."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cycledistill import CycleDistillLoss, CycleOutput, CycleWrapper


class HandFed(NamedTuple):
    predictions: list[Any]
    tokens: list[Tensor]


def stack_of(model: nn.Module, path: str) -> list[nn.Module]:
    """The modules at a path such as `blocks`, `blocks.1:3`, `1:4` or ``, or at several of them."""
    if ", " in path:
        return [block for part in path.split(", ") for block in stack_of(model, part)]
    found = re.match(r"^(.*?)\.?(\d*):(\d*)$", path)
    if found is None:
        target = model.get_submodule(path)
        return list(target) if isinstance(target, (nn.Sequential, nn.ModuleList)) else [target]
    children = list(model.get_submodule(found[1]))  # type: ignore[arg-type]
    return children[slice(int(found[2] or 0), int(found[3] or len(children)))]


def tokens_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(model, nn.ModuleList):
        (x,) = args
        for block in model:
            x = block(x)
        return x
    return model(*args, **kwargs)


def hand_fed(
    model: nn.Module, path: str, num_cycles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> HandFed:
    """All cycles of a plain model, with gradients, from many plain calls of it.

    The first call records what every block gets. The tokens of cycle i are made by calling the
    blocks one by one; its prediction by calling the whole model again while a hook on its last
    block puts these tokens in the place of the model's own.
    """
    blocks = stack_of(model, path)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handles = [
        block.register_forward_pre_hook(lambda _, a, k: calls.append((a, k)), with_kwargs=True)
        for block in blocks
    ]
    first_outputs: list[Any] = []
    handles.append(blocks[-1].register_forward_hook(lambda _, __, out: first_outputs.append(out)))
    first = call(model, args, kwargs)
    for handle in handles:
        handle.remove()
    assert len(calls) == len(blocks)

    predictions, outputs = [first], [first_outputs[0]]
    while len(outputs) < num_cycles:
        x = tokens_of(outputs[-1])
        for block, (block_args, block_kwargs) in zip(blocks, calls, strict=True):
            if block_args:
                output = block(x, *block_args[1:], **block_kwargs)
            else:
                output = block(**{**block_kwargs, "hidden_states": x})
            x = tokens_of(output)
        outputs.append(output)
        handle = blocks[-1].register_forward_hook(lambda *_, out=output: out)
        predictions.append(call(model, args, kwargs))
        handle.remove()
    return HandFed(predictions, [tokens_of(output) for output in outputs])


def leaves(tree: Any) -> Iterator[Any]:
    """Everything in a tree that is no container."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves(value)
    elif dataclasses.is_dataclass(tree):
        for entry in dataclasses.fields(tree):
            yield from leaves(getattr(tree, entry.name))
    else:
        yield tree


def assert_same(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Same types of containers, same tensors to a tolerance (0: to the last bit)."""
    assert type(got) is type(expected)
    if isinstance(expected, Tensor):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        if tolerance == 0:
            assert torch.equal(got, expected)
        else:
            assert float((got - expected).detach().abs().max()) <= tolerance
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key], tolerance)
    elif isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other, tolerance)
    elif dataclasses.is_dataclass(expected):
        for entry in dataclasses.fields(expected):
            assert_same(getattr(got, entry.name), getattr(expected, entry.name), tolerance)
    else:
        assert got == expected


def task_loss(prediction: Any) -> Tensor:
    """A scalar of everything a prediction holds."""
    return sum(
        (leaf.square().mean() * 0.1 + leaf.cos().sum() * 0.01)
        for leaf in leaves(prediction)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )  # type: ignore[return-value]


def equation_4(
    fed: HandFed,
    task: Callable[[Any], Tensor] = task_loss,
    weights: Sequence[float] = (0.7,),
    groups: Sequence[slice] = (slice(None),),
    detach: bool = True,
    teacher: str = "next",
    dim: int = 1,
) -> Tensor:
    """The paper's loss, term by term."""
    total = sum(task(prediction) for prediction in fed.predictions)
    for weight, group in zip(weights, groups, strict=True):
        index = (slice(None),) * dim + (group,)
        for cycle in range(len(fed.tokens) - 1):
            target = fed.tokens[cycle + 1 if teacher == "next" else -1]
            target = target.detach() if detach else target
            total = total + weight * mse_loss(fed.tokens[cycle][index], target[index])
    return total  # type: ignore[return-value]


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same_gradients(
    model: nn.Module, expected: dict[str, Tensor | None], tolerance: float = 1e-10
) -> None:
    for name, parameter in model.named_parameters():
        reference = expected[name]
        if reference is None:  # no part of the graph in the reference: nothing flows
            assert parameter.grad is None or float(parameter.grad.abs().max()) == 0, name
            continue
        assert parameter.grad is not None, name
        scale = max(1.0, float(reference.abs().max()))
        assert float((parameter.grad - reference).abs().max()) <= tolerance * scale, name


def check_by_hand(case: Any, num_cycles: int = 2, **options: Any) -> None:
    """Predictions, tokens and gradients of a case of the zoo are those of cycles by hand."""
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, num_cycles, case.blocks, **options)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    fed = hand_fed(plain, cycled.stack_path, num_cycles, args, kwargs)
    assert cycled.cycles_run == num_cycles
    assert_same(out.tokens, tuple(fed.tokens))
    assert_same(out.predictions, tuple(fed.predictions))
    loss_of(out).backward()
    equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))


def loss_of(out: CycleOutput) -> Tensor:
    """What ``equation_4`` of the same cycles by hand must give."""
    return CycleDistillLoss(task_loss, 0.7)(out).total

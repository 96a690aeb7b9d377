"""Trees of tensors: what models return (tensor, tuple, dict, dataclass, model output)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply ``function`` to every tensor of ``tree`` and to its counterparts in ``others``.

    Containers keep their type; whatever is no tensor and no container is taken from ``tree``.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, Mapping):
        mapped = {
            key: map_tensors(function, value, *(other[key] for other in others))
            for key, value in tree.items()
        }
        if type(tree) is dict:
            return mapped
        result: Any = copy.copy(tree)
        for key, value in mapped.items():
            result[key] = value
        return result
    if isinstance(tree, (tuple, list)):
        items = [
            map_tensors(function, value, *(other[index] for other in others))
            for index, value in enumerate(tree)
        ]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changes = {
            field.name: map_tensors(
                function,
                getattr(tree, field.name),
                *(getattr(other, field.name) for other in others),
            )
            for field in dataclasses.fields(tree)
            if field.init
        }
        return dataclasses.replace(tree, **changes)
    return tree


def iter_tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from iter_tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from iter_tensors(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from iter_tensors(getattr(tree, field.name))


def split_batch(
    tree: Any,
    num_parts: int,
    batch_sizes: tuple[int, ...],
    batch_dims: tuple[int, ...],
    token_ndim: int,
) -> tuple[tuple[Any, ...], int]:
    """Split every tensor of a tree whose batch is ``num_parts`` times as large into the parts.

    Tensors with as many dimensions as the tokens carry the batch at the first of ``batch_dims``
    that has ``num_parts`` times one of the ``batch_sizes``, all others at 0. A tensor of another
    batch size did not come through the stack; every part gets it as it is.

    Returns:
        The parts, and the number of tensors that were split.
    """
    num_split = 0

    def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
        nonlocal num_split
        for dim in batch_dims if tensor.ndim == token_ndim else (0,):
            for size in batch_sizes if tensor.ndim > dim else ():
                if tensor.shape[dim] == num_parts * size:
                    num_split += 1
                    return tensor.split(size, dim)
        return (tensor,) * num_parts

    split = [pieces(tensor) for tensor in iter_tensors(tree)]

    def part(index: int) -> Any:
        remaining = iter(split)
        return map_tensors(lambda _: next(remaining)[index], tree)

    return tuple(part(index) for index in range(num_parts)), num_split

"""Trees of tensors: what models take and return (tensor, tuple, dict, dataclass, model output).

Only `_parts` decides what is a container, so that mapping, splitting and finding tensors agree.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A model's inputs as positional and keyword arguments.

    A mapping holds keyword arguments, a tuple positional ones; anything else is one argument.
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def map_tensors(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply ``function`` to every tensor of ``tree`` and its counterparts in ``others``.

    Containers are new objects of the same type; everything else is taken from ``tree``.
    """

    def of_tensor(leaf: Any, *counterparts: Any) -> Any:
        return function(leaf, *counterparts) if isinstance(leaf, Tensor) else leaf

    return map_leaves(of_tensor, tree, *others)


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply ``function`` to everything in ``tree`` that is not a container."""
    parts = None if isinstance(tree, Tensor) else _parts(tree)
    if parts is None:
        return function(tree, *others)
    counterparts = [_parts(other) for other in others]
    mapped = [
        map_leaves(function, part, *(other[index] for other in counterparts if other is not None))
        for index, part in enumerate(parts)
    ]
    return _rebuilt(tree, mapped)


def iter_tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
        return
    for part in _parts(tree) or ():
        yield from iter_tensors(part)


def fresh_containers(tree: Any) -> Any:
    """The same tensors in new containers, which may be modified.

    Other objects that define how they are copied, such as a graph with its tensors, are copied too.
    """
    if isinstance(tree, Tensor):
        return tree
    parts = _parts(tree)
    if parts is None:
        return copy.copy(tree) if hasattr(tree, "__copy__") else tree
    return _rebuilt(tree, [fresh_containers(part) for part in parts])


def _parts(tree: Any) -> list[Any] | None:
    """The items of a container; None for anything else."""
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, (tuple, list)):
        return list(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, name) for name in _fields(tree)]
    if isinstance(tree, SimpleNamespace):
        return list(vars(tree).values())
    return None


def _rebuilt(tree: Any, parts: list[Any]) -> Any:
    """A container like ``tree`` with other items."""
    if type(tree) is dict:
        return dict(zip(tree, parts, strict=True))
    if isinstance(tree, (tuple, list)):
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, SimpleNamespace):
        return type(tree)(**dict(zip(vars(tree), parts, strict=True)))
    result: Any = copy.copy(tree)
    if isinstance(tree, Mapping):
        for key, part in zip(tree, parts, strict=True):
            result[key] = part
    else:
        for name, part in zip(_fields(tree), parts, strict=True):
            object.__setattr__(result, name, part)  # works for frozen dataclasses, too
    return result


def _fields(tree: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(tree) if hasattr(tree, field.name)]

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

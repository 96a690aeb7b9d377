"""Key-value caches of decoders: one for each cycle, carried in one object.

A cache of transformers is a list of layers. The cache of a call in N cycles has the layers of
cycle 1, then those of cycle 2, and so on; each cycle is called with a cache that holds only its own
layers. Cropping, copying or reordering a cache (for beam search) applies to all of its layers, and
so to all cycles.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cycledistill._tree import map_leaves

_NAMES = ("past_key_values", "past_key_value", "kv_cache", "cache", "cache_params", "mems")
_PREFIX = "A learnt prefix, as of prefix tuning, generates with one cycle only"


class CycleCaches:
    """The caches of one call in several cycles.

    Args:
        model: Class name of the model, for errors.
        num_cycles: Number of cycles of the call.
        training: Whether the model trains. The content of a cache is then an input of every cycle,
            such as a learnt prefix; in eval mode it was left by as many cycles.
        args: The model's arguments; a cache among them becomes that of all cycles.
        kwargs: The model's keyword arguments.

    Raises:
        ValueError: A cache cannot be split, or was filled with another number of cycles.
    """

    def __init__(
        self,
        model: str,
        num_cycles: int,
        training: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        given = [value for value in (*args, *kwargs.values()) if _is_cache(value)]
        foreign = [name for name in _NAMES if _is_foreign(kwargs.get(name))]
        if len(given) > 1:
            raise ValueError(f"{model} got {len(given)} key-value caches: expected one. {_PREFIX}")
        if foreign or not all(hasattr(_own(one), "layers") for one in given):
            kind = type(given[0] if given else kwargs[foreign[0]]).__name__
            raise ValueError(
                f"{model} got a key-value cache ({kind}) that cannot be split into {num_cycles} "
                "cycles: expected a cache of transformers that is a list of layers, such as "
                "DynamicCache. Call the model without a cache, or with one cycle"
            )
        self.given = given[0] if given else None
        self.parts: list[Any] = []
        if self.given is not None:
            split = _shared if training else _split
            self.parts = split(self.given, num_cycles)

    def inputs(self, cycle: int, args: Any, kwargs: Any) -> Any:
        """Arguments and keyword arguments of a cycle; cycles are numbered from 1."""
        if self.given is None:
            return args, kwargs
        own = self.parts[cycle - 1]
        return (
            tuple(own if value is self.given else value for value in args),
            {name: own if value is self.given else value for name, value in kwargs.items()},
        )

    def join(self, predictions: list[Any], made: list[list[Any]]) -> list[Any]:
        """The predictions, with the cache of all cycles instead of each cycle's own.

        Args:
            predictions: Predictions of one or more cycles.
            made: The caches in the prediction of each cycle, see `caches_in`.
        """
        parts = self.parts or [own[0] for own in made if len(own) == 1]
        if len(parts) != len(made) or not parts:
            return predictions
        joined = parts[0] if self.given is None else self.given
        _join(joined, parts)
        return [map_leaves(lambda x: joined if _is_cache(x) else x, own) for own in predictions]


def check_no_cache(model: str, values: Iterable[Any]) -> None:
    """Check that batched cycles get no cache, which each of them would extend.

    Raises:
        ValueError: One of the model's arguments is a cache.
    """
    if any(map(_is_cache, values)):
        raise ValueError(
            f"{model} got a key-value cache, which each of its batched cycles would extend: "
            "expected batched=False, or a call without a cache"
        )


def rewinding(function: Callable[..., Any], *inputs: Any) -> Callable[..., Any]:
    """A function for a checkpoint of these inputs, whose caches it fills only once.

    When it runs again in the backward pass, it gets copies of the caches as they were before.
    """
    before: dict[int, Any] = {}
    if not torch.compiler.is_compiling():
        before = {id(cache): _with_layers(cache, _copied) for cache in caches_in(inputs)}
    if not before:
        return function
    first = True

    def run(*again: Any) -> Any:
        nonlocal first
        if not first:
            again = map_leaves(
                lambda x: _with_layers(before[id(x)], _copied) if id(x) in before else x, again
            )
        first = False
        return function(*again)

    return run


def caches_in(prediction: Any) -> list[Any]:
    """The caches in a model's output."""
    found: list[Any] = []

    def note(leaf: Any) -> Any:
        if _is_cache(leaf) and hasattr(_own(leaf), "layers"):
            found.append(leaf)
        return leaf

    map_leaves(note, prediction)
    return found


def _shared(cache: Any, num_cycles: int) -> list[Any]:
    """A cache for each cycle, all with the same content."""
    # The tensors of a filled layer may have a graph, which prevents a deep copy.
    copied = _copied if _length(cache) > 0 else copy.deepcopy
    return [_with_layers(cache, copied) for _ in range(num_cycles)]


def _copied(layers: list[Any]) -> list[Any]:
    """Layers with the same tensors, which can be filled on their own."""
    made = [copy.copy(layer) for layer in layers]
    for layer in made:
        for name, value in vars(layer).items():
            if isinstance(value, (dict, list)):  # the states of linear attention
                setattr(layer, name, copy.copy(value))
    return made


def _length(cache: Any) -> int:
    """The number of tokens in a cache."""
    try:
        return int(cache.get_seq_length())
    except ValueError:  # linear attention has a state, not tokens
        return int(cache.has_previous_state())


def _split(cache: Any, num_cycles: int) -> list[Any]:
    """A cache for each cycle, with only its layers."""
    known = getattr(cache, "num_cycles", 1)
    length = _length(cache)
    if length and known != num_cycles:
        raise ValueError(
            f"the key-value cache holds {length} tokens of {known} cycle{'s' * (known > 1)}, and "
            f"this call has {num_cycles}: expected a cache that was filled with as many cycles. "
            f"{_PREFIX}"
        )

    def of_cycle(cycle: int, layers: list[Any]) -> list[Any]:
        size = len(layers) // known
        if cycle < known:
            return layers[cycle * size : (cycle + 1) * size]
        return copy.deepcopy(layers[:size])  # empty ones

    parts = [_with_layers(cache, partial(of_cycle, cycle)) for cycle in range(num_cycles)]
    lengths = [_length(part) for part in parts]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the key-value cache holds {lengths} tokens of the cycles 1 to {num_cycles}: it was "
            "used with one cycle in between, which fills only the cache of cycle 1"
        )
    return parts


def _own(cache: Any) -> Any:
    """The cache of the decoder's self-attention; an encoder-decoder's holds two."""
    return getattr(cache, "self_attention_cache", cache)


def _with_layers(cache: Any, choose: Callable[[list[Any]], list[Any]]) -> Any:
    """A copy of the cache, and of those that it holds, with other layers."""
    part = copy.copy(cache)
    for name, value in vars(cache).items():
        if _is_cache(value):
            setattr(part, name, _with_layers(value, choose))
        elif name == "layers":
            part.layers = choose(value)
        elif isinstance(value, dict):  # which layers hold the encoder's output
            setattr(part, name, copy.copy(value))
    return part


def _join(cache: Any, parts: list[Any]) -> None:
    """Give a cache, and those that it holds, the layers of all cycles."""
    for name, value in vars(cache).items():
        own = [getattr(part, name) for part in parts]
        if _is_cache(value):
            _join(value, own)
        elif name == "layers":
            cache.layers = [layer for layers in own for layer in layers]
        elif isinstance(value, dict):
            setattr(cache, name, own[-1])
    cache.num_cycles = len(parts)


def _is_cache(value: Any) -> bool:
    return hasattr(value, "get_seq_length") and not isinstance(value, (Tensor, nn.Module))


def _is_foreign(value: Any) -> bool:
    """Whether the value of a cache's keyword is something other than a cache of transformers."""
    return value is not None and not isinstance(value, bool) and not _is_cache(value)

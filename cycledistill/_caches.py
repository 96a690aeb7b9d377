"""Key-value caches of decoders: one for each cycle, carried in one object.

A cache of transformers is a list of layers. That of a call in N cycles has the layers of cycle 1,
then those of cycle 2, and so on, and each cycle is called with a cache that holds its own layers
alone. Cropping a cache, reordering it for beam search and copying it go through all its layers, and
with them through all cycles.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from cycledistill._tree import map_leaves

_NAMES = ("past_key_values", "past_key_value", "kv_cache", "cache", "cache_params", "mems")


class CycleCaches:
    """The caches of one call in several cycles.

    Args:
        model: Name of the model's class, for errors.
        num_cycles: Cycles of the call.
        training: Whether the model trains. What a cache holds then is an input of every cycle,
            such as a learnt prefix; in use it is what the same number of cycles has left there.
        args: What the model is called with; a cache in it becomes that of all cycles.
        kwargs: Likewise.

    Raises:
        ValueError: A cache is of a kind that cannot be split, or was filled in other cycles.
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
        if foreign or len(given) > 1 or not all(hasattr(_own(one), "layers") for one in given):
            kind = type(given[0] if given else kwargs[foreign[0]]).__name__
            raise ValueError(
                f"{model} got a key-value cache ({kind}) that cannot be divided among {num_cycles} "
                "cycles: expected a cache of transformers that is a list of layers, such as "
                "DynamicCache. Call the model without a cache, or with one cycle"
            )
        self.given = given[0] if given else None
        self.parts: list[Any] = []
        if self.given is not None:
            split = _shared if training else _split
            self.parts = split(self.given, num_cycles)

    def inputs(self, cycle: int, args: Any, kwargs: Any) -> Any:
        """Positional and keyword arguments of a cycle, which is counted from 1."""
        if self.given is None:
            return args, kwargs
        own = self.parts[cycle - 1]
        return (
            tuple(own if value is self.given else value for value in args),
            {name: own if value is self.given else value for name, value in kwargs.items()},
        )

    def join(self, predictions: list[Any], made: list[list[Any]]) -> list[Any]:
        """The predictions with the cache of all cycles in the place of each cycle's own.

        Args:
            predictions: Of one or more cycles.
            made: The caches in the prediction of each cycle, see `caches_in`.
        """
        parts = self.parts or [own[0] for own in made if len(own) == 1]
        if len(parts) != len(made) or not parts:
            return predictions
        whole = parts[0] if self.given is None else self.given
        _own(whole).layers = [layer for part in parts for layer in _own(part).layers]
        _own(whole).num_cycles = len(parts)
        return [map_leaves(lambda x: whole if _is_cache(x) else x, own) for own in predictions]


def caches_in(prediction: Any) -> list[Any]:
    """The caches in what a model returned."""
    found: list[Any] = []

    def note(leaf: Any) -> Any:
        if _is_cache(leaf) and hasattr(_own(leaf), "layers"):
            found.append(leaf)
        return leaf

    map_leaves(note, prediction)
    return found


def _shared(cache: Any, num_cycles: int) -> list[Any]:
    """A cache for each cycle, all of which begin with the same."""
    layers, filled = _own(cache).layers, int(cache.get_seq_length()) > 0
    # What is in a layer may have a graph, which no deep copy takes along.
    copied = copy.copy if filled else copy.deepcopy
    return [_with_layers(cache, [copied(layer) for layer in layers]) for _ in range(num_cycles)]


def _split(cache: Any, num_cycles: int) -> list[Any]:
    """A cache for each cycle, with its layers alone."""
    layers, known = _own(cache).layers, getattr(_own(cache), "num_cycles", 1)
    length = int(cache.get_seq_length())
    if length and known != num_cycles:
        raise ValueError(
            f"the key-value cache holds {length} tokens of {known} cycle{'s' * (known > 1)}, and "
            f"this call has {num_cycles}: expected a cache that was filled in as many cycles"
        )
    size = len(layers) // known
    found = [layers[cycle * size : (cycle + 1) * size] for cycle in range(known)]
    found += [copy.deepcopy(layers[:size]) for _ in range(known, num_cycles)]  # empty ones
    parts = [_with_layers(cache, own) for own in found[:num_cycles]]
    lengths = [int(part.get_seq_length()) for part in parts]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the key-value cache holds {lengths} tokens of the cycles 1 to {num_cycles}: it was "
            "used with one cycle in between, which fills that of cycle 1 alone"
        )
    return parts


def _own(cache: Any) -> Any:
    """What the blocks fill: beside it, an encoder-decoder's has what all cycles attend to."""
    return getattr(cache, "self_attention_cache", cache)


def _with_layers(cache: Any, layers: list[Any]) -> Any:
    """The same cache with other layers of its own."""
    part = copy.copy(cache)
    if _own(cache) is not cache:
        part.self_attention_cache = copy.copy(part.self_attention_cache)
    _own(part).layers = layers
    return part


def _is_cache(value: Any) -> bool:
    return hasattr(value, "get_seq_length") and not isinstance(value, (Tensor, nn.Module))


def _is_foreign(value: Any) -> bool:
    """Whether a keyword that names a cache has something else than a cache of transformers."""
    return value is not None and not isinstance(value, bool) and not _is_cache(value)

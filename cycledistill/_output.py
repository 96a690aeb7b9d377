"""The output of a cycled model in training."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

_INSTEAD = (
    "Compute the loss with a CycleDistillLoss; if the wrapped model is part of another one, wrap "
    "the outer model, with blocks= as the path of the stack within it"
)


class CycleOutput(NamedTuple):
    """Predictions and tokens of every cycle, first cycle first.

    Attributes:
        predictions: The plain model's output, computed from each cycle's tokens.
        tokens: Output tokens of the last block in each cycle, `[B, T, D]` each.
    """

    predictions: tuple[Any, ...]
    tokens: tuple[Tensor, ...]

    def __getattr__(self, name: str) -> Any:
        """Raise an error that says where the attributes of a prediction are."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"a CycleOutput has no {name!r}: a CycleWrapper in training returns one prediction for "
            f"each cycle, so expected .predictions[i].{name}. {_INSTEAD}"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Raise an error where a tensor is expected."""
        name = getattr(func, "__name__", str(func))
        raise TypeError(
            f"{name}: expected a tensor, got the CycleOutput of a CycleWrapper. {_INSTEAD}"
        )

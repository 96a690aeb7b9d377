"""Early exit: each sample stops once its own tokens stand still, and leaves the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cycledistill._tokens import relative_changes
from cycledistill._tree import iter_tensors, map_tensors


class EarlyExit:
    """Which samples of a batch are still under way.

    The batch shrinks as samples stop, if it is evident in which dimension of each tensor it is;
    otherwise it stays whole, and all samples go on until the last one has stopped.

    Args:
        tolerance: A sample stops once its tokens change by less than this part of their norm.
        tokens: Tokens of the first cycle, `[B, T, D]` or `[T, B, D]`.
        batch_dim: Batch dimension of the tokens.
        inputs: Everything else that depends on the sample: a tree of tensors.
        first_is_batch: Whether the first tensor of ``inputs`` must have the batch in it.

    Attributes:
        cycles: Cycles that each sample has run, `[B]`.
        rows: Samples under way, as indices into the batch.
    """

    def __init__(
        self, tolerance: float, tokens: Tensor, batch_dim: int, inputs: Any, first_is_batch: bool
    ) -> None:
        self.tolerance = tolerance
        self.batch_dim = batch_dim
        self.size = tokens.shape[batch_dim]
        self.rows = torch.arange(self.size, device=tokens.device)
        self.cycles = torch.ones(self.size, dtype=torch.int64, device=tokens.device)
        self._inputs = inputs
        self._dims = _batch_dims(inputs, self.size, tokens.ndim, batch_dim, first_is_batch)

    @property
    def done(self) -> bool:
        """Whether no sample is under way."""
        return not len(self.rows)

    def settle(self, before: Tensor, after: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Note a cycle of the samples under way, some of which stop.

        Args:
            before: Their tokens before the cycle.
            after: Their tokens behind it.
            others: What else is kept of them.

        Returns:
            ``after`` and ``others`` of those that go on.
        """
        self.cycles[self.rows] += 1
        moving = ~(relative_changes(before, after, self.batch_dim) < self.tolerance)
        if self._dims is None and moving.any():
            moving = torch.ones_like(moving)
        self.rows = self.rows[moving]
        places = moving.nonzero()[:, 0]
        return tuple(tensor.index_select(self.batch_dim, places) for tensor in (after, *others))

    def inputs(self) -> Any:
        """The inputs of the samples under way."""
        if self._dims is None or len(self.rows) == self.size:
            return self._inputs
        dims = iter(self._dims)

        def chosen(tensor: Tensor) -> Tensor:
            dim = next(dims)
            return tensor if dim is None else tensor.index_select(dim, self.rows.to(tensor.device))

        return map_tensors(chosen, self._inputs)

    def put(self, whole: Any, part: Any) -> Any:
        """``whole`` with what the samples under way have made of it.

        Raises:
            ValueError: A tensor does not show which of its rows belong to which sample.
        """
        rows, size = self.rows, self.size

        def put(full: Tensor, own: Tensor) -> Tensor:
            if len(rows) == size or full.shape == own.shape:
                return own
            pairs = [*zip(full.shape, own.shape, strict=False)]
            differ = [dim for dim, (a, b) in enumerate(pairs) if a != b]
            if full.ndim == own.ndim and [pairs[dim] for dim in differ] == [(size, len(rows))]:
                return full.index_copy(differ[0], rows.to(full.device), own)
            raise ValueError(
                f"exit_tolerance: an output {list(full.shape)} of {size} samples became "
                f"{list(own.shape)} with {len(rows)}: expected a dimension that is the batch. Call "
                "the model without exit_tolerance"
            )

        return map_tensors(put, whole, part)


def _batch_dims(
    inputs: Any, size: int, ndim: int, batch_dim: int, first_is_batch: bool
) -> list[int | None] | None:
    """The batch dimension of each tensor, None for one without; None where it is not evident."""
    dims: list[int | None] = []
    for place, tensor in enumerate(iter_tensors(inputs)):
        fits = [dim for dim in (0, 1) if tensor.ndim > dim and tensor.shape[dim] == size]
        if tensor.ndim != ndim or not batch_dim:  # [T, B] is for tokens alone
            first = fits[:1] == [0]
            square = first and tensor.ndim == 2 and len(fits) == 2  # [B, T], or a mask [T, T]
            fits = [0] if first else []
            if square and not (first_is_batch and place == 0):
                return None
        if len(fits) > 1 or (first_is_batch and place == 0 and not fits):
            return None
        dims.append(fits[0] if fits else None)
    return dims

"""Early exit: a sample leaves the batch once its tokens have settled or its prediction is sure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cycledistill._checks import check_fraction
from cycledistill._tokens import relative_changes
from cycledistill._tree import iter_tensors, map_leaves, map_tensors


@dataclass(frozen=True)
class ExitRule:
    """When a sample stops: as soon as one of the limits that are set is reached.

    Attributes:
        tolerance: Its tokens change by less than this part of their norm.
        confidence: The highest probability of its prediction is at least this; infinite: never.

    Raises:
        ValueError: A limit is out of range.
    """

    tolerance: float | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"exit_tolerance: expected 0 or more, got {self.tolerance}")
        if self.confidence is not None and self.confidence != math.inf:
            check_fraction("exit_confidence", self.confidence)

    def goes_on(
        self, before: Tensor | None, after: Tensor, batch_dim: int, prediction: Any
    ) -> Tensor:
        """Which samples go on after a cycle, `[B]` bool.

        Args:
            before: Tokens before the cycle; None for the first one, whose change does not count.
            after: Tokens after it.
            batch_dim: Batch dimension of the tokens.
            prediction: What the model returned.
        """
        active = torch.ones(after.shape[batch_dim], dtype=torch.bool, device=after.device)
        if self.tolerance is not None and before is not None:
            active &= ~(relative_changes(before, after, batch_dim) < self.tolerance)
        if self.confidence is not None:
            sure = confidences(prediction).to(active.device) >= self.confidence
            if sure.shape != active.shape:
                raise ValueError(
                    f"exit_confidence: expected logits of each of the {len(active)} samples that "
                    f"leave the blocks, got {len(sure)}. Use exit_tolerance"
                )
            active &= ~sure
        return active


def confidences(prediction: Any) -> Tensor:
    """The highest probability of each sample's prediction, `[B]`.

    Raises:
        ValueError: There are no logits `[B, classes]`.
    """
    logits = prediction
    if isinstance(prediction, Mapping):
        logits = prediction.get("logits")
    elif not isinstance(prediction, Tensor):
        logits = getattr(prediction, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        found = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else "no such tensor"
        raise ValueError(
            "exit_confidence: expected the model to return logits [B, classes] of two or more "
            "classes, as a tensor or by the name 'logits', got "
            f"{type(prediction).__name__} with {found}"
        )
    return logits.detach().float().softmax(-1).amax(-1)


class EarlyExit:
    """Which samples of a batch are still active.

    The batch shrinks as samples stop, provided that the batch dimension of each tensor is
    unambiguous and the model draws no random numbers for its samples; otherwise all samples go on
    until the last one has stopped.

    Args:
        rule: When a sample stops.
        tokens: Tokens of the first cycle, `[B, T, D]` or `[T, B, D]`.
        batch_dim: Batch dimension of the tokens.
        inputs: Everything else that depends on the sample: a tree of tensors.
        first_is_batch: Whether the first tensor of ``inputs`` must have a batch dimension.
        draws: Whether random numbers are drawn for the samples before the first block.

    Attributes:
        cycles: Number of cycles that each sample has run, `[B]`.
        active: Indices of the active samples in the batch.
    """

    def __init__(
        self,
        rule: ExitRule,
        tokens: Tensor,
        batch_dim: int,
        inputs: Any,
        first_is_batch: bool,
        draws: bool,
    ) -> None:
        self.rule = rule
        self.batch_dim = batch_dim
        self.size = tokens.shape[batch_dim]
        self.active = torch.arange(self.size, device=tokens.device)
        self.cycles = torch.ones(self.size, dtype=torch.int64, device=tokens.device)
        self._inputs = inputs
        dims = _batch_dims(inputs, tokens, batch_dim, first_is_batch)
        self._dims = None if draws else dims

    @property
    def done(self) -> bool:
        """Whether no sample is active."""
        return not len(self.active)

    def update(
        self, before: Tensor | None, after: Tensor, prediction: Any, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Count a cycle of the active samples, and stop those that the rule stops.

        Args:
            before: Their tokens before the cycle; None for the first one, which is counted already.
            after: Their tokens after it.
            prediction: What the model returned for them.
            first: Their input tokens in the first cycle.

        Returns:
            ``after`` and ``first`` of the samples that remain active.
        """
        if before is not None:
            self.cycles[self.active] += 1
        moving = self.rule.goes_on(before, after, self.batch_dim, prediction)
        if moving.all() or (self._dims is None and moving.any()):
            return after, first
        self.active = self.active[moving]
        places = moving.nonzero()[:, 0]
        left = after.index_select(self.batch_dim, places)
        return left, first.index_select(self.batch_dim, places)

    def inputs(self) -> Any:
        """The inputs of the active samples."""
        if self._dims is None or len(self.active) == self.size:
            return self._inputs
        dims = iter(self._dims)

        def chosen(tensor: Tensor) -> Tensor:
            dim = next(dims)
            active = self.active.to(tensor.device)
            return tensor if dim is None else tensor.index_select(dim, active)

        return map_tensors(chosen, self._inputs)

    def merge(self, batch: Any, part: Any) -> Any:
        """Outputs of the whole batch after a later cycle: those of active samples are replaced.

        Args:
            batch: Outputs of the whole batch in the previous cycle: a tree of tensors.
            part: Outputs of the active samples in this cycle.

        Raises:
            ValueError: The batch dimension of a tensor cannot be found, or something that is not a
                tensor changed.
        """
        active, size = self.active, self.size
        if len(active) == size:
            return part

        def put(full: Any, own: Any) -> Any:
            if not isinstance(full, Tensor):
                if full is own or (not hasattr(full, "shape") and full == own):
                    return own
                raise ValueError(message(full, own))
            pairs = [*zip(full.shape, own.shape, strict=False)]
            differ = [dim for dim, (a, b) in enumerate(pairs) if a != b]
            if full.ndim == own.ndim and [pairs[dim] for dim in differ] == [(size, len(active))]:
                return full.index_copy(differ[0], active.to(full.device), own)
            if full.shape == own.shape and torch.equal(full, own):
                return own
            raise ValueError(message([*full.shape], [*own.shape]))

        def message(full: Any, own: Any) -> str:
            return (
                f"early exit: an output {full} of {size} samples became {own} with {len(active)}: "
                "expected a dimension that is the batch, not something of the whole batch such as "
                "a loss. Call the model without labels (calibrate_exit: leave them out of batches "
                "with inputs=), or without early exit"
            )

        try:
            return map_leaves(put, batch, part)
        except IndexError as error:
            raise ValueError(message("list", "a shorter one")) from error


def _batch_dims(
    inputs: Any, tokens: Tensor, batch_dim: int, first_is_batch: bool
) -> list[int | None] | None:
    """The batch dimension of each tensor, None for one without; None where one is ambiguous."""
    if tokens.ndim < 3:  # a batch of samples of one token each, or the tokens of one sample
        return None
    size, dims = tokens.shape[batch_dim], list[int | None]()
    # As many tokens as samples: what has this size may belong to either.
    as_many = tokens.ndim > 1 and tokens.shape[1 - batch_dim] == size
    for args, kwargs in [inputs] if first_is_batch else inputs:
        if any(_lists_samples(value, size) for value in (*args, *kwargs.values())):
            return None
    for place, tensor in enumerate(iter_tensors(inputs)):
        first = first_is_batch and place == 0
        fits = [dim for dim in (0, 1) if tensor.ndim > dim and tensor.shape[dim] == size]
        if tensor.ndim != tokens.ndim or not batch_dim:  # only tokens can be [T, B, D]
            fits = [0] if fits[:1] == [0] else []
        unclear = as_many or [*tensor.shape[:2]] == [size, size]
        if len(fits) > 1 or (not fits if first else fits and unclear):
            return None
        dims.append(fits[0] if fits else None)
    return dims


def _lists_samples(value: Any, size: int) -> bool:
    """Whether an input has an item for each sample without being a tensor: a list, an array."""
    if isinstance(value, Tensor):
        return False
    if isinstance(value, Mapping):
        return any(_lists_samples(one, size) for one in value.values())
    if isinstance(value, (tuple, list)):
        return len(value) == size or any(_lists_samples(one, size) for one in value)
    return [*getattr(value, "shape", ())][:1] == [size]

"""Whether what follows the stack keeps the cycles apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cycledistill._find import BlockStack
from cycledistill._pass import ForwardPass
from cycledistill._tree import iter_tensors


def refuse_mixed_cycles(
    model: nn.Module,
    stack: BlockStack,
    forward: ForwardPass,
    last: Any,
    tokens: Tensor,
    batch_dim: int,
) -> None:
    """The last cycle's prediction must be made of the last cycle's tokens alone."""
    if _depends_on_earlier_cycles(last, tokens, forward.batch_size, batch_dim):
        raise ValueError(
            f"{type(model).__name__} mixes samples behind {stack.path!r}: the prediction of cycle "
            f"{forward.cycles_run} depends on the tokens of other cycles. What follows the stack "
            "must treat every sample of the batch by itself; with head_per_cycle=True it need not"
        )


def _depends_on_earlier_cycles(
    prediction: Any, tokens: Tensor, batch_size: int, batch_dim: int
) -> bool:
    """Whether the last cycle's prediction was made from other cycles' tokens too.

    Told from one backward pass through the tail, so it needs a graph; without one, and in a
    distributed run, the answer is no. Parameters get no gradient from it.

    Args:
        prediction: What the model returned for the last cycle.
        tokens: All cycles' tokens, folded, as they left the stack.
        batch_size: Samples in one cycle, along ``batch_dim``.
        batch_dim: Batch dimension of the tokens.
    """
    if dist.is_available() and dist.is_initialized():
        return False  # sharded parameters would take this for the step's backward pass
    outputs = [tensor for tensor in iter_tensors(prediction) if tensor.requires_grad]
    if not outputs or not tokens.requires_grad:
        return False
    # Weights that no symmetry cancels (a softmax sums to one), and no draw from a generator.
    weights = [
        torch.arange(output.numel(), device=output.device).cos().view(output.shape).to(output.dtype)
        for output in outputs
    ]
    try:
        (gradient,) = torch.autograd.grad(
            outputs, tokens, weights, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        if "checkpoint" in str(error):  # reentrant checkpoints cannot be asked so
            return False
        raise
    if gradient is None:
        return False
    earlier = gradient.narrow(batch_dim, 0, gradient.shape[batch_dim] - batch_size)
    return bool(((earlier != 0) & earlier.isfinite()).any())

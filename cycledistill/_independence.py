"""Whether what follows the stack keeps the cycles apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cycledistill._tree import iter_tensors


def depends_on_earlier_cycles(
    prediction: Any, tokens: Tensor, batch_size: int, batch_dim: int
) -> bool:
    """Whether the last cycle's prediction was made from other cycles' tokens too.

    Told from one backward pass through the tail, so it needs a graph; without one the answer is
    no. Parameters get no gradient from it.

    Args:
        prediction: What the model returned for the last cycle.
        tokens: All cycles' tokens, folded, as they left the stack.
        batch_size: Samples in one cycle, along ``batch_dim``.
        batch_dim: Batch dimension of the tokens.
    """
    outputs = [tensor for tensor in iter_tensors(prediction) if tensor.requires_grad]
    if not outputs or not tokens.requires_grad:
        return False
    # Weights that no symmetry cancels (a softmax sums to one), and no draw from a generator.
    weights = [
        torch.arange(output.numel(), device=output.device).cos().view(output.shape).to(output.dtype)
        for output in outputs
    ]
    (gradient,) = torch.autograd.grad(
        outputs, tokens, weights, retain_graph=True, allow_unused=True
    )
    if gradient is None:
        return False
    earlier = gradient.narrow(batch_dim, 0, gradient.shape[batch_dim] - batch_size)
    return bool(((earlier != 0) & earlier.isfinite()).any())

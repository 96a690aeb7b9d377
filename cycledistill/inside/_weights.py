"""How the weights of a block are distributed (figure 2 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from cycledistill._find import find_stack
from cycledistill._wrapper import CycleWrapper
from cycledistill.inside._changes import COLOURS


def plot_weight_distributions(
    models: Mapping[str, nn.Module],
    layer: int,
    *,
    near_zero: float = 0.01,
    blocks: str | Sequence[nn.Module] | None = None,
) -> Figure:
    """Draw the histogram of one block's weights for each model, one over the other.

    ```python
    figure = plot_weight_distributions({"plain": plain, "cycled": cycled}, layer=12)
    ```

    The weights are the entries of the block's matrices; biases and norms, which start at exactly
    zero and one, are left out. The legend has each model's standard deviation and the share of
    its weights nearer to zero than `near_zero`. The outermost 0.1 % on each side are not shown.

    Args:
        models: Label -> plain model or `CycleWrapper`.
        layer: The block's place in its stack, from 1.
        near_zero: Half the width of the shaded band.
        blocks: Where the stack is, as for `CycleWrapper`. None: found.

    Raises:
        ValueError: No models, no such block, or `near_zero` is not above 0.
    """
    if not models:
        raise ValueError("models: found none, expected a label and a model at least")
    if not near_zero > 0:
        raise ValueError(f"near_zero: found {near_zero}, expected a number above 0")
    weights = {label: _matrices_of(label, model, layer, blocks) for label, model in models.items()}
    reach = max(2 * near_zero, *(_reach_of(found) for found in weights.values()))
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-near_zero, near_zero, color="0.9", label=f"nearer to 0 than {near_zero:g}")
    for index, (label, found) in enumerate(weights.items()):
        share = 100 * float((found.abs() < near_zero).double().mean())
        axes.hist(
            found.numpy(),
            bins=101,
            range=(-reach, reach),
            density=True,
            histtype="step",
            linewidth=1.6,
            linestyle=("-", "--", "-.", ":")[index % 4],
            color=COLOURS[index % len(COLOURS)],
            label=f"{label}: {share:.1f} % near 0, std {float(found.std()):.3f}",
        )
    axes.set_xlim(-reach, reach)
    axes.set_xlabel("weight")
    axes.set_ylabel("density")
    axes.set_title(f"Weights of layer {layer}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    return figure


def _matrices_of(
    label: str, model: nn.Module, layer: int, blocks: str | Sequence[nn.Module] | None
) -> Tensor:
    """All entries of a block's matrices `[n]`, float32."""
    plain = model.plain if isinstance(model, CycleWrapper) else model
    stack = find_stack(plain, blocks)
    if not 1 <= layer <= len(stack.blocks):
        raise ValueError(
            f"layer: found {layer}, expected 1 to {len(stack.blocks)} (the blocks of {label!r})"
        )
    matrices = [
        parameter.detach().flatten().float().cpu()
        for parameter in stack.blocks[layer - 1].parameters()
        if parameter.ndim > 1
    ]
    if not matrices:
        raise ValueError(f"layer: block {layer} of {label!r} has no matrices, expected some")
    return torch.cat(matrices)


def _reach_of(weights: Tensor) -> float:
    """Below which 99.8 % of the absolute values lie; `torch.quantile` refuses large tensors."""
    place = max(1, int(0.998 * len(weights)))
    return float(weights.abs().kthvalue(place).values)

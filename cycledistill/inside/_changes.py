"""How much the tokens move from cycle to cycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cycledistill._wrapper import CycleWrapper

# Told apart with any colour vision (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def token_changes(
    cycled: CycleWrapper,
    *args: Any,
    num_cycles: int,
    groups: Mapping[str, slice] | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """Call `cycled(*args, **kwargs)` and return how far each cycle moves each token.

    ```python
    changes = token_changes(cycled, images, num_cycles=4)
    plot_token_changes(changes).savefig("changes.png")
    ```

    The change of a token x in cycle n is `|x_n - x_(n-1)| / |x_(n-1)|`, where x_n is the output of
    the last block in cycle n and |.| the norm over the channels. N cycles give N - 1 changes.

    Args:
        cycled: The wrapped model, in eval mode.
        args: Passed to the model.
        num_cycles: Cycles N, 2 or more.
        groups: Name -> slice of the sequence. None: the model's own `token_groups` (pose models
            have them), else all tokens as one group.
        kwargs: Passed to the model.

    Returns:
        Name -> `[N - 1, B, tokens of the group]`, from cycle 2 on.

    Raises:
        TypeError: `cycled` is no `CycleWrapper`.
        ValueError: Training mode, fewer than 2 cycles, tokens that are not `[B, T, D]`, or an
            empty group.
    """
    tokens, _ = run_cycles(cycled, args, kwargs, num_cycles)
    change = changes_by_cycle(tokens)
    if groups is None:
        groups = getattr(cycled.plain, "token_groups", None) or {"all tokens": slice(None)}
    found = {name: change[:, :, place] for name, place in groups.items()}
    for name, part in found.items():
        if not part.numel():
            raise ValueError(
                f"groups: {name!r} is {groups[name]}, which is empty; the sequence has "
                f"{change.shape[-1]} tokens"
            )
    return found


def run_cycles(
    cycled: CycleWrapper,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_cycles: int,
    settle: int = 0,
) -> tuple[Tensor, tuple[Any, ...]]:
    """The tokens of all `num_cycles + settle` cycles `[N, B, T, D]`, float32, and predictions.

    Raises:
        TypeError: `cycled` is no `CycleWrapper`.
        ValueError: Training mode, fewer than 2 cycles, or tokens that are not `[B, T, D]`.
    """
    if not isinstance(cycled, CycleWrapper):
        raise TypeError(f"cycled: found {type(cycled).__name__}, expected a CycleWrapper")
    if cycled.training:
        raise ValueError("cycled: found training mode, expected eval mode; call cycled.eval()")
    if num_cycles < 2:
        raise ValueError(f"num_cycles: found {num_cycles}, expected 2 or more")
    with torch.no_grad():
        predictions, cycles = cycled.forward_cycles(*args, num_cycles=num_cycles + settle, **kwargs)
    tokens = torch.stack([found.float() for found in cycles])
    if tokens.ndim != 4:
        raise ValueError(f"tokens: found shape {list(cycles[0].shape)}, expected [B, T, D]")
    return tokens.transpose(1, 2) if cycled._setup.batch_dim == 1 else tokens, predictions


def changes_by_cycle(tokens: Tensor) -> Tensor:
    """How far each cycle after the first moves each of the tokens `[N, B, T, D]`: `[N - 1, B, T]`.

    Relative to the norm of the token before.
    """
    moved = torch.linalg.vector_norm(tokens[1:] - tokens[:-1], dim=-1)
    size = torch.linalg.vector_norm(tokens[:-1], dim=-1)
    return moved / size.clamp_min(torch.finfo(torch.float32).tiny)


def plot_token_changes(changes: Mapping[str, Tensor]) -> Figure:
    """Draw what `token_changes` returned: the mean of each group by cycle.

    The bar at each point holds the middle half of the tokens.

    Args:
        changes: Name -> `[N - 1, B, tokens]`.

    Raises:
        ValueError: There is no group.
    """
    if not changes:
        raise ValueError("changes: found none, expected what token_changes returned")
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    draw_changes(
        figure.subplots(), changes, "How far each cycle moves the tokens: mean, middle half", 11
    )
    return figure


def draw_changes(axes: Axes, changes: Mapping[str, Tensor], title: str, size: int) -> None:
    """Draw the change of each group by cycle, in percent, into a figure's axes."""
    for index, (name, values) in enumerate(changes.items()):
        flat = 100 * values.flatten(1).float().cpu()
        mean, low, high = flat.mean(1), flat.quantile(0.25, dim=1), flat.quantile(0.75, dim=1)
        beside = 0.1 * (index - (len(changes) - 1) / 2)
        axes.errorbar(
            (torch.arange(len(flat)) + 2 + beside).numpy(),
            mean.numpy(),
            # The mean of a skewed group may lie outside of its middle half.
            torch.stack([mean - low, high - mean]).clamp(min=0).numpy(),
            fmt="osD^vP"[index % 6] + "-",
            color=COLOURS[index % len(COLOURS)],
            capsize=4,
            label=name,
        )
    axes.set_xlim(1.5, 1.5 + max(map(len, changes.values())))
    finish_by_cycle(axes, title, "change of a token (%)", size)
    axes.legend(frameon=False, fontsize=9)


def finish_by_cycle(axes: Axes, title: str, label: str, size: int) -> None:
    """Title, labels and grid of a plot over the cycles, from zero."""
    axes.set_title(title, fontsize=size)
    axes.set(ylim=(0, None), xlabel="cycle", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)

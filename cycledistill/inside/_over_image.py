"""Attention from one token to the visual tokens, over the image (figure 4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from cycledistill.inside._attention import AttentionMap


def plot_attention_over_image(
    maps: Sequence[AttentionMap],
    image: Any,
    token: int,
    grid: tuple[int, int],
    *,
    name: str | None = None,
    sample: int = 0,
    positions: Sequence[Tensor] | None = None,
) -> Figure:
    """Draw where on the image a token attends: a row for each cycle, a column for each layer.

    ```python
    maps = record_attention(cycled, images, num_cycles=2)
    figure = plot_attention_over_image(maps, picture, token=0, grid=(14, 14), name="class")
    ```

    The visual tokens are the last `rows * columns` of the sequence, row by row. Weights are the
    mean over heads; all panels share one colour scale, from zero to the largest weight shown.
    Below each panel stands how much of the token's attention goes to the image at all. Where a
    model drops visual tokens on the way, `positions` says which are left; the cells of the others
    are black.

    Args:
        maps: What `record_attention` returned.
        image: RGB `[H, W, 3]`, bytes or floats from 0 to 1; array or tensor.
        token: Place of the attending token in the sequence, from 0.
        grid: `(rows, columns)` of the visual tokens before any was dropped.
        name: What to call the token in the title.
        sample: Which image of the batch, from 0.
        positions: For each map `[B, T]`, the places that its T tokens had in the whole sequence.
            None: nothing was dropped.

    Raises:
        ValueError: The number of tokens does not fit the grid, or there is no such token, image
            or shape.
    """
    if not maps:
        raise ValueError("maps: found none, expected what record_attention returned")
    picture = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"image: found shape {list(picture.shape)}, expected [H, W, 3] (RGB)")
    batch = maps[0].weights.shape[0]
    if not 0 <= sample < batch:
        raise ValueError(f"sample: found {sample}, expected 0 to {batch - 1}")
    if positions is not None and len(positions) != len(maps):
        raise ValueError(f"positions: found {len(positions)}, expected {len(maps)} (one a map)")
    first = maps[0].weights.shape[-1] - grid[0] * grid[1]
    if first < 0:
        raise ValueError(
            f"grid: found {grid[0]} x {grid[1]} = {grid[0] * grid[1]} cells, expected at most the "
            f"{maps[0].weights.shape[-1]} tokens of the sequence"
        )
    panels = {}
    for index, found in enumerate(maps):
        places = None if positions is None else positions[index][sample].cpu().numpy()
        weights = found.weights[sample].mean(0).float().cpu().numpy()
        panels[found.cycle, found.layer] = _on_grid(weights, places, token, first, grid)
    cycles = max(cycle for cycle, _ in panels)
    layers = max(layer for _, layer in panels)
    height, width = picture.shape[:2]
    side = 1.7 if layers > 4 else 2.4
    figure = Figure(
        figsize=(side * layers + 1.6, (side * height / width + 0.45) * cycles + 0.5),
        layout="constrained",
    )
    top = max(float(np.nanmax(panel)) for panel in panels.values())
    heat = ScalarMappable(Normalize(0.0, top), "inferno")
    axes_grid = figure.subplots(cycles, layers, squeeze=False)
    for (cycle, layer), panel in panels.items():
        axes = axes_grid[cycle - 1][layer - 1]
        axes.imshow(_grey(picture), cmap="gray", vmin=0.0, vmax=1.0, extent=(0, width, height, 0))
        colours = heat.to_rgba(panel)
        # Strong attention hides the image, none leaves it bare; dropped cells are black.
        colours[..., 3] = 0.15 + 0.7 * np.nan_to_num(panel / top) ** 0.5
        colours[np.isnan(panel)] = (0.0, 0.0, 0.0, 0.85)
        axes.imshow(colours, extent=(0, width, height, 0), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{100 * float(np.nansum(panel)):.0f} % on the image", fontsize=8)
        if cycle == 1:
            axes.set_title(f"layer {layer}", fontsize=9)
        if layer == 1:
            axes.set_ylabel(f"cycle {cycle}", fontsize=9)
    figure.suptitle(f"Attention of the token {token if name is None else name}", fontsize=11)
    figure.colorbar(heat, ax=axes_grid.ravel().tolist(), label="attention (mean over heads)")
    return figure


def _on_grid(
    weights: Any, places: Any, token: int, first: int, grid: tuple[int, int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The row of a `[T, T]` map that belongs to a token, on the grid; NaN where none is left."""
    cells = grid[0] * grid[1]
    if places is None:
        if len(weights) != first + cells:
            raise ValueError(
                f"maps: found one of {len(weights)} tokens, expected {first + cells} as in the "
                "first; where tokens are dropped on the way, positions= must say which are left"
            )
        places = np.arange(len(weights))
    if len(places) != len(weights) or places.min() < 0 or places.max() >= first + cells:
        raise ValueError(
            f"positions: found {len(places)} from {places.min()} to {places.max()}, expected "
            f"{len(weights)} from 0 to {first + cells - 1}"
        )
    row = np.flatnonzero(places == token)
    if len(row) != 1:
        raise ValueError(f"token: found {token}, expected a token that stays in every layer")
    panel = np.full(first + cells, np.nan)
    panel[places] = weights[row[0]]
    return panel[first:].reshape(grid)


def _grey(picture: Any) -> Any:
    scale = 255.0 if picture.dtype == np.uint8 else 1.0
    return picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / scale

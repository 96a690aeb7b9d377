"""Attention as pictures: a row a cycle, a column a layer (figures 4 and 5 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from cycledistill.inside._attention import AttentionMap


def plot_attention_matrices(
    maps: Sequence[AttentionMap], names: Sequence[str], image: int = 0
) -> Figure:
    """Draw how the first tokens attend to each other: a row for each cycle, a column a layer.

    ```python
    figure = plot_attention_matrices(maps, names=["nose", "left_eye", "right_eye"])
    figure.savefig("attention.png")
    ```

    Weights are the mean over heads. All panels share one colour scale, from zero to the largest
    weight shown. Rows are queries, columns are keys; a row need not sum to one, as attention to
    the tokens that are not shown is left out.

    Args:
        maps: What `record_attention` returned.
        names: The names of the first tokens of the sequence, which are shown.
        image: Which image of the batch, from 0.

    Raises:
        ValueError: No maps, no names or more names than tokens, or no such image.
    """
    means = _means(maps, "image", image)
    size, tokens = len(names), min(mean.shape[-1] for mean in means)
    if not 1 <= size <= tokens:
        raise ValueError(f"names: found {size}, expected 1 to {tokens} (the fewest tokens)")
    panels = {found[:2]: mean[:size, :size] for found, mean in zip(maps, means, strict=True)}
    cycles = max(cycle for cycle, _ in panels)
    side = max(1.6, 0.14 * size)

    def draw(axes: Axes, cycle: int, layer: int, colours: Any) -> None:
        axes.imshow(panels[cycle, layer], cmap=colours.cmap, norm=colours.norm)
        axes.set_xticks(range(size), names if cycle == cycles else [""] * size, rotation=90)
        axes.set_yticks(range(size), names if layer == 1 else [""] * size)
        axes.tick_params(labelsize=6, length=0)

    return _draw_panels(panels, (side, side), (2.0, 1.2), "cividis", draw)


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
    mean over heads; all panels share one colour scale, from zero to the largest weight shown. The
    label below each panel says how much of the token's attention goes to the image at all. Where a
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
    means = _means(maps, "sample", sample)
    picture = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"image: found shape {list(picture.shape)}, expected [H, W, 3] (RGB)")
    tokens = means[0].shape[-1]
    if positions is None:
        positions = [torch.arange(tokens).expand(sample + 1, -1)] * len(maps)
    if len(positions) != len(maps):
        raise ValueError(f"positions: found {len(positions)}, expected {len(maps)} (one a map)")
    first = tokens - grid[0] * grid[1]
    if first < 0:
        raise ValueError(
            f"grid: found {grid[0]} x {grid[1]} = {grid[0] * grid[1]} cells, expected at most the "
            f"{tokens} tokens of the sequence"
        )
    panels = {
        found[:2]: _on_grid(mean, places[sample].cpu().numpy(), token, first, grid)
        for found, mean, places in zip(maps, means, positions, strict=True)
    }
    height, width = picture.shape[:2]
    grey = picture @ np.array([0.299, 0.587, 0.114]) / (255 if picture.dtype == np.uint8 else 1)

    def draw(axes: Axes, cycle: int, layer: int, heat: Any) -> None:
        panel = panels[cycle, layer]
        axes.imshow(grey, cmap="gray", vmin=0.0, vmax=1.0, extent=(0, width, height, 0))
        colours = heat.to_rgba(panel)
        # Strong attention hides the image, none leaves it bare; dropped cells are black.
        colours[..., 3] = 0.15 + 0.7 * np.nan_to_num(panel / heat.norm.vmax) ** 0.5
        colours[np.isnan(panel)] = (0.0, 0.0, 0.0, 0.85)
        axes.imshow(colours, extent=(0, width, height, 0), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{100 * float(np.nansum(panel)):.0f} % on the image", fontsize=8)

    side = 1.7 if max(layer for _, layer in panels) > 4 else 2.4
    size = (side, side * height / width + 0.45)
    figure = _draw_panels(panels, size, (1.6, 0.5), "inferno", draw)
    figure.suptitle(f"Attention of the token {token if name is None else name}", fontsize=11)
    return figure


def _means(maps: Sequence[AttentionMap], argument: str, sample: int) -> list[np.ndarray]:
    """The mean over heads `[T, T]` of each map, for one sample of the batch."""
    if not maps:
        raise ValueError("maps: found none, expected what record_attention returned")
    places = [found[:2] for found in maps]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise ValueError(
            "maps: found {} of cycle {} and layer {}, expected one: choose those of self- or of "
            "cross-attention, such as maps[::2]".format(places.count(twice[0]), *twice[0])
        )
    batch = maps[0].weights.shape[0]
    if not 0 <= sample < batch:
        raise ValueError(f"{argument}: found {sample}, expected 0 to {batch - 1}")
    return [found.weights[sample].mean(0).float().cpu().numpy() for found in maps]


def _draw_panels(
    panels: Mapping[tuple[int, int], np.ndarray],
    size: tuple[float, float],
    margin: tuple[float, float],
    colours: str,
    draw: Callable[[Axes, int, int, Any], None],
) -> Figure:
    """A figure in which ``draw`` fills a panel for each cycle and layer, on one colour scale.

    Args:
        panels: What is drawn, by cycle and layer from 1.
        size: Width and height of a panel in inches.
        margin: What the figure is larger than its panels.
        colours: Name of the colour map, from 0 to the largest value.
        draw: Called with the axes, the cycle, the layer and the colours.
    """
    cycles, layers = np.max(list(panels), axis=0)
    figsize = (size[0] * layers + margin[0], size[1] * cycles + margin[1])
    figure = Figure(figsize=figsize, layout="constrained")
    grid = figure.subplots(cycles, layers, squeeze=False)
    top = max(float(np.nanmax(panel)) for panel in panels.values())
    scale = ScalarMappable(Normalize(0.0, top), colours)
    for cycle, layer in panels:
        axes = grid[cycle - 1][layer - 1]
        draw(axes, cycle, layer, scale)
        if cycle == 1:
            axes.set_title(f"layer {layer}", fontsize=9)
        if layer == 1:
            axes.set_ylabel(f"cycle {cycle}", fontsize=9)
    figure.colorbar(scale, ax=grid.ravel().tolist(), label="attention (mean over heads)")
    return figure


def _on_grid(
    weights: np.ndarray, places: np.ndarray, token: int, first: int, grid: tuple[int, int]
) -> np.ndarray:
    """The row of a `[T, T]` map that belongs to a token, on the grid; NaN where none is left."""
    cells = grid[0] * grid[1]
    if len(places) != len(weights) or places.min() < 0 or places.max() >= first + cells:
        raise ValueError(
            f"positions: found {len(places)} from {places.min()} to {places.max()}, expected "
            f"{len(weights)} from 0 to {first + cells - 1}; where tokens are dropped on the way, "
            "positions= must say which are left"
        )
    row = np.flatnonzero(places == token)
    if len(row) != 1:
        raise ValueError(f"token: found {token}, expected a token that stays in every layer")
    panel = np.full(first + cells, np.nan)
    panel[places] = weights[row[0]]
    return panel[first:].reshape(grid)

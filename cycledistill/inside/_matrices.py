"""Token-to-token attention as matrices (figure 5 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

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
    if not maps:
        raise ValueError("maps: found none, expected what record_attention returned")
    tokens = min(found.weights.shape[-1] for found in maps)
    if not 1 <= len(names) <= tokens:
        raise ValueError(f"names: found {len(names)}, expected 1 to {tokens} (the fewest tokens)")
    batch = maps[0].weights.shape[0]
    if not 0 <= image < batch:
        raise ValueError(f"image: found {image}, expected 0 to {batch - 1}")
    size = len(names)
    panels = {
        (found.cycle, found.layer): found.weights[image].mean(0)[:size, :size].float().cpu().numpy()
        for found in maps
    }
    cycles = max(cycle for cycle, _ in panels)
    layers = max(layer for _, layer in panels)
    side = max(1.6, 0.14 * size)
    figure = Figure(figsize=(side * layers + 2.0, side * cycles + 1.2), layout="constrained")
    grid = figure.subplots(cycles, layers, squeeze=False)
    top = max(float(panel.max()) for panel in panels.values())
    colours = ScalarMappable(Normalize(0.0, top), "cividis")
    for (cycle, layer), panel in panels.items():
        axes = grid[cycle - 1][layer - 1]
        axes.imshow(panel, cmap=colours.cmap, norm=colours.norm)
        axes.set_xticks(range(size), names if cycle == cycles else [""] * size, rotation=90)
        axes.set_yticks(range(size), names if layer == 1 else [""] * size)
        axes.tick_params(labelsize=6, length=0)
        if cycle == 1:
            axes.set_title(f"layer {layer}", fontsize=9)
        if layer == 1:
            axes.set_ylabel(f"cycle {cycle}", fontsize=9)
    figure.colorbar(colours, ax=grid.ravel().tolist(), label="attention (mean over heads)")
    return figure

"""Pictures of how cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from cycledistill.inside._colours import COLOURS

if TYPE_CHECKING:
    from benchmarks.growth import Series

LABELS = {
    "cycles": "cycles",
    "tokens": "tokens",
    "batch": "images in a batch",
    "workers": "processes that load (0: the training process)",
    "processes": "processes that train",
}
DASHES = ("--", ":")


def draw(series: Series, path: Path) -> None:
    """What was measured, with quartiles, above or below what the machine could do at best."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained", facecolor="white")
    axes = figure.subplots()
    rate = series.unit.endswith("/s")
    log = series.name in ("tokens", "batch")
    scale = 1.0 if rate else 1000.0
    middle, low, high = ([scale * v for v in s] for s in (series.values, series.low, series.high))
    axes.fill_between(series.x, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(series.x, middle, "o-", color=COLOURS[0], label="measured (median, quartiles)")
    for (name, values), dashes, colour in zip(
        series.limits.items(), DASHES, (COLOURS[1], COLOURS[2]), strict=False
    ):
        shown = [scale * value for value in values]
        axes.plot(series.x, shown, dashes, color=colour, label=f"at best: {name}")
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(series.x, [str(x) for x in series.x])
    axes.set_xlabel(LABELS[series.name])
    axes.set_ylabel(series.unit if rate else "ms")
    axes.set_title(series.what, fontsize=10)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, dpi=130, format="png")
    temporary.replace(path)

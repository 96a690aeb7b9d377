"""The learning curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cycledistill._colours import COLOURS
from cycledistill._files import replacing
from cycledistill.training._log import read_log

# The distinction that colours make, once more.
DASHES = ("-", "--", ":", "-.")
NOT_LOSSES = {
    "event",
    "step",
    "epoch",
    "lr",
    "grad_norm",
    "samples_per_second",
    "seconds_left",
    "memory_mib",
    "left_out",
    "skipped",
}


def draw_curves(log: str | Path, picture: str | Path) -> None:
    """Draw losses by term and cycle, and the evaluations, of a ``log.jsonl``, if it has any.

    Args:
        log: The log.
        picture: PNG file to write.
    """
    figure = curves_figure(read_log(log))
    if figure is not None:
        with replacing(Path(picture), "wb") as file:
            figure.savefig(file, format="png", dpi=120)


def curves_figure(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A panel for the losses, one for the distillation terms, and one for each metric."""
    panels = _panels(records)
    if not panels:
        return None
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    for place, (title, names, source, logarithmic) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for number, name in enumerate(names):
            points = [(r["step"], r[name]) for r in source if r.get(name) is not None]
            marker = "o" if len(points) < 30 else ""
            xs, ys = zip(*points, strict=True) if points else ((), ())
            axes.plot(
                xs,
                ys,
                DASHES[number % len(DASHES)],
                color=COLOURS[number % len(COLOURS)],
                label=name,
                marker=marker,
                markersize=3,
            )
        if logarithmic and all((r.get(n) or 1) > 0 for r in source for n in names):
            axes.set_yscale("log")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if names != [title]:
            axes.legend(fontsize="small")
    return figure


def _panels(
    records: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[str], Sequence[Mapping[str, Any]], bool]]:
    """Title, names of the curves, records that have them, and whether the scale is logarithmic."""
    trained = [record for record in records if record["event"] == "train"]
    evaluated = [record for record in records if record["event"] == "evaluate"]
    names = _names(trained)
    distilled = [name for name in names if name.startswith(("tokens/", "predictions/"))]
    losses = [name for name in names if name not in distilled]
    metrics: dict[str, list[str]] = {}
    for name in _names(evaluated):
        metrics.setdefault(name.split("/")[0], []).append(name)
    panels: list[tuple[str, list[str], Sequence[Mapping[str, Any]], bool]] = [
        ("training loss", losses, trained, False),
        ("distillation terms", distilled, trained, True),
        *((title, members, evaluated, False) for title, members in metrics.items()),
    ]
    return [panel for panel in panels if panel[1]]


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for r in records for name in r if name not in NOT_LOSSES))

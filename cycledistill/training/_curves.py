"""The learning curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cycledistill.saving._files import replacing
from cycledistill.training._log import read_log

_NOT_DRAWN = {
    *("event", "step", "epoch", "lr", "grad_norm", "samples_per_second", "seconds_left"),
    *("memory_mib", "left_out", "skipped"),
}
_PANELS = {
    "tokens": "distillation terms",
    "predictions": "distillation terms",
    "scale": "root mean square of tokens",
}


def draw_curves(log: str | Path, picture: str | Path) -> None:
    """Draw the losses by term and cycle and the evaluations of a ``log.jsonl``, if it has any.

    Args:
        log: The log.
        picture: PNG file to write.
    """
    figure = curves_figure(read_log(log))
    if figure is not None:
        with replacing(Path(picture), "wb") as file:
            figure.savefig(file, format="png", dpi=120)


def curves_figure(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Panels for the losses, the distillation terms, the tokens' size, and each metric."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for kind in ("train", "evaluate"):
        for record in (record for record in records if record["event"] == kind):
            for name in (name for name in record if name not in _NOT_DRAWN):
                panel = name.split("/")[0]
                if kind == "train":
                    panel = _PANELS.get(panel, "training loss")
                points = panels.setdefault(panel, {}).setdefault(name, [])
                if record[name] is not None:
                    points.append((record["step"], record[name]))
    if not panels:
        return None
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
    for place, (title, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        for number, (name, points) in enumerate(curves.items()):
            marker = "o" if len(points) < 30 else ""
            line = ("-", "--", ":", "-.")[number % 4]  # told apart without colours too
            xs, ys = zip(*points, strict=True) if points else ((), ())
            axes.plot(xs, ys, line, label=name, marker=marker, markersize=3)
        if title == "distillation terms":
            axes.set_yscale("log", nonpositive="mask")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if list(curves) != [title]:
            axes.legend(fontsize="small")
    return figure

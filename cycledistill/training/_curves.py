"""The learning curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cycledistill.training._files import replacing
from cycledistill.training._log import read_log

# Okabe and Ito's colours, told apart by colour-blind readers too; dashes repeat the distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    trained = [record for record in records if record["event"] == "train"]
    evaluated = [record for record in records if record["event"] == "evaluate"]
    names = list(dict.fromkeys(name for r in trained for name in r if name not in NOT_LOSSES))
    task = [name for name in names if not name.startswith(("tokens/", "predictions/"))]
    distilled = [name for name in names if name not in task]
    panels: list[tuple[str, list[str], Sequence[Mapping[str, Any]], bool]] = []
    if task:
        panels.append(("training loss", task, trained, False))
    if distilled:
        panels.append(("distillation terms", distilled, trained, True))
    for group, members in _metric_groups(evaluated).items():
        panels.append((f"evaluation: {group}", members, evaluated, False))
    if not panels:
        return
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, members, source, logarithmic) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for number, name in enumerate(members):
            dash, colour = DASHES[number % len(DASHES)], COLOURS[number % len(COLOURS)]
            points = [(r["step"], r[name]) for r in source if r.get(name) is not None]
            marker = "o" if len(points) < 30 else ""
            xs, ys = zip(*points, strict=True) if points else ((), ())
            axes.plot(xs, ys, dash, color=colour, label=name, marker=marker, markersize=3)
        if logarithmic and all((r.get(n) or 1) > 0 for r in source for n in members):
            axes.set_yscale("log")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(Path(picture), "wb") as file:
        figure.savefig(file, format="png", dpi=120)


def _metric_groups(evaluated: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for record in evaluated for name in record):
        if name not in NOT_LOSSES:
            groups.setdefault(name.split("/")[0], []).append(name)
    if len(groups) > 4:
        return {"all": [name for members in groups.values() for name in members]}
    return groups

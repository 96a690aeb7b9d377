"""The plot of a study."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from cycledistill.inside._changes import COLOURS
from experiments._results import replace_file
from experiments._rows import Records, Row, by_cycle, by_exit, rows
from experiments._statistics import Spread, paired_difference, spread
from experiments._study import Study


def has_plot(study: Study, records: Records) -> bool:
    """Whether there is something to draw: of differences, a run and one of its baseline."""
    found = {row.name: row.values for row in rows(study, records) if row.values}
    if study.plot in ("cost", "cycles"):
        return bool(found)
    base = found.pop(study.baselines[0], None)
    return base is not None and any(paired_difference(own, base) for own in found.values())


def draw(study: Study, records: Records, path: Path) -> None:
    """The study's plot, with 95 % intervals of means or of differences."""
    found = [row for row in rows(study, records) if row.values]
    if study.plot == "cost":
        figure, axes = plt.subplots(figsize=(9.5, 4.4), layout="constrained")
        _draw_costs(axes, found)
        axes.set_ylabel(study.score.replace(study.metric, f"{study.metric} ({study.split})"))
    elif study.plot == "cycles":
        figure, axes = plt.subplots(figsize=(9.5, 4.4), layout="constrained")
        _draw_cycles(axes, study, records)
    else:
        figure, axes = plt.subplots(figsize=(9.5, 1.2 + 0.3 * len(found)), layout="constrained")
        _draw_differences(axes, found, study.baselines[0])
        axes.set_xlabel(
            f"{study.metric} ({study.split}) minus that of {study.baselines[0]!r}"
            + ", points" * (study.score != study.metric)
        )
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, image.getvalue())
    plt.close(figure)


def _draw_costs(axes: Axes, found: list[Row]) -> None:
    costs = [row.training_macs / 1e12 for row in found]
    groups = _close(costs)
    apart = max(1.02, (max(costs) / min(costs)) ** 0.02)
    shifts = {i: place - (len(g) - 1) / 2 for g in groups for place, i in enumerate(sorted(g))}
    for number, row in enumerate(found):
        own = spread(list(row.values.values()))
        axes.errorbar(
            costs[number] * apart ** shifts[number],
            own.mean,
            yerr=None if math.isnan(own.half) else own.half,
            fmt="osD^vPX*"[number % 8],
            color=COLOURS[number % len(COLOURS)],
            capsize=3,
            label=f"{row.name} ({own.seeds})",
        )
    axes.set_xlabel("multiply-accumulates of training, in 10$^{12}$ (equal ones side by side)")
    axes.set_xscale("log")
    ticks = [costs[group[0]] for group in groups]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    # An interval of few seeds may leave the percents; a marker at 100 is whole.
    axes.set_ylim(max(0, low), min(102, high))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _close(costs: list[float]) -> list[list[int]]:
    """Indices of costs within 15 % of the least of their group, from the least on."""
    groups: list[list[int]] = []
    for index in sorted(range(len(costs)), key=costs.__getitem__):
        if groups and costs[index] < 1.15 * costs[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _draw_cycles(axes: Axes, study: Study, records: Records) -> None:
    """Networks for one number of cycles as points, networks for several as lines."""
    found = [row for row in rows(study, records) if row.values]
    alone = [row for row in found if row.config.training_cycles == row.config.inference_cycles]
    curves: list[tuple[str, list[float], list[Spread]]] = [
        (
            "a network for each number of cycles",
            [row.config.training_cycles for row in alone],
            [spread(list(row.values.values())) for row in alone],
        )
    ]
    for row in found:
        if row not in alone:
            own = [spread(values) for values in by_cycle(study, records, row.name)]
            curves.append((row.name, [*range(1, 1 + len(own))], own))
            exits = by_exit(study, records, row.name)
            if exits:
                early = [mean for mean, _ in exits], [score for _, score in exits]
                curves.append(("the same, each image with early exit", *early))
    for number, (label, cycles, scores) in enumerate(curves):
        style = "D--" if number == 0 else "x:" if "early exit" in label else "o-"
        axes.errorbar(
            cycles,
            [score.mean for score in scores],
            yerr=[0 if math.isnan(score.half) else score.half for score in scores],
            fmt=style,
            color=COLOURS[number % len(COLOURS)],
            capsize=3,
            label=label,
        )
    most = max(max(cycles) for _, cycles, _ in curves)
    axes.set_xticks(range(1, 1 + int(most)))
    axes.set_xlabel("cycles in use (mean over images)")
    axes.set_ylabel(study.score.replace(study.metric, f"{study.metric} ({study.split})"))
    axes.legend(fontsize=8, frameon=False)


def _draw_differences(axes: Axes, found: list[Row], baseline: str) -> None:
    base = next((row for row in found if row.name == baseline), None)
    labels: list[str] = []
    for row in found:
        difference = base and paired_difference(row.values, base.values)
        if base is None or row is base or not difference:
            continue
        half = None if math.isnan(difference.half) else difference.half
        axes.errorbar(difference.mean, len(labels), xerr=half, fmt="o", color=COLOURS[0], capsize=3)
        cost = row.training_macs / base.training_macs
        labels.append(f"{row.name} ({difference.seeds}), {cost:.1f}x the training")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first on top

"""From records to a page: a table and a plot for each study."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from cycledistill.inside._changes import COLOURS
from experiments._statistics import Spread, paired_difference, spread
from experiments._study import Run, Study

Records = Mapping[str, Mapping[str, Any]]


class Row(NamedTuple):
    """What a study's records say about a variant.

    Attributes:
        name: Of the variant.
        config: Its config, with some seed.
        values: Score in percent with the cycles in use, by seed.
        last_cycle: Score after the last cycle of training, by seed.
        diverged: Runs whose loss became infinite or not a number; they have no values.
        training_macs: Of one run; NaN where none is done.
        macs_in_use: For one image; NaN where no run is done.
    """

    name: str
    config: Run
    values: dict[int, float]
    last_cycle: dict[int, float]
    diverged: int
    training_macs: float
    macs_in_use: float


def rows(study: Study, records: Records) -> list[Row]:
    """A row for each variant, in the study's order."""
    found = []
    for name in study.variants:
        runs = {seed: study.run(name, seed).key for seed in study.seeds}
        own = {seed: records[key] for seed, key in runs.items() if key in records}
        found.append(_row(study, name, own))
    return found


def _row(study: Study, name: str, found: Mapping[int, Mapping[str, Any]]) -> Row:
    config = study.variants[name]
    finished = {seed: record for seed, record in found.items() if not record["diverged"]}

    def score(cycles: int) -> dict[int, float]:
        metric = f"{study.split}/{config.metric}/{cycles}"
        return {seed: record["metrics"][metric] for seed, record in finished.items()}

    budget = next(iter(found.values()))["budget"] if found else {}
    return Row(
        name,
        config,
        score(config.inference_cycles),
        score(config.training_cycles),
        len(found) - len(finished),
        budget.get("training_macs", math.nan),
        budget.get("macs_in_use", math.nan),
    )


def table(study: Study, records: Records) -> str:
    """The study as a Markdown table."""
    found = rows(study, records)
    bases = {row.name: row for row in found if row.name in study.baselines}
    head = ["variant", "epochs", "training TMACs", "MACs in use", "runs", study.score]
    head += [
        study.score.replace(study.metric, "last cycle"),
        *(f"minus {name!r}" for name in study.baselines),
    ]
    head += [f"last cycle minus {study.deep!r}"] * (study.deep is not None)
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for row in found:
        runs = f"{len(row.values)}" + f", {row.diverged} diverged" * bool(row.diverged)
        cells = [row.name, f"{row.config.epochs}", "", "", runs, "", ""]
        if not math.isnan(row.training_macs):
            cells[2:4] = [f"{row.training_macs / 1e12:.3g}", f"{row.macs_in_use / 1e3:.0f} k"]
        if row.values:
            own = spread(list(row.values.values()))
            cells[5] = interval(own)
            if row.config.training_cycles > 1:
                cells[6] = interval(spread(list(row.last_cycle.values())))
        for name in study.baselines:
            difference = paired_difference(row.values, bases[name].values)
            known = difference is not None and name != row.name
            cells.append(difference_of(difference) if known and difference else "")
        if study.deep is not None:
            deep = next(other.last_cycle for other in found if other.name == study.deep)
            difference = paired_difference(row.last_cycle, deep)
            known = row.config.training_cycles > 1 and row.name != study.deep
            cells.append(difference_of(difference) if known and difference else "")
        lines.append(cells)
    return markdown(lines)


def has_plot(study: Study, records: Records) -> bool:
    """Whether there is something to draw: of differences, a run beside its baseline's."""
    found = {row.name: row.values for row in rows(study, records) if row.values}
    if study.plot == "cost":
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
    _replace(path, image.getvalue())
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
    axes.set_ylim(max(0, low), min(100, high))  # an interval of few seeds may leave the percents
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
    axes.invert_yaxis()


def section(name: str, study: Study, records: Records) -> str:
    """What stands between a study's marks on the page."""
    planned = study.runs()
    done = [records[config.key] for config in planned if config.key in records]
    if not done:
        return f"**{study.title}** None of {len(planned)} runs is done yet."
    unfinished = " **Unfinished: no conclusion.**" * (len(done) < len(planned))
    commits = sorted({record["commit"] for record in done})
    dates = sorted({record["date"] for record in done})
    devices = sorted({f"{r['device']}, {r['threads']} thread(s)" for r in done})
    made = f"code: {', '.join(commits)}; {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}; "
    lines = [
        f"**{study.title}** {len(done)} of {len(planned)} runs; {study.split} set; mean ± half the "
        f"95 % interval (Student) over seeds; differences are paired by seed.{unfinished}",
        "",
        table(study, records),
        "",
        f"Recorded in `experiments/results/` ({made}{'; '.join(devices)}).",
    ]
    if has_plot(study, records):
        lines += ["", f"![{study.title}](../pictures/lab-{name}.png)"]
    return "\n".join(lines)


def markdown(lines: list[list[str]]) -> str:
    """Cells as a table: the head, the line of dashes, the rows."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_page(
    page: Path,
    studies: Mapping[str, Study],
    records: Mapping[str, Records],
    others: Mapping[str, str] | None = None,
) -> list[Path]:
    """Put the sections of all studies between their marks, and draw those with records.

    Args:
        page: Has the lines ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` for each study that
            it shows; what is between them is replaced.
        studies: Studies by name.
        records: Their records by key.
        others: What else stands between marks of its own, by their name.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: There is no page.
        ValueError: The page has no place for a study.
    """
    text = page.read_text("utf-8")
    bodies = {name: section(name, study, records[name]) for name, study in studies.items()}
    for name, body in {**bodies, **(others or {})}.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        body = f"{begin}\n{body}\n\n{end}"
        text, count = place.subn(lambda _, body=body: body, text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(
                f"{page} has {count} places for the study {name}, expected one: a line "
                f"{begin.strip()!r} and later a line {end!r}"
            )
    written = []
    for name, study in studies.items():
        if has_plot(study, records[name]):
            picture = page.parent.parent / "pictures" / f"lab-{name}.png"
            draw(study, records[name], picture)
            written.append(picture)
    _replace(page, text.encode())
    return [page, *written]


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def interval(value: Spread) -> str:
    """A mean with half the width of its interval."""
    return f"{value.mean:.2f}" + f" ± {value.half:.2f}" * (not math.isnan(value.half))


def difference_of(value: Spread) -> str:
    """A difference, with its sign, with half the width of its interval."""
    return f"{value.mean:+.2f}" + f" ± {value.half:.2f}" * (not math.isnan(value.half))

"""Scores of several networks, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from cycledistill._device import Device
from cycledistill.saving._files import replacing_folder
from cycledistill.training import report_console
from cycledistill_pose.comparison import Comparison, Row, compare_checkpoints, comparison_page
from cycledistill_pose.comparison._compare import between
from cycledistill_pose.recipes import EvaluationOptions

_FLIPS = {"both": (True, False), "on": (True,), "off": (False,)}


def evaluate(
    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional],
    out: Path,
    data: Annotated[EvaluationOptions, tyro.conf.OmitArgPrefixes],
    num_cycles: int | None = None,
    flip_test: Literal["both", "on", "off"] = "both",
    bootstrap: int = 1000,
    cases: int = 8,
    num_workers: int = 0,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Compare plain networks: AP with intervals, and a page of the worst and best cases.

    If the images have no annotated people, predictions on a detector's boxes are written in the
    format of COCO's evaluation server, without AP. The output folder must not exist; it appears
    only once it is complete.

    Args:
        checkpoints: Folders of plain networks, or their names on the Hugging Face Hub; differences
            are to the first.
        out: Folder to write: scores.json and report.html, or results_1.json, ...
        data: The people to evaluate on.
        num_cycles: Evaluate after 1, 2, ... up to this many passes through the blocks. By default
            2, or more if a network was trained to be used with more.
        flip_test: Whether to average with the outputs for the mirrored image; both shows both.
        bootstrap: Bootstrap samples of the images, for the intervals.
        cases: How many of the worst, best and most different people the page shows.
        num_workers: Processes that load images.
        seed: Seed of the generated people and of the bootstrap.
        device: Where the networks run; auto uses the accelerator if there is one.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    flips = _FLIPS[flip_test]
    written = ["scores.json", "report.html"]
    with replacing_folder(out) as temporary:
        comparison = compare_checkpoints(
            checkpoints, data, num_cycles, flips, bootstrap, cases, device, seed, num_workers
        )
        scored = bool(comparison.rows[0].scores)
        (temporary / "scores.json").write_text(json.dumps(_contents(comparison), indent=2) + "\n")
        if scored:
            page = comparison_page(comparison)
            (temporary / "report.html").write_text(page, encoding="utf-8")
        else:
            written = [f"results_{number}.json" for number, _ in enumerate(comparison.rows, 1)]
            for name, row in zip(written, comparison.rows, strict=True):
                (temporary / name).write_text(json.dumps(row.results))
    people = ", ".join(f"{count:,} {what}" for what, count in comparison.report.items())
    lines = {"evaluated on": people, **comparison.assumed}
    if scored:
        used = ", ".join(map(str, sorted(set(comparison.shown[0]))))
        lines["cases"] = f"with {used} cycle(s), as each network is used"
        lines["in brackets"] = (
            f"95 % over {bootstrap:,} draws of images; another training run may differ by more"
        )
    lines["written"] = ", ".join(f"{out}/{name}" for name in written)
    console = report_console()
    console.print(_table(comparison))
    text = "\n".join(f"{name.capitalize() + ':':<15}{line}" for name, line in lines.items())
    console.print(text, soft_wrap=True)


def _table(comparison: Comparison) -> Table:
    scored = bool(comparison.rows[0].scores)
    table = Table(title="Percent" if scored else "No AP: these images have no annotated people")
    table.add_column("network", overflow="fold")
    names = ("AP", "to the first", "AP50", "AP75") if scored else ("predictions",)
    for name in ("cycles", "flip", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(comparison.rows, 1):
        flip = "on" if row.flip_test else "off"
        cells = _figures(row) if scored else (f"results_{number}.json",)
        table.add_row(row.checkpoint, str(row.num_cycles), flip, *cells)
    return table


def _figures(row: Row) -> tuple[str, ...]:
    paired = ""
    if row.difference is not None:
        paired = f"{row.difference:+.1f} {between(row.difference_interval)}"
    ap, ap50, ap75 = (f"{row.scores[name]:.1f}" for name in ("AP", "AP50", "AP75"))
    return f"{ap} {between(row.interval)}", paired, ap50, ap75


def _contents(comparison: Comparison) -> dict[str, object]:
    return {
        "evaluated_on": comparison.report,
        "bootstrap": comparison.resamples,
        "assumed": comparison.assumed,
        "rows": [
            {key: value for key, value in row._asdict().items() if key != "results"}
            for row in comparison.rows
        ],
        "cases": [
            {name: getattr(case, name) for name in ("kind", "image_id", "annotation_id", "oks")}
            for case in comparison.cases
        ],
    }

"""Scores of several networks, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from cycledistill._files import replacing_folder
from cycledistill_pose.comparison import Comparison, compare_checkpoints, comparison_page
from cycledistill_pose.prediction._device import Device
from cycledistill_pose.recipes import EvaluationOptions, PoseConfig

_FLIPS = {"both": (True, False), "on": (True,), "off": (False,)}


def evaluate(
    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional],
    out: Path,
    data: Annotated[EvaluationOptions, tyro.conf.OmitArgPrefixes],
    num_cycles: int = 2,
    flip_test: Literal["both", "on", "off"] = "both",
    bootstrap: int = 1000,
    cases: int = 8,
    num_workers: int = 0,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Compare plain networks: AP with intervals, and a page of the worst and best cases.

    The output folder appears whole or not at all, and must not exist.

    Args:
        checkpoints: Folders of plain networks, or their names on the Hugging Face hub; differences
            are to the first.
        out: Folder to write: scores.json and report.html.
        data: Whom to evaluate on.
        num_cycles: Evaluate after 1, 2, ... so many passes through the blocks.
        flip_test: Average with the outputs for the mirrored image, or not, or show both.
        bootstrap: Draws of images with replacement, for the intervals.
        cases: Worst, best and most differing people on the page, of each so many.
        num_workers: Processes that load images.
        seed: Of the synthetic people and of the bootstrap.
        device: Where the networks run; auto takes the accelerator, if there is one.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    config = PoseConfig(output_dir=out, num_workers=num_workers, seed=seed, **vars(data))
    config.validate()
    comparison = compare_checkpoints(
        checkpoints,
        config,
        num_cycles,
        _FLIPS[flip_test],
        bootstrap,
        cases,
        device,
    )
    with replacing_folder(out) as temporary:
        (temporary / "scores.json").write_text(json.dumps(_contents(comparison), indent=2) + "\n")
        (temporary / "report.html").write_text(comparison_page(comparison), encoding="utf-8")
    console = Console()
    console.print(_table(comparison))
    people = ", ".join(f"{count:,} {what}" for what, count in comparison.report.items())
    console.print(
        f"Evaluated on:  {people}\n"
        f"In brackets:   95 % over {bootstrap:,} draws of images; another training run may differ "
        "by more\n"
        f"Written:       {out}/scores.json, {out}/report.html",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _table(comparison: Comparison) -> Table:
    table = Table(title="Percent")
    table.add_column("network", overflow="fold")
    for name in ("cycles", "flip", "AP", "to the first", "AP50", "AP75"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        paired = ""
        if row.difference is not None and row.difference_interval is not None:
            paired = f"{row.difference:+.1f} {_between(row.difference_interval)}"
        table.add_row(
            row.checkpoint,
            str(row.num_cycles),
            "on" if row.flip_test else "off",
            f"{row.scores['AP']:.1f} {_between(row.interval)}",
            paired,
            f"{row.scores['AP50']:.1f}",
            f"{row.scores['AP75']:.1f}",
        )
    return table


def _between(interval: tuple[float, float]) -> str:
    return rf"\[{interval[0]:.1f}, {interval[1]:.1f}]"


def _contents(comparison: Comparison) -> dict[str, object]:
    return {
        "evaluated_on": comparison.report,
        "bootstrap": comparison.resamples,
        "rows": [row._asdict() for row in comparison.rows],
        "cases": [
            {
                "kind": case.kind,
                "image_id": case.image_id,
                "annotation_id": case.annotation_id,
                "oks": case.oks,
            }
            for case in comparison.cases
        ],
    }

"""The end of a run: scores, pictures and the plain network."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cycledistill.training import report_console
from cycledistill.training.processes import gather_over_processes, is_main_process
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.prediction import PosePredictor
from cycledistill_pose.recipes._config import EvaluationOptions, PoseConfig
from cycledistill_pose.recipes._evaluate import (
    CycleMetrics,
    evaluate_cycles,
    save_predictions,
    scores_by_cycle,
    scores_table,
)
from cycledistill_pose.recipes._in_use import table_in_use
from cycledistill_pose.recipes._people import EvaluationPeople


class PoseRun(NamedTuple):
    """The outcome of a run.

    Attributes:
        scores: Percent by metric and number of cycles, such as ``{"AP/1": ..., "AP/2": ...}``;
            empty if no people are annotated.
        plain: Folder of the plain network.
        predictions: Picture of predictions beside the truth.
        results: Predictions in COCO's format.
    """

    scores: dict[str, float]
    plain: Path
    predictions: Path
    results: Path


def finish_run(
    config: PoseConfig,
    trained: Any,
    people: EvaluationPeople,
    codec: HeatmapCodec | RegressionCodec,
    summary: Mapping[str, Any],
) -> PoseRun:
    """Evaluate the trained network, write predictions and the plain network, and report.

    Args:
        config: The options.
        trained: The `CycleWrapper`; unwrapped on the main process.
        people: The people to evaluate on.
        codec: The network's.
        summary: Further lines for the model card.
    """
    cycles, out = config.training_cycles, Path(config.output_dir)
    flip = people.skeleton.flip_indices if config.flip_test else None
    metrics = evaluate_cycles(trained, people, codec, cycles, flip, config.num_workers)
    run = PoseRun(
        scores_by_cycle(metrics), out / "plain", out / "predictions.png", out / "results.json"
    )
    metrics[config.inference_cycles - 1].ap.save_results(run.results)
    device = next(trained.parameters()).device
    if is_main_process():
        save_predictions(run.predictions, trained, people, codec, cycles, flip, config.pictures)
        training = {**summary, **dataclasses.asdict(config)}
        if isinstance(codec, RegressionCodec):  # these options are the heatmaps'
            del training["codec"], training["sigma"]
        used = config.inference_cycles
        predictor = PosePredictor(trained.unwrap(), people.skeleton, codec, used)
        predictor.save_pretrained(run.plain, training, run.scores)
        _report(config, run, metrics)
    gather_over_processes([])  # wait for the files
    if config.folded_from is not None and people.has_truth:
        folders = (*config.beside, config.folded_from, out)
        table = table_in_use(folders, people, config.flip_test, device, config.num_workers)
        if is_main_process():
            report_console().print(table)
    return run


def _report(config: PoseConfig, run: PoseRun, metrics: Sequence[CycleMetrics]) -> None:
    """Print the scores, where the files are and what to try next."""
    by_cycle = [([f"{cycle}"], metric.scores()) for cycle, metric in enumerate(metrics, 1)]
    table = scores_table("Percent by number of cycles in use", ["cycles"], by_cycle)
    console = report_console()
    none = "No AP: the images to evaluate on have no annotated people"
    same_people = ""
    for field in dataclasses.fields(EvaluationOptions):
        value = getattr(config, field.name)
        generated = config.data_root is None or "synthetic" not in field.name
        if value != field.default and generated:
            given = "" if value is True else f" {shlex.quote(str(value))}"
            same_people += f" --{field.name.replace('_', '-')}{given}"
    if config.data_root is None and config.seed:
        same_people += f" --seed {config.seed}"
    other = "distill" if config.mode == "plain" else "plain"
    more = (
        "" if config.data_root else "--data-root with a COCO folder;\n           --preset paper; "
    )
    console.print(table if run.scores else none)
    console.print(
        f"Predictions beside the truth:  {run.predictions}\n"
        f"The plain network:             {run.plain} (model.safetensors, config.json "
        "and a model card)\n"
        f"Predictions in COCO's format:  {run.results}\n"
        f"Log and curves:                {config.output_dir}/log.jsonl, curves.png\n"
        f"Try next:  cycledistill-pose predict IMAGE --checkpoint {run.plain} --out FOLDER;\n"
        f"           the same with --mode {other} and another --output-dir, then\n"
        f"           cycledistill-pose evaluate {run.plain} OTHER/plain{same_people};\n"
        f"           {more}--help for the rest (commands are beside this Python)",
        soft_wrap=True,
    )

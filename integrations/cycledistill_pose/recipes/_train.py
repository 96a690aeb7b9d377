"""A whole pose run: data, network, loss, training, evaluation, pictures, the plain network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cycledistill import CycleWrapper
from cycledistill.training import (
    WarmupSteps,
    budget_rows,
    fit,
    is_main_process,
    steps_per_epoch,
)
from cycledistill_pose.checkpoints import save_plain
from cycledistill_pose.codecs import HeatmapCodec
from cycledistill_pose.data import normalize_images
from cycledistill_pose.recipes._build import (
    build_codec,
    build_criterion,
    build_model,
    input_size_of,
    model_options,
    wrap_model,
)
from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.recipes._data import load_data
from cycledistill_pose.recipes._evaluate import evaluate_cycles, save_predictions, scores_by_cycle
from cycledistill_pose.recipes._files import open_files


class PoseRun(NamedTuple):
    """What a run came to.

    Attributes:
        scores: Percent by metric and number of cycles, such as ``{"AP/1": ..., "AP/2": ...}``;
            nothing where nobody is annotated.
        plain: Folder of the plain network.
        predictions: Picture of predictions beside the truth.
        results: Predictions in COCO's format.
    """

    scores: dict[str, float]
    plain: Path
    predictions: Path
    results: Path


def train_pose(config: PoseConfig) -> PoseRun:
    """Train a network as the config says, and save the plain one.

    Raises:
        ValueError: An option or a file is not what it should be.
        FileNotFoundError: Data is missing.
    """
    config.validate()
    input_size = input_size_of(config)
    files = open_files(config)
    data = load_data(config, input_size, files=files)
    plain = build_model(config, data.skeleton.num_keypoints)
    cycled = wrap_model(config, plain)
    codec = build_codec(config, plain)
    criterion = build_criterion(config, plain)
    optimizer = torch.optim.Adam(
        [*cycled.parameters(), *criterion.parameters()], lr=config.scaled_lr
    )
    steps = steps_per_epoch(config, len(data.train))
    image = torch.zeros(1, 3, *reversed(plain.input_size))
    schedule = WarmupSteps(
        warmup_steps=config.warmup_steps,
        start=1e-3,
        milestones=tuple(epoch * steps for epoch in config.milestones),
        factor=0.1,
    )

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        images = normalize_images(batch["image"])
        target, weight = codec.encode(batch["keypoints"], batch["visible"])
        return criterion(model(images), target, weight), len(images)

    def evaluate(model: CycleWrapper) -> dict[str, float]:
        return scores_by_cycle(evaluate_cycles(model, data, codec, config, config.training_cycles))

    summary = {
        **budget_rows(config, cycled, image, num_samples=len(data.train)),
        "training set": _describe(data.train),
        "evaluated on": _describe(data.val),
        **files.assumed("--flip-pairs" if config.flip_pairs else None),
    }
    if config.training_cycles > 1:
        random = torch.Generator().manual_seed(config.seed)
        summary["cycles"] = str(cycled.verify(torch.rand(2, *image.shape[1:], generator=random)))
    has_truth = data.truth is not None
    result = fit(
        config,
        model=cycled,
        criterion=criterion,
        optimizer=optimizer,
        train_dataset=data.train,
        forward_loss=forward_loss,
        schedule=schedule,
        evaluate=evaluate if has_truth else None,
        best_metric=f"AP/{config.inference_cycles}" if has_truth else None,
        before_epoch=[plain.set_epoch],
        summary=summary,
    )
    metrics = evaluate_cycles(result.model, data, codec, config, config.training_cycles)
    out = Path(config.output_dir)
    run = PoseRun(
        scores_by_cycle(metrics), out / "plain", out / "predictions.png", out / "results.json"
    )
    metrics[config.inference_cycles - 1].ap.save_results(run.results)
    if is_main_process():
        save_predictions(result.model, data, codec, config, run.predictions)
        training = {**summary, **dataclasses.asdict(config)}
        described = {"method": config.codec, "sigma": config.sigma}
        if not isinstance(codec, HeatmapCodec):  # coordinates know neither
            described = {}
            del training["codec"], training["sigma"]
        save_plain(
            result.model.unwrap(),
            run.plain,
            config.model,
            model_options(config),
            data.skeleton,
            described,
            training=training,
            scores=run.scores,
        )
    return run


def _describe(people: Any) -> str:
    counts = people.report() if hasattr(people, "report") else {"people": len(people)}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())

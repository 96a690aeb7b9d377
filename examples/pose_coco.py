"""Train TokenPose cycled (SDPose) and hand back the plain network.

    python examples/pose_coco.py                                   # synthetic people, no data
    python examples/pose_coco.py --preset paper --data-root coco   # the paper's recipe
    python examples/pose_coco.py --data-root coco --detections COCO_val2017_detections.json

SDPose-T, S-V1, S-V2, B: --model tokenpose_t --num-cycles 3, --model tokenpose_s_v1, _s_v2, _b.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cycledistill import CycleWrapper
from cycledistill.training import (
    WarmupSteps,
    fit,
    is_main_process,
    parse_cli,
    run_cli,
    steps_per_epoch,
)
from cycledistill_pose.checkpoints import save_plain
from cycledistill_pose.data import normalize_images
from cycledistill_pose.recipes import (
    HEATMAP_PRESETS,
    PoseConfig,
    build_codec,
    build_criterion,
    build_model,
    evaluate_cycles,
    input_size_of,
    load_data,
    model_options,
    save_predictions,
    scores_by_cycle,
    wrap_model,
)


def main() -> None:
    config = parse_cli(PoseConfig, presets=HEATMAP_PRESETS, default="demo")
    config.validate()
    data = load_data(config, input_size_of(config))
    plain = build_model(config, data.skeleton.num_keypoints)
    cycled = wrap_model(config, plain)
    codec = build_codec(config, plain)
    criterion = build_criterion(config, plain)
    optimizer = torch.optim.Adam(
        [*cycled.parameters(), *criterion.parameters()], lr=config.scaled_lr
    )
    steps = steps_per_epoch(config, len(data.train))
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

    result = fit(
        config,
        model=cycled,
        criterion=criterion,
        optimizer=optimizer,
        train_dataset=data.train,
        forward_loss=forward_loss,
        schedule=schedule,
        evaluate=evaluate,
        best_metric=f"AP/{config.inference_cycles}",
        before_epoch=[plain.set_epoch],
        summary={"training set": describe(data.train), "evaluated on": describe(data.val)},
    )
    metrics = evaluate_cycles(result.model, data, codec, config, config.training_cycles)
    scores = scores_by_cycle(metrics)
    out = Path(config.output_dir)
    metrics[config.inference_cycles - 1].save_results(out / "results.json")
    if is_main_process():
        save_predictions(result.model, data, codec, config, out / "predictions.png")
        folder = save_plain(
            result.model.unwrap(),
            out / "plain",
            config.model,
            model_options(config),
            data.skeleton,
            {"method": config.codec, "sigma": config.sigma},
        )
        report(config, scores, folder)


def describe(people: Any) -> str:
    """Who is in a set, and who was left out and why."""
    counts = people.report() if hasattr(people, "report") else {"people": len(people)}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def report(config: PoseConfig, scores: dict[str, float], folder: Path) -> None:
    """Say what happened, where the files are and what to try next."""
    names = list(dict.fromkeys(name.split("/")[0] for name in scores))
    table = Table(title="Average precision in percent")
    table.add_column("cycles in use", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for cycle in range(1, config.training_cycles + 1):
        values = [scores.get(f"{name}/{cycle}") for name in names]
        table.add_row(str(cycle), *("-" if v is None else f"{v:.1f}" for v in values))
    console = Console()
    console.print(table)
    console.print(
        f"Predictions beside the truth:  {config.output_dir}/predictions.png\n"
        f"The plain model:               {folder} (model.safetensors and config.json)\n"
        f"Results in COCO's format:      {config.output_dir}/results.json\n"
        f"Log and curves:                {config.output_dir}/log.jsonl, curves.png\n"
        "Try next:  the same with --mode plain and another --output-dir, to compare;\n"
        "           --data-root with a COCO folder; --preset paper; --help for the rest",
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    run_cli(main)

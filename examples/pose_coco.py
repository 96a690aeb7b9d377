"""Train TokenPose in cycles (SDPose) and save the plain network.

python examples/pose_coco.py                                   # generated people, no data
python examples/pose_coco.py --preset paper --data-root coco   # the paper's recipe
python examples/pose_coco.py --data-root coco --detections COCO_val2017_detections.json

Grow a network with two cycles, then fold it into a plain one. The same in two commands:
--mode cycle, then --mode fold --folded-from FOLDER.

python examples/pose_coco.py --mode grow-fold

SDPose-T is --model tokenpose_t --num-cycles 3; SDPose-S-V1, S-V2 and B are --model tokenpose_s_v1,
tokenpose_s_v2 and tokenpose_b.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cycledistill import CycleWrapper
from cycledistill.training import (
    WarmupSteps,
    budget_rows,
    find_trained,
    fit,
    parse_cli,
    run_cli,
)
from cycledistill_pose import PoseAugmentation, normalize_images
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.recipes import (
    PoseConfig,
    PoseRun,
    build_criterion,
    build_model,
    build_teacher,
    evaluate_cycles,
    finish_run,
    open_people,
    people_rows,
    scores_by_cycle,
)

PRESETS = {
    # Section 4.1.2 of the paper and its released recipe; 8 GPUs x 64.
    "paper": PoseConfig(
        output_dir=Path("runs/pose"),
        model="tokenpose_s_v1",
        codec="dark",
        epochs=300,
        batch_size=512,
        lr=1e-3,
        milestones=(200, 260),
        warmup_steps=500,
        evaluate_every=10,
        num_workers=8,
    ),
    # The same on CrowdPose's train + val, tested on its test people (table 4).
    "crowdpose": PoseConfig(
        output_dir=Path("runs/crowdpose"),
        dataset="crowdpose",
        model="tokenpose_s_v1",
        codec="dark",
        epochs=300,
        batch_size=512,
        evaluate_every=10,
        num_workers=8,
        nms="none",
    ),
    # A tiny network on generated people: minutes on two CPU cores.
    "demo": PoseConfig(
        output_dir=Path("runs/pose-demo"),
        model="tokenpose_nano",
        input_size=(48, 64),
        heatmap_size=(12, 16),
        sigma=1.0,
        depth=2,
        num_synthetic=4000,
        easy_synthetic=True,
        epochs=10,
        batch_size=16,
        lr=1e-3,
        milestones=(8,),
        warmup_steps=50,
        num_workers=1,
        evaluate_every=2,
        augmentation=PoseAugmentation(
            shift=0.05,
            half_body_probability=0.0,
            rotation_degrees=10.0,
            scale=0.1,
        ),
    ),
}


def train(config: PoseConfig) -> PoseRun:
    """Train a network and save the plain one."""
    config.validate()
    torch.manual_seed(config.seed)  # first weights do not depend on a stage before
    train_people, val_people = open_people(config)
    skeleton = val_people.skeleton
    network = build_model(config, skeleton.num_keypoints)
    teacher = build_teacher(config, network)
    codec = codec_for(network, method=config.codec, sigma=config.sigma)
    train_set = train_people.crops(codec)
    val_set = val_people.crops(codec.input_size, codec.udp_crops)
    # Bad annotations and missing images raise an error here, not after the first epochs.
    val_people.metric()
    val_people.annotated.crops(codec.input_size, codec.udp_crops)

    cycled = CycleWrapper(network, blocks="blocks", **config.wrapper_options())
    criterion = build_criterion(config, network, teacher)
    optimizer = torch.optim.Adam(
        [*cycled.parameters(), *criterion.parameters()], lr=config.scaled_lr
    )
    steps = config.steps_per_epoch(len(train_set))
    schedule = WarmupSteps(
        warmup_steps=config.warmup_steps,
        start=1e-3,
        milestones=tuple(epoch * steps for epoch in config.milestones),
        factor=0.1,
    )
    flip_indices = skeleton.flip_indices if config.flip_test else None

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        images = normalize_images(batch["image"])
        target, weight = codec.encode(batch["keypoints"], batch["visible"])
        seen = {} if teacher is None else {"inputs": images}
        return criterion(model(images), target, weight, **seen), len(images)

    def evaluate(model: CycleWrapper) -> dict[str, float]:
        metrics = evaluate_cycles(
            model, val_people, codec, config.training_cycles, flip_indices, config.num_workers
        )
        return scores_by_cycle(metrics)

    settings: dict[str, Any] = {"keypoints": skeleton.keypoint_names}
    if config.folded_from is not None:
        settings["teacher's weights"] = find_trained(config.folded_from).digest
    width, height = network.input_size
    random = torch.Generator().manual_seed(config.seed)
    images = torch.rand(2, 3, height, width, generator=random)
    summary = {
        **budget_rows(config, cycled, images[:1], num_samples=len(train_set)),
        "schedule": config.schedule_text(steps),
        **people_rows(train_people, train_set, val_people, val_set),
    }
    if config.training_cycles > 1:
        summary["cycles"] = str(cycled.verify(images))
    result = fit(
        config,
        model=cycled,
        criterion=criterion,
        optimizer=optimizer,
        train_dataset=train_set,
        forward_loss=forward_loss,
        schedule=schedule,
        evaluate=evaluate if val_people.has_truth else None,
        best_metric=f"AP/{config.inference_cycles}" if val_people.has_truth else None,
        before_epoch=[network.set_epoch],
        summary=summary,
        settings=settings,
    )
    return finish_run(config, result.model, val_people, codec, summary)


def main() -> None:
    config = parse_cli(PoseConfig, presets=PRESETS, default="demo")
    config.validate()
    for stage in config.stages():
        train(stage)


if __name__ == "__main__":
    run_cli(main)

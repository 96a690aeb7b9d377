"""Train TokenPose cycled (SDPose) and hand back the plain network.

python examples/pose_coco.py                                   # synthetic people, no data
python examples/pose_coco.py --preset paper --data-root coco   # the paper's recipe
python examples/pose_coco.py --data-root coco --detections COCO_val2017_detections.json

SDPose-T, S-V1, S-V2 and B are --model tokenpose_t --num-cycles 3 and --model tokenpose_s_v1,
tokenpose_s_v2 and tokenpose_b.
"""

from pathlib import Path

from cycledistill.training import is_main_process, parse_cli, run_cli
from cycledistill_pose.data import PoseAugmentation
from cycledistill_pose.recipes import PoseConfig, report, train_pose

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
    # A tiny network on people drawn on the spot: minutes on two CPU cores.
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


def main() -> None:
    config = parse_cli(PoseConfig, presets=PRESETS, default="demo")
    run = train_pose(config)
    if is_main_process():
        report(config, run)


if __name__ == "__main__":
    run_cli(main)

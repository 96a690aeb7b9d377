"""Train TokenReg with RLE cycled (SDPose-Reg): coordinates instead of heatmaps.

python examples/pose_regression.py                                   # synthetic people, no data
python examples/pose_regression.py --preset paper --data-root coco   # the paper's recipe

Everything but the network, its loss and its codec is as in pose_coco.py.
"""

from pathlib import Path

from cycledistill.training import is_main_process, parse_cli, run_cli
from cycledistill_pose.data import PoseAugmentation
from cycledistill_pose.recipes import PoseConfig, report, train_pose

PRESETS = {
    # Section 4.1.2 of the paper with DistilPose's regression head and RLE (table 2).
    "paper": PoseConfig(
        output_dir=Path("runs/pose-reg"),
        model="tokenreg_s",
        epochs=300,
        batch_size=512,
        lr=1e-3,
        milestones=(200, 260),
        warmup_steps=500,
        evaluate_every=10,
        num_workers=8,
    ),
    "crowdpose": PoseConfig(
        output_dir=Path("runs/crowdpose-reg"),
        dataset="crowdpose",
        model="tokenreg_s",
        epochs=300,
        batch_size=512,
        evaluate_every=10,
        num_workers=8,
        nms="none",
    ),
    "demo": PoseConfig(
        output_dir=Path("runs/pose-reg-demo"),
        model="tokenreg_nano",
        input_size=(48, 64),
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

"""Train TokenReg in cycles with RLE (SDPose-Reg): coordinates instead of heatmaps.

python examples/pose_regression.py                                   # generated people, no data
python examples/pose_regression.py --preset paper --data-root coco   # the paper's recipe

The recipe is that of pose_coco.py; loss and codec follow from the network.
"""

from dataclasses import replace
from pathlib import Path

import pose_coco

from cycledistill.training import parse_cli, run_cli
from cycledistill_pose.recipes import PoseConfig


def with_coordinates(preset: str, model: str, output_dir: str) -> PoseConfig:
    """A preset of pose_coco.py for a network that predicts coordinates, without heatmap options."""
    return replace(
        pose_coco.PRESETS[preset],
        model=model,
        output_dir=Path(output_dir),
        codec=PoseConfig.codec,
        sigma=PoseConfig.sigma,
        heatmap_size=None,
    )


PRESETS = {
    # Section 4.1.2 of the paper with DistilPose's regression head and RLE (table 2).
    "paper": with_coordinates("paper", "tokenreg_s", "runs/pose-reg"),
    "crowdpose": with_coordinates("crowdpose", "tokenreg_s", "runs/crowdpose-reg"),
    "demo": with_coordinates("demo", "tokenreg_nano", "runs/pose-reg-demo"),
}


def main() -> None:
    config = parse_cli(PoseConfig, presets=PRESETS, default="demo")
    config.validate()
    for stage in config.stages():
        pose_coco.train(stage)


if __name__ == "__main__":
    run_cli(main)

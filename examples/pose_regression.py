"""Train TokenReg with RLE cycled (SDPose-Reg): coordinates instead of heatmaps.

python examples/pose_regression.py                                   # generated people, no data
python examples/pose_regression.py --preset paper --data-root coco   # the paper's recipe

The recipe is that of pose_coco.py: the network brings its own loss and codec.
"""

from dataclasses import replace
from pathlib import Path

import pose_coco

from cycledistill.training import parse_cli, run_cli
from cycledistill_pose.recipes import PoseConfig


def with_coordinates(preset: str, model: str, output_dir: str) -> PoseConfig:
    """A preset of pose_coco.py for another network; the options of heatmaps have no effect."""
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
    pose_coco.train(parse_cli(PoseConfig, presets=PRESETS, default="demo"))


if __name__ == "__main__":
    run_cli(main)

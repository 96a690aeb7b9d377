"""The mean-pose predictor: what a network that sees nothing would score.

python benchmarks/mean_pose.py --root lspet --train train.json --val val.json

Predicts for everybody the mean place of each keypoint within the box, as the training people have
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from cycledistill_pose import PCK, CocoKeypointAP, CocoKeypoints
from cycledistill_pose.data import invert_matrix, pose_loader, transform_points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the data")
    parser.add_argument("--train", default="train.json", help="COCO-format file to average")
    parser.add_argument("--train-images", default="train", help="its images")
    parser.add_argument("--val", default="val.json", help="COCO-format file to predict")
    parser.add_argument("--val-images", default="val", help="its images")
    options = parser.parse_args()
    train = CocoKeypoints(options.root / options.train, options.root / options.train_images)
    val = CocoKeypoints(options.root / options.val, options.root / options.val_images)
    total = torch.zeros(train.skeleton.num_keypoints, 2, dtype=torch.float64)
    count = torch.zeros(train.skeleton.num_keypoints, 1, dtype=torch.float64)
    for batch in track(pose_loader(train, 64), "averaging"):
        points, corner, size = placed(batch)
        weight = batch["visible"][..., None]
        total += ((points - corner) / size * weight).sum(0)
        count += weight.sum(0)
    mean = total / count.clamp_min(1)
    ap = CocoKeypointAP(options.root / options.val, sigmas=val.skeleton.sigmas)
    pck = PCK(val.skeleton.num_keypoints, threshold=0.1)
    for batch in track(pose_loader(val, 64), "predicting"):
        points, corner, size = placed(batch)
        found = corner + mean * size
        scores, boxes = torch.ones(found.shape[:2]), batch["box_xyxy"]
        ap.update(batch["image_id"], found, scores, boxes, batch["box_score"])
        pck.update(found, points, batch["visible"], boxes)
    for name, value in ap.compute().items():
        print(f"{name:5} {100 * value:6.2f} %")
    print(f"PCK   {100 * float(pck.compute()):6.2f} % (nearer than 0.1 of the box's longer side)")


def placed(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints `[B, K, 2]` px of the image, and corner and size `[B, 1, 2]` of the boxes."""
    points = transform_points(batch["keypoints"], invert_matrix(batch["crop_matrix"]))
    corners = batch["box_xyxy"].unflatten(-1, (2, 2))[:, :, None]
    return points, corners[:, 0], corners[:, 1] - corners[:, 0]


if __name__ == "__main__":
    main()

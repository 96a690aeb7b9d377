"""How near decoding comes, on drawn and on a network's maps; and what a blind network scores.

python benchmarks/accuracy.py drawn
python benchmarks/accuracy.py network runs/lspet/plain --annotations lspet/val.json \
    --images lspet/val
python benchmarks/accuracy.py mean-pose --train-annotations lspet/train.json \
    --train-images lspet/train --annotations lspet/val.json --images lspet/val
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from cycledistill_pose import (
    CocoKeypoints,
    HeatmapCodec,
    PosePredictor,
    normalize_images,
)
from cycledistill_pose.data import invert_matrix, pose_loader, transform_points
from cycledistill_pose.metrics import PCK, CocoKeypointAP

METHODS = ("dark", "fit")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("drawn", help="clean targets and noisy ones")
    network = commands.add_parser("network", help="a network's maps, decoded either way")
    network.add_argument("folder", type=Path, help="of a network with dark's targets")
    network.add_argument("--flip-test", action="store_true")
    blind = commands.add_parser("mean-pose", help="everybody at the mean place within the box")
    blind.add_argument("--train-annotations", type=Path, required=True, help="people to average")
    blind.add_argument("--train-images", type=Path, required=True)
    for command in (network, blind):
        command.add_argument("--annotations", type=Path, required=True, help="COCO-format file")
        command.add_argument("--images", type=Path, required=True, help="folder of its images")
    options = parser.parse_args()
    if options.command == "drawn":
        drawn_targets()
    elif options.command == "network":
        trained_network(options.folder, options.annotations, options.images, options.flip_test)
    else:
        train = CocoKeypoints(options.train_annotations, options.train_images)
        mean_pose(train, CocoKeypoints(options.annotations, options.images), options.annotations)


def drawn_targets() -> None:
    """Mean and largest distance, in px of a map of 48x64 with sigma 2, near the border and not."""
    codecs = {method: HeatmapCodec(method=method) for method in METHODS}  # type: ignore[arg-type]
    torch.manual_seed(0)
    far = 5 + torch.rand(4000, 2) * torch.tensor([37.0, 53.0])
    near = far.clone()
    near[:, 0] = torch.rand(4000) * 5
    for place, points in (("within 5 px of the border", near), ("elsewhere", far)):
        targets = codecs["dark"].encode(4 * points[None])[0]
        for noise in (0.0, 0.02, 0.05, 0.1):
            maps = targets + noise * torch.randn_like(targets)
            shown = []
            for method, codec in codecs.items():
                distances = (codec.decode(maps)[0][0] / 4 - points).norm(dim=-1)
                shown.append(f"{method} {distances.mean():.3f} (at most {distances.max():.2f})")
            print(f"{place}, noise {noise:.2f}: {', '.join(shown)}")


@torch.no_grad()
def trained_network(folder: Path, annotations: Path, images: Path, flip_test: bool) -> None:
    """Scores and distances with each decoding of the very same maps."""
    predictor = PosePredictor.from_pretrained(folder)
    given, model = predictor.codec, predictor.plain
    people = CocoKeypoints(annotations, images, model.input_size, predictor.skeleton)

    def maps_of(crops: Tensor) -> Tensor:
        images = normalize_images(crops)
        found: Tensor = model(images)
        if flip_test:
            flipped = given.flip(model(images.flip(-1)), predictor.skeleton.flip_indices)
            found = given.average(found, flipped)
        return found

    batch = everybody(people, maps_of)
    seen, errors = batch["visible"] > 0, {}
    for method in METHODS:
        codec = HeatmapCodec(given.input_size, given.heatmap_size, given.sigma, method)  # type: ignore[arg-type, union-attr]
        keypoints, scores = codec.decode(batch["image"])
        distances = (keypoints - batch["keypoints"]) / torch.tensor(codec.stride)
        own = errors[method] = distances.norm(dim=-1)[seen]
        placed = transform_points(keypoints, invert_matrix(batch["crop_matrix"]))
        scores_shown = scored(people, annotations, batch, placed, scores)
        print(
            f"{method}: {scores_shown}, px of the map: median {own.median():.3f}, "
            f"mean {own.mean():.3f}, mean of at most 3 {own.clamp(max=3).mean():.4f}"
        )
    difference = errors["fit"].clamp(max=3) - errors["dark"].clamp(max=3)
    half = 1.96 * float(difference.std()) / math.sqrt(len(difference))
    print(f"fit - dark, at most 3: {difference.mean():+.4f} +- {half:.4f} ({len(difference):,})")


def mean_pose(train: CocoKeypoints, people: CocoKeypoints, annotations: Path) -> None:
    """Each keypoint at its mean place within the box, as the training people have it."""
    batch = everybody(train)
    corners, sizes = boxes(batch)
    visible = batch["visible"][..., None]
    places = (original(batch) - corners) / sizes * visible
    mean = places.double().sum(0) / visible.sum(0).clamp_min(1)
    batch = everybody(people)
    corners, sizes = boxes(batch)
    found = corners + mean * sizes
    print(scored(people, annotations, batch, found, torch.ones(found.shape[:2])))


def scored(
    people: CocoKeypoints,
    annotations: Path,
    batch: dict[str, Tensor],
    found: Tensor,
    scores: Tensor,
) -> str:
    """AP and PCK of keypoints `[B, K, 2]` px of the image with scores `[B, K]`."""
    ap = CocoKeypointAP(annotations, sigmas=people.skeleton.sigmas)
    ap.update(batch["image_id"], found, scores, batch["box_xyxy"], batch["box_score"])
    shown = [f"AP {100 * ap.compute()['AP']:.2f}"]
    for threshold in (0.1, 0.05):
        pck = PCK(people.skeleton.num_keypoints, threshold)
        pck.update(found, original(batch), batch["visible"], batch["box_xyxy"])
        shown.append(f"PCK {threshold}: {100 * float(pck.compute()):.2f}")
    return ", ".join(shown)


def everybody(
    people: CocoKeypoints, predict: Callable[[Tensor], Tensor] = lambda crops: crops[:, :1, :1, :1]
) -> dict[str, Tensor]:
    """All people in one batch, with what ``predict`` makes of crops in their place."""
    batches = []
    for batch in track(pose_loader(people, 64), "reading people"):
        batches.append({**batch, "image": predict(batch["image"])})
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def original(batch: dict[str, Tensor]) -> Tensor:
    """Keypoints `[B, K, 2]` px of the image."""
    return transform_points(batch["keypoints"], invert_matrix(batch["crop_matrix"]))


def boxes(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Corners and sizes `[B, 1, 2]` of the boxes."""
    corners = batch["box_xyxy"].unflatten(-1, (2, 2))[:, :, None]
    return corners[:, 0], corners[:, 1] - corners[:, 0]


if __name__ == "__main__":
    main()

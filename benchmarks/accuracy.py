"""How near decoding comes, on drawn and on a network's maps; and what a blind network scores.

python benchmarks/accuracy.py drawn
python benchmarks/accuracy.py network runs/lspet/plain --annotations lspet/val.json \
    --images lspet/val
python benchmarks/accuracy.py mean-pose --train-annotations lspet/train.json \
    --train-images lspet/train --annotations lspet/val.json --images lspet/val
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from cycledistill_pose import CocoKeypoints, HeatmapCodec, PosePredictor, normalize_images
from cycledistill_pose.data import invert_matrix, pose_loader, transform_points
from cycledistill_pose.metrics import PCK, CocoKeypointAP
from cycledistill_pose.prediction import predict_cycles

METHODS = ("dark", "fit")
Batch = dict[str, Tensor]


def drawn() -> None:
    """Clean targets and noisy ones, of sigma 2 on maps of 48x64, near the border and not.

    Mean and largest distance from the truth, in px of the map.
    """
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


def network(
    folder: Annotated[Path, tyro.conf.Positional],
    annotations: Path,
    images: Path,
    flip_test: bool = False,
) -> None:
    """A network's maps, decoded either way.

    Args:
        folder: Of a network with dark's targets.
        annotations: COCO-format file.
        images: Folder of its images.
        flip_test: Average with the maps of mirrored images.
    """
    predictor = PosePredictor.from_pretrained(folder)
    given, skeleton = predictor.codec, predictor.skeleton
    people = CocoKeypoints(annotations, images, given.input_size, skeleton)
    flip = skeleton.flip_indices if flip_test else None
    errors = {}
    for method in METHODS:
        codec = HeatmapCodec(given.input_size, given.heatmap_size, given.sigma, method)  # type: ignore[arg-type, union-attr]
        predict = partial(predict_cycles, predictor.plain, codec=codec, flip_indices=flip)
        batch = everybody(people, lambda crops, predict=predict: predict(crops)[0])
        distances = (batch["found"] - batch["keypoints"]) / torch.tensor(codec.stride)
        own = errors[method] = distances.norm(dim=-1)[batch["visible"] > 0]
        scores = scored(people, annotations, batch, in_image(batch["found"], batch))
        print(
            f"{method}: {scores}, px of the map: median {own.median():.3f}, "
            f"mean {own.mean():.3f}, mean of at most 3 {own.clamp(max=3).mean():.4f}"
        )
    difference = errors["fit"].clamp(max=3) - errors["dark"].clamp(max=3)
    half = 1.96 * float(difference.std()) / len(difference) ** 0.5
    print(f"fit - dark, at most 3: {difference.mean():+.4f} +- {half:.4f} ({len(difference):,})")


def mean_pose(train_annotations: Path, train_images: Path, annotations: Path, images: Path) -> None:
    """Everybody at the mean place within the box, as the training people have it.

    Args:
        train_annotations: COCO-format file of the people to average.
        train_images: Folder of their images.
        annotations: COCO-format file of the people to score.
        images: Folder of their images.
    """
    batch = everybody(CocoKeypoints(train_annotations, train_images))
    corners, sizes = boxes(batch)
    visible = batch["visible"][..., None]
    places = (in_image(batch["keypoints"], batch) - corners) / sizes * visible
    mean = places.double().sum(0) / visible.sum(0).clamp_min(1)
    people = CocoKeypoints(annotations, images)
    batch = everybody(people)
    corners, sizes = boxes(batch)
    print(scored(people, annotations, batch, corners + mean * sizes))


def scored(people: CocoKeypoints, annotations: Path, batch: Batch, found: Tensor) -> str:
    """AP and PCK of keypoints `[B, K, 2]` px of the image."""
    truth, box = in_image(batch["keypoints"], batch), batch["box_xyxy"]
    ap = CocoKeypointAP(annotations, sigmas=people.skeleton.sigmas)
    ap.update(batch["image_id"], found, batch["scores"], box, batch["box_score"])
    shown = [f"AP {100 * ap.compute()['AP']:.2f}"]
    for threshold in (0.1, 0.05):
        pck = PCK(people.skeleton.num_keypoints, threshold)
        pck.update(found, truth, batch["visible"], box)
        shown.append(f"PCK {threshold}: {100 * float(pck.compute()):.2f}")
    return ", ".join(shown)


def everybody(
    people: CocoKeypoints, predict: Callable[[Tensor], Sequence[Tensor]] | None = None
) -> Batch:
    """All people in one batch: keypoints found on their crops, and scores (without, all are 1)."""
    batches = []
    for batch in track(pose_loader(people, 64), "reading people"):
        crops, truth = normalize_images(batch.pop("image")), batch["keypoints"]
        found, scores = predict(crops) if predict else (truth, torch.ones(truth.shape[:2]))
        batches.append({**batch, "found": found, "scores": scores})
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def in_image(keypoints: Tensor, batch: Batch) -> Tensor:
    """Keypoints `[B, K, 2]` px of the crop in px of the image."""
    return transform_points(keypoints, invert_matrix(batch["crop_matrix"]))


def boxes(batch: Batch) -> tuple[Tensor, Tensor]:
    """Corners and sizes `[B, 1, 2]` of the boxes."""
    corners = batch["box_xyxy"].unflatten(-1, (2, 2))[:, :, None]
    return corners[:, 0], corners[:, 1] - corners[:, 0]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"drawn": drawn, "network": network, "mean-pose": mean_pose}
    )

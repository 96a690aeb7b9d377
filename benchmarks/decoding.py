"""How near each decoding comes: to clean targets, under noise, and on a trained network's maps.

python benchmarks/decoding.py
python benchmarks/decoding.py --network runs/lspet/plain --annotations lspet/val.json \
    --images lspet/val
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from cycledistill_pose import (
    PCK,
    CocoKeypointAP,
    CocoKeypoints,
    HeatmapCodec,
    PosePredictor,
    normalize_images,
)
from cycledistill_pose.data import invert_matrix, pose_loader, transform_points

METHODS = ("dark", "fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, help="folder of a network with dark's targets")
    parser.add_argument("--annotations", type=Path, help="COCO-format file of people")
    parser.add_argument("--images", type=Path, help="folder of their images")
    parser.add_argument("--flip-test", action="store_true")
    options = parser.parse_args()
    if options.network is None:
        drawn_targets()
    else:
        trained_network(options.network, options.annotations, options.images, options.flip_test)


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
    """AP, PCK and distances with each decoding of the very same maps."""
    predictor = PosePredictor.from_pretrained(folder)
    given, model = predictor.codec, predictor.plain
    people = CocoKeypoints(annotations, images, model.input_size, predictor.skeleton)
    batch, maps = _maps(predictor, people, flip_test)
    to_image, seen = invert_matrix(batch["crop_matrix"]), batch["visible"] > 0
    truth = transform_points(batch["keypoints"], to_image)
    errors: dict[str, Tensor] = {}
    for method in METHODS:
        codec = HeatmapCodec(given.input_size, given.heatmap_size, given.sigma, method)  # type: ignore[arg-type, union-attr]
        keypoints, scores = codec.decode(maps)
        distances = ((keypoints - batch["keypoints"]) / torch.tensor(codec.stride)).norm(dim=-1)
        errors[method] = distances[seen]
        ap = CocoKeypointAP(annotations, sigmas=people.skeleton.sigmas)
        found = transform_points(keypoints, to_image)
        ap.update(batch["image_id"], found, scores, batch["box_xyxy"], batch["box_score"])
        shares = []
        for threshold in (0.1, 0.05):
            pck = PCK(people.skeleton.num_keypoints, threshold)
            pck.update(found, truth, batch["visible"], batch["box_xyxy"])
            shares.append(f"PCK {threshold}: {100 * float(pck.compute()):.2f}")
        print(
            f"{method}: AP {100 * ap.compute()['AP']:.2f}, {', '.join(shares)}, px of the map: "
            f"median {errors[method].median():.3f}, mean {errors[method].mean():.3f}, "
            f"mean of at most 3 {errors[method].clamp(max=3).mean():.4f}"
        )
    difference = errors["fit"].clamp(max=3) - errors["dark"].clamp(max=3)
    half = 1.96 * float(difference.std()) / math.sqrt(len(difference))
    print(f"fit - dark, at most 3: {difference.mean():+.4f} +- {half:.4f} ({len(difference):,})")


def _maps(
    predictor: PosePredictor, people: CocoKeypoints, flip_test: bool
) -> tuple[dict[str, Tensor], Tensor]:
    batches, maps = [], []
    for batch in pose_loader(people, 64):
        images = normalize_images(batch["image"])
        heatmaps = predictor.plain(images)
        if flip_test:
            codec, indices = predictor.codec, predictor.skeleton.flip_indices
            mirrored = codec.flip(predictor.plain(images.flip(-1)), indices)
            heatmaps = codec.average(heatmaps, mirrored)
        batches.append(batch)
        maps.append(heatmaps)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}, torch.cat(
        maps
    )


if __name__ == "__main__":
    main()

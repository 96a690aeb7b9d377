"""Skeleton pictures and keypoints of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import track

from cycledistill._files import replacing_folder
from cycledistill_pose.drawing import draw_skeleton, save_picture
from cycledistill_pose.prediction import PosePredictor
from cycledistill_pose.prediction._predictor import read_rgb

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def predict(
    source: Annotated[Path, tyro.conf.Positional],
    checkpoint: Path,
    out: Path,
    num_cycles: int = 1,
    flip_test: bool = False,
) -> None:
    """Draw the skeleton of the person in each image, and write results in COCO's format.

    The output folder appears whole or not at all, and must not exist.

    Args:
        source: An image, or a folder of images; each is taken as one person.
        checkpoint: Folder of a plain network.
        out: Folder to write: a picture for each image, and results.json.
        num_cycles: Passes through the blocks.
        flip_test: Average with the outputs for the mirrored image.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    images = [source]
    if source.is_dir():
        images = sorted(path for path in source.iterdir() if path.suffix.lower() in _ENDINGS)
        if not images:
            raise ValueError(f"{source} has no images ({', '.join(_ENDINGS)})")
    predictor = PosePredictor.from_pretrained(
        checkpoint, num_cycles=num_cycles, flip_test=flip_test
    )
    results = []
    with replacing_folder(out) as temporary:
        for number, path in enumerate(track(images, description="predict"), 1):
            pixels = picture = read_rgb(path)
            found = predictor(pixels)
            for points, scores in zip(found.keypoints, found.scores, strict=True):
                picture = draw_skeleton(picture, points, scores, predictor.skeleton)
                rows = [
                    [*map(float, point), float(score)]
                    for point, score in zip(points, scores, strict=True)
                ]
                results.append(
                    {
                        "image_id": number,
                        "file_name": path.name,
                        "category_id": 1,
                        "keypoints": [value for row in rows for value in row],
                        "score": float(scores.mean()),
                    }
                )
            save_picture(temporary / f"{path.name}.png", picture)
        (temporary / "results.json").write_text(json.dumps(results) + "\n")
    print(f"{len(images)} images: {out}")

"""The kept weights of reported runs: in the repository, loaded by key, scored on other images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from experiments._image_people import channels_first
from experiments._image_run import ImageRun
from experiments._image_train import GOALS
from experiments._images import read_folder
from experiments._people import People, read_people
from experiments._results import save_weights, weights_file
from experiments._study import Study
from experiments._vit import SIZES, SeededViT


@dataclass(frozen=True)
class Kept:
    """A trained network and how it wants its images.

    Attributes:
        config: Size and cycles; without its teachers.
        weights: By timm's names: what timm's ``load_state_dict`` takes, but for ``later.``, which
            later cycles have alone.
        mean: Of each channel, `[3]`, in grey levels from 0 to 255.
        deviation: Likewise.
    """

    config: ImageRun
    weights: dict[str, Tensor]
    mean: Tensor
    deviation: Tensor

    @torch.no_grad()
    def predict(self, images: Tensor, cycles: int | None = None) -> Tensor:
        """Predictions for images uint8; ``cycles``: None for those in use.

        Logits `[B, 10]` for `[B, 3, 32, 32]`, or heatmaps `[B, 14, 256]` for `[B, 3, 64, 64]`.
        """
        normed = (images.float() - self.mean[:, None, None]) / self.deviation[:, None, None]
        model = SeededViT(self.config, {name: value[None] for name, value in self.weights.items()})
        return model.cycles(normed[None], cycles or self.config.used)[0].outputs[0]


def keep(studies: Iterable[Study], work: Path, folder: Path) -> list[Path]:
    """Write the weights of the studies' ``kept`` variants, first seed, that are done here.

    Args:
        studies: Studies of the quick loop, and others, which keep nothing.
        work: Where runs leave their weights.
        folder: Where they are kept, as ``KEY.safetensors``.

    Returns:
        The files written.
    """
    written = []
    for study in studies:
        for name in study.kept:
            config = study.run(name, study.seeds[0])
            assert isinstance(config, ImageRun)
            file = folder / f"{config.key}.safetensors"
            if file.exists() or not weights_file(config.key, work).exists():
                continue
            data = GOALS[config.task](config, [], work, "cpu").images
            about = {
                "config": json.dumps(config.as_dict()),
                "mean": json.dumps(data.mean.flatten().tolist()),
                "deviation": json.dumps(data.deviation.flatten().tolist()),
            }
            save_weights(load_file(weights_file(config.key, work)), file, about)
            written.append(file)
    return written


def load_kept(key: str, folder: Path) -> Kept:
    """The network of a record.

    Raises:
        FileNotFoundError: The record's weights are not kept.
    """
    file = folder / f"{key}.safetensors"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.safetensors")))
        raise FileNotFoundError(f"there is no {file}; kept are the weights of {known or 'no run'}")
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    config = ImageRun(
        **{**json.loads(about["config"]), "teachers": (), "warm": False, "views": None}
    )
    mean, deviation = (torch.tensor(json.loads(about[name])) for name in ("mean", "deviation"))
    return Kept(config, load_file(file), mean, deviation)


def score(kept: Kept, images: Path, annotations: Path | None = None) -> dict[str, float]:
    """Percent after 1, 2, ... cycles, at least as many as are in use: top-1 accuracy, or PCK@0.1.

    Args:
        kept: The network.
        images: Folder with CLASS/*.jpg (or png), the ten classes of CIFAR-10, 32x32 pixels; or of
            the people's images.
        annotations: The people, with LSPET's keypoints, as COCO-format JSON.

    Raises:
        ValueError: There are not ten classes of 32x32 pixels, not LSPET's keypoints, or annotations
            are lacking or too many.
    """
    of_people = kept.config.of_people
    if of_people != (annotations is not None):
        raise ValueError(
            f"the network is for {'people' if of_people else 'classes'}: expected "
            f"{'--annotations' if of_people else 'no --annotations'}, got {annotations}"
        )
    split: Any = read_folder(images) if annotations is None else _people_in(annotations, images)
    if not of_people:
        classes, size = int(split.labels.max()) + 1, split.images.shape[-2:]
        if classes != 10 or size != (32, 32):
            raise ValueError(
                f"{images} has {classes} folders of classes, of {size[1]}x{size[0]} px, expected "
                "CIFAR-10's 10 of 32x32 px"
            )
    found = {}
    for cycles in range(1, max(2, kept.config.cycles) + 1):
        outputs = torch.cat([kept.predict(part, cycles) for part in split.images.split(500)])
        percent = GOALS[kept.config.task].score(outputs[None], split)
        found[f"{kept.config.metric}/{cycles}"] = float(percent)
    return found


def _people_in(annotations: Path, images: Path) -> People:
    people, _ = read_people(annotations, images)
    count = people.keypoints.shape[1]
    if count != SIZES["lspet"].read:
        raise ValueError(f"{annotations}: expected LSPET's 14 keypoints, got {count}")
    return channels_first(people)

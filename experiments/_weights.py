"""The kept weights of reported runs: packed for the repository, loaded by key, scored on images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from experiments._image_classes import Classes
from experiments._image_run import ImageRun
from experiments._images import read_folder
from experiments._results import save_weights, weights_file
from experiments._study import Study
from experiments._vit import SeededViT


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
        """Logits `[B, 10]` of images `[B, 3, 32, 32]` uint8; ``cycles``: None for those in use."""
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
            data = Classes(config, [], work, "cpu").images
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
    config = ImageRun(**{**json.loads(about["config"]), "teachers": (), "warm": False})
    mean, deviation = (torch.tensor(json.loads(about[name])) for name in ("mean", "deviation"))
    return Kept(config, load_file(file), mean, deviation)


def score(kept: Kept, images: Path) -> dict[str, float]:
    """Top-1 accuracy in percent after 1, 2, ... cycles, at least as many as are in use.

    Args:
        kept: The network.
        images: Folder with CLASS/*.jpg (or png), the ten classes of CIFAR-10, 32x32 pixels.

    Raises:
        ValueError: There are not ten classes.
    """
    split = read_folder(images)
    classes = int(split.labels.max()) + 1
    if classes != 10:
        raise ValueError(f"{images} has {classes} folders of classes, expected CIFAR-10's 10")
    found = {}
    for cycles in range(1, max(2, kept.config.cycles) + 1):
        logits = torch.cat([kept.predict(part, cycles) for part in split.images.split(500)])
        right = logits.argmax(1) == split.labels
        found[f"accuracy/{cycles}"] = 100 * right.double().mean().item()
    return found

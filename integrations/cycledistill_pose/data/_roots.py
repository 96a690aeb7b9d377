"""Where the public datasets keep their files, and what to do when they are not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_COCO_ANNOTATIONS = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
_COCO_IMAGES = "http://images.cocodataset.org/zips/{split}2017.zip"
_CROWDPOSE = "https://github.com/Jeff-sjtu/CrowdPose"


class PoseFiles(NamedTuple):
    """One split of a dataset."""

    annotations: Path
    images: Path


def check_coco_root(
    root: str | os.PathLike[str], splits: Sequence[str] = ("train", "val")
) -> dict[str, PoseFiles]:
    """Find the keypoint files of COCO 2017 below ``root``.

    >>> check_coco_root("data/nowhere")
    Traceback (most recent call last):
      ...
    FileNotFoundError: root: there is no folder data/nowhere

    The layout is COCO's own: ``annotations/person_keypoints_{train,val}2017.json``,
    ``train2017/*.jpg`` and ``val2017/*.jpg``.

    Returns:
        For each split, where its annotations and images are.

    Raises:
        FileNotFoundError: Lists what is missing and where to get it.
    """
    found = {
        split: PoseFiles(
            Path(root) / "annotations" / f"person_keypoints_{split}2017.json",
            Path(root) / f"{split}2017",
        )
        for split in splits
    }
    needed: dict[Path, str] = {}
    for split, files in found.items():
        needed[files.annotations] = _COCO_ANNOTATIONS
        needed[files.images] = _COCO_IMAGES.format(split=split)
    _require(Path(root), needed, "COCO 2017 keypoints")
    return found


def check_crowdpose_root(
    root: str | os.PathLike[str], splits: Sequence[str] = ("train", "val", "test")
) -> dict[str, PoseFiles]:
    """Find the files of CrowdPose below ``root``.

    The layout is ``annotations/crowdpose_{train,val,test}.json`` (or the same below ``json/``)
    and ``images/*.jpg``.

    Returns:
        For each split, where its annotations and images are.

    Raises:
        FileNotFoundError: Lists what is missing and where to get it.
    """
    folder = Path(root) / "annotations"
    if not folder.is_dir() and (Path(root) / "json").is_dir():
        folder = Path(root) / "json"
    images = Path(root) / "images"
    found = {split: PoseFiles(folder / f"crowdpose_{split}.json", images) for split in splits}
    needed = [files.annotations for files in found.values()]
    _require(Path(root), dict.fromkeys([*needed, images], _CROWDPOSE), "CrowdPose")
    return found


def _require(root: Path, needed: dict[Path, str], name: str) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"root: there is no folder {root}")
    missing = [path for path in needed if not path.exists()]
    if missing:
        lines = [f"  {path.relative_to(root)}  from {needed[path]}" for path in missing]
        raise FileNotFoundError(
            "\n".join([f"{root} is not a complete copy of {name}. Missing:", *lines])
        )

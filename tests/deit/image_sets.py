"""Small sets of images in the forms that timm reads by a prefix."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def picture(grey: int, side: int = 32) -> Image.Image:
    """One shade of grey, by which an image is known again."""
    return Image.fromarray(np.full((side, side, 3), grey, dtype=np.uint8))


def hugging_face_folder(root: Path, train: int = 12, val: int = 6) -> Path:
    """Folders as `datasets.load_dataset` reads them; image i of a split has shade 5 i."""
    for split, count in (("train", train), ("validation", val)):
        for index in range(count):
            folder = root / split / CLASSES[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            picture(5 * index).save(folder / f"{index:03d}.png")
    return root


def shards(root: Path, train: int = 4, val: int = 2, images: int = 6, info: bool = True) -> Path:
    """Tar shards with ``images`` each; image i of a split has shade 5 i and label i % 3."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, count in (("train", train), ("validation", val)):
        names = [f"{split}-{number}.tar" for number in range(count)]
        for number, name in enumerate(names):
            with tarfile.open(root / name, "w") as tar:
                for index in range(number * images, (number + 1) * images):
                    file = io.BytesIO()
                    picture(5 * index).save(file, "png")
                    add(tar, f"{index:04d}.png", file.getvalue())
                    add(tar, f"{index:04d}.cls", str(index % 3).encode())
        splits[split] = {
            "name": split,
            "num_samples": count * images,
            "filenames": names,
            "shard_lengths": [images] * count,
        }
    if info:
        (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))

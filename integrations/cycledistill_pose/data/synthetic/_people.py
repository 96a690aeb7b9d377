"""Drawn people without end, as samples or as COCO files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from cycledistill._files import replacing_folder
from cycledistill_pose.data._augmentation import PoseAugmentation
from cycledistill_pose.data._sample import Cropping, EpochClock
from cycledistill_pose.data._warp import crop_image
from cycledistill_pose.data.synthetic._scene import Scene, draw_scene
from cycledistill_pose.skeletons import COCO


class SyntheticPeople(Dataset[dict[str, Tensor]]):
    """People drawn on the spot, with COCO's 17 keypoints: jointed, dressed, lit and in clutter.

    >>> from cycledistill_pose.data import SyntheticPeople
    >>> people = SyntheticPeople(1000, input_size=(96, 128))
    >>> sample = people[3]
    >>> sample["image"].shape, int(sample["visible"].sum()) > 4
    (torch.Size([128, 96, 3]), True)

    Each sample is a picture of its own with one to four people, sometimes behind something, of
    which the most visible person is cut out; the dict is that of `CocoKeypoints`. A body has
    random proportions and a pose inside of what joints can do, and is seen from any side. Faces,
    collars and shoes tell front from back, so left and right can be learnt. Everything follows
    from ``seed`` and the index (and the epoch, if ``fresh``). Use ``write_coco`` for files,
    which is also the way to measure AP on these people.

    Args:
        length: number of samples.
        input_size: (width, height) of the model's input.
        augmentation: None draws people as they are.
        padding: factor by which boxes grow.
        udp: crop for unbiased data processing.
        image_size: (width, height) of the pictures that people are cut from; by default about
            three quarters of the input.
        fresh: other people in every epoch.
        easy: one whole upright person in each picture, seen from the front, with nothing in the
            way: a first task for very small networks.
        seed: of everything.

    Raises:
        ValueError: when ``length`` or a size is not above 0.
    """

    def __init__(
        self,
        length: int,
        input_size: tuple[int, int] = (192, 256),
        *,
        augmentation: PoseAugmentation | None = None,
        padding: float = 1.25,
        udp: bool = False,
        image_size: tuple[int, int] | None = None,
        fresh: bool = False,
        easy: bool = False,
        seed: int = 0,
    ) -> None:
        width, height = image_size or (round(0.75 * input_size[0]), round(0.7 * input_size[1]))
        if length < 1 or min(width, height) < 16:
            raise ValueError(
                f"length must be above 0 and pictures at least 16 px, got length={length}, "
                f"image_size={(width, height)}"
            )
        self.skeleton = COCO
        self.input_size = input_size
        self.fresh = fresh
        self.easy = easy
        self.seed = seed
        self._image_size = (width, height)
        self._length = length
        self._cropping = Cropping(COCO, input_size, padding, udp, augmentation)
        self._clock = EpochClock()

    def __len__(self) -> int:
        """The number of samples."""
        return self._length

    @property
    def epoch(self) -> int:
        """The epoch whose augmentation (and people, if ``fresh``) are drawn."""
        return self._clock.get()

    def set_epoch(self, epoch: int) -> None:
        """Draw those of this epoch from now on, in all workers."""
        self._clock.set(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One person, drawn and cut out."""
        if not -self._length <= index < self._length:
            raise IndexError(f"index {index} of {self._length} people")
        index %= self._length
        epoch = self.epoch
        stream = epoch if self.fresh else 0
        scene = _scene(self.seed, index, self._image_size, stream, self.easy)
        person = scene.people[0]
        keypoints = person.keypoints[:, :2]
        visible = (person.keypoints[:, 2] > 0).astype(np.float32)
        key = (self.seed, epoch, index)
        matrix, flip = self._cropping.draw_matrix(key, person.box_xyxy, keypoints, visible)
        crop = crop_image(scene.image, matrix, self.input_size)
        return self._cropping.sample(
            crop, matrix, flip, keypoints, visible, person.box_xyxy, 1.0, index, index
        )

    @staticmethod
    def coco(
        num_images: int,
        seed: int = 0,
        image_size: tuple[int, int] = (200, 240),
        easy: bool = False,
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.uint8]]]:
        """COCO-format annotations and pictures (by file name) in memory, for `CocoKeypoints`.

        >>> annotations, images = SyntheticPeople.coco(2, seed=5)
        >>> sorted(images), len(annotations["annotations"]) >= 2
        (['000000000001.jpg', '000000000002.jpg'], True)
        """
        content, images = _category(), {}
        for number in range(1, num_images + 1):
            scene = _scene(seed, number, image_size, easy=easy)
            entry = _describe(content, scene, number)
            images[entry["file_name"]] = scene.image
        return content, images

    @staticmethod
    def write_coco(
        root: str | os.PathLike[str],
        num_train: int,
        num_val: int,
        seed: int = 0,
        image_size: tuple[int, int] = (200, 240),
    ) -> Path:
        """Write a folder in COCO's layout, whole or not at all; nothing if it is there already.

        ``annotations/person_keypoints_{train,val}2017.json``, ``train2017/``, ``val2017/``. The
        same arguments give the same files, and a folder written with other arguments is an error.

        Args:
            root: folder to write; must not exist, or be one that this wrote.
            num_train: pictures to train on, with 1.6 people each on the average.
            num_val: pictures to test on.
            seed: of everything; train and val never share a picture.
            image_size: (width, height).

        Returns:
            the folder.

        Raises:
            FileExistsError: when the folder is there and is something else.
        """
        root = Path(root)
        arguments = {"train": num_train, "val": num_val, "seed": seed, "size": list(image_size)}
        recipe = json.dumps(arguments | {"version": 1})
        marker = root / "synthetic.json"
        if marker.is_file() and marker.read_text() == recipe:
            return root
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise FileExistsError(
                f"{root} exists, but was not written with {recipe}; remove it or name another"
            )
        with replacing_folder(root) as partial:
            (partial / "annotations").mkdir()
            for offset, (split, count) in enumerate((("train", num_train), ("val", num_val))):
                content = _category()
                (partial / f"{split}2017").mkdir()
                for number in range(1, count + 1):
                    scene = _scene(seed, number, image_size, offset + 1)
                    entry = _describe(content, scene, number + offset * num_train)
                    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
                    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
                    (partial / f"{split}2017" / entry["file_name"]).write_bytes(data.tobytes())
                path = partial / "annotations" / f"person_keypoints_{split}2017.json"
                path.write_text(json.dumps(content))
            (partial / "synthetic.json").write_text(recipe)
        return root


def _scene(
    seed: int, number: int, image_size: tuple[int, int], stream: int = 0, easy: bool = False
) -> Scene:
    return draw_scene(np.random.default_rng((seed, stream, number, 1)), *image_size, easy=easy)


def _category() -> dict[str, Any]:
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO.keypoint_names),
        "skeleton": [[a + 1, b + 1] for a, b in COCO.limbs],
    }
    info = {"description": "synthetic people"}
    return {"info": info, "images": [], "annotations": [], "categories": [category]}


def _describe(content: dict[str, Any], scene: Scene, number: int) -> dict[str, Any]:
    """Add a picture and its people to a COCO file; returns the picture's entry."""
    height, width = scene.image.shape[:2]
    name = f"{number:012d}.jpg"
    entry = {"id": number, "file_name": name, "width": width, "height": height}
    content["images"].append(entry)
    for place, person in enumerate(scene.people):
        left, top, right, bottom = (float(v) for v in person.box_xyxy)
        values = [[float(x), float(y), int(v)] for x, y, v in person.keypoints]
        content["annotations"].append(
            {
                "id": 10 * number + place,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "area": person.area,
                "bbox": [left, top, right - left, bottom - top],
                "num_keypoints": sum(v > 0 for _, _, v in values),
                "keypoints": [v for keypoint in values for v in keypoint],
            }
        )
    return entry

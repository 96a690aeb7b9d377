"""Generated people: as samples, as COCO files, and as pictures to look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from cycledistill.saving._files import replacing_folder
from cycledistill_pose.data._augmentation import PoseAugmentation
from cycledistill_pose.data._crop import crop_image
from cycledistill_pose.data._sample import Cropping, Person
from cycledistill_pose.data.synthetic._scene import Scene, draw_scene
from cycledistill_pose.drawing import draw_skeleton
from cycledistill_pose.drawing._picture import encode_picture
from cycledistill_pose.skeletons import COCO


class SyntheticPeople(Dataset[dict[str, Tensor]]):
    """Generated people with COCO's 17 keypoints: jointed, dressed, lit and in clutter.

    >>> from cycledistill_pose.data import SyntheticPeople
    >>> people = SyntheticPeople(1000, input_size=(96, 128))
    >>> sample = people[3]
    >>> sample["image"].shape, int(sample["visible"].sum()) > 4
    (torch.Size([128, 96, 3]), True)

    Each sample is the most visible person of a picture of its own, which shows one to four people,
    sometimes behind something; the dict is that of `CocoKeypoints`. Bodies have random proportions,
    anatomically possible poses and any orientation. Faces, collars and feet distinguish front and
    back, so left and right can be learnt. Everything depends on ``seed`` and index only (and on the
    epoch, if ``fresh``). ``coco`` and ``write_coco`` give annotations to measure AP with.

    Args:
        length: Number of samples.
        input_size: (width, height) of the model's input.
        augmentation: None takes people as they are drawn.
        padding: Factor by which boxes grow.
        udp: Crop for unbiased data processing.
        image_size: (width, height) of the pictures that people are cut from; by default about
            three quarters of the input.
        fresh: New people in every epoch.
        easy: One whole, upright person in each picture, seen from the front, with nothing in the
            way: an easy task for very small networks.
        seed: Seed of everything.

    Attributes:
        epoch: The epoch whose augmentation (and people, if ``fresh``) are drawn.

    Raises:
        ValueError: ``length`` is below 1 or a picture smaller than 16 px.
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
                f"expected length above 0 and pictures of at least 16 px, got length={length}, "
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
        self.epoch = 0

    def __len__(self) -> int:
        """The number of samples."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Draw the samples of this epoch from now on."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One person, drawn and cut out."""
        if not -self._length <= index < self._length:
            raise IndexError(f"index {index} of {self._length} people")
        index %= self._length
        stream = self.epoch if self.fresh else 0
        scene = _scene(self.seed, index, self._image_size, stream, self.easy)
        found = scene.people[0]
        visible = (found.keypoints[:, 2] > 0).astype(np.float32)
        person = Person(found.box_xyxy, found.keypoints[:, :2], visible, 1.0, index, index)
        matrix, flip = self._cropping.draw_matrix((self.seed, self.epoch, index), person)
        crop = crop_image(scene.image, matrix, self.input_size)
        return self._cropping.sample(crop, matrix, flip, person)

    @staticmethod
    def coco(
        num_images: int, seed: int = 0, image_size: tuple[int, int] = (200, 240), easy: bool = False
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.uint8]]]:
        """COCO-format annotations and pictures (by file name) in memory, for `CocoKeypoints`.

        >>> annotations, images = SyntheticPeople.coco(2, seed=5)
        >>> sorted(images), len(annotations["annotations"]) >= 2
        (['000000000001.jpg', '000000000002.jpg'], True)
        """
        content, images = _new_file(), {}
        for number in range(1, num_images + 1):
            scene = _scene(seed, number, image_size, easy=easy)
            images[_describe(content, scene, number)] = scene.image
        return content, images

    @staticmethod
    def write_coco(
        root: str | os.PathLike[str],
        num_train: int,
        num_val: int,
        seed: int = 0,
        image_size: tuple[int, int] = (200, 240),
    ) -> Path:
        """Write a folder in COCO's layout, unless the same folder exists already.

        ``annotations/person_keypoints_{train,val}2017.json``, ``train2017/``, ``val2017/``. The
        same arguments give the same files, and a folder written with other arguments is an error.

        Args:
            root: Folder to write: a new one, or one written by this function.
            num_train: Pictures to train on, with 1.6 people each on average.
            num_val: Pictures to test on.
            seed: Seed of everything; train and val never share a picture.
            image_size: (width, height).

        Returns:
            The folder.

        Raises:
            FileExistsError: The folder exists and was not written with the same arguments.
        """
        root = Path(root)
        arguments = {"train": num_train, "val": num_val, "seed": seed, "size": list(image_size)}
        recipe = json.dumps(arguments | {"version": 2})
        marker = root / "synthetic.json"
        if marker.is_file() and marker.read_text() == recipe:
            return root
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise FileExistsError(
                f"{root} exists, but was not written with {recipe}; remove it or name another"
            )
        with replacing_folder(root) as partial:
            (partial / "annotations").mkdir()
            splits = (("train", num_train), ("val", num_val))
            for stream, (split, count) in enumerate(splits, start=1):
                content = _new_file()
                (partial / f"{split}2017").mkdir()
                for number in range(1, count + 1):
                    scene = _scene(seed, number, image_size, stream)
                    name = _describe(content, scene, number + (stream - 1) * num_train)
                    (partial / f"{split}2017" / name).write_bytes(encode_picture(scene.image))
                path = partial / "annotations" / f"person_keypoints_{split}2017.json"
                path.write_text(json.dumps(content))
            (partial / "synthetic.json").write_text(recipe)
        return root


def contact_sheet(
    columns: int = 8,
    rows: int = 4,
    image_size: tuple[int, int] = (200, 240),
    skeletons: bool = True,
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """Pictures of synthetic people in a grid `[H, W, 3]`, the lower half with their keypoints.

    >>> contact_sheet(columns=2, rows=2, image_size=(50, 60)).shape
    (120, 100, 3)

    Args:
        columns: Pictures in a row.
        rows: Rows.
        image_size: (width, height) of each.
        skeletons: Whether the lower half shows the keypoints that are labelled.
        seed: Seed of the pictures.
    """
    pictures = []
    for number in range(columns * rows):
        scene = _scene(seed, number, image_size)
        image = scene.image
        if skeletons and number >= columns * (rows // 2):
            for person in scene.people:
                points, visible = person.keypoints[:, :2], person.keypoints[:, 2]
                image = draw_skeleton(image, points, visible, threshold=0, thickness=1)
        pictures.append(image)
    lines = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    return np.concatenate(lines, 0)


def _scene(
    seed: int, number: int, image_size: tuple[int, int], stream: int = 0, easy: bool = False
) -> Scene:
    return draw_scene(np.random.default_rng((seed, stream, number, 1)), *image_size, easy=easy)


def _new_file() -> dict[str, Any]:
    """A COCO file without pictures."""
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO.keypoint_names),
        "skeleton": [[a + 1, b + 1] for a, b in COCO.limbs],
    }
    info = {"description": "synthetic people"}
    return {"info": info, "images": [], "annotations": [], "categories": [category]}


def _describe(content: dict[str, Any], scene: Scene, number: int) -> str:
    """Add a picture and its people to a COCO file; returns the picture's name."""
    height, width = scene.image.shape[:2]
    name = f"{number:012d}.jpg"
    content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
    for place, person in enumerate(scene.people):
        left, top, right, bottom = person.box_xyxy.tolist()
        content["annotations"].append(
            {
                "id": 10 * number + place,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "area": person.area,
                "bbox": [left, top, right - left, bottom - top],
                "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
                "keypoints": [v for x, y, v in person.keypoints.tolist() for v in (x, y, int(v))],
            }
        )
    return name

"""People of a COCO-format file as crops for training and testing."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from cycledistill._checks import check_choice
from cycledistill_pose.annotations import BoxFile, KeypointFile, ListedImage
from cycledistill_pose.annotations._file import Annotations
from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.data._augmentation import PoseAugmentation
from cycledistill_pose.data._crop import crop_image
from cycledistill_pose.data._image_store import ImageSource, ImageStore
from cycledistill_pose.data._people import NOT_LISTED, People
from cycledistill_pose.data._picture import BadImageError, ImageArray
from cycledistill_pose.data._sample import Cropping
from cycledistill_pose.skeletons import Skeleton


class CocoKeypoints(Dataset[dict[str, Tensor]]):
    """Crops of people (or of anything else with keypoints) from a COCO-format file.

    >>> from cycledistill_pose.data import CocoKeypoints, PoseAugmentation
    >>> annotations = {
    ...     "images": [{"id": 7, "file_name": "a.jpg", "width": 80, "height": 60}],
    ...     "categories": [{"id": 1, "name": "lamp", "keypoints": ["foot", "bulb"]}],
    ...     "annotations": [
    ...         {
    ...             "id": 3,
    ...             "image_id": 7,
    ...             "category_id": 1,
    ...             "bbox": [20, 10, 20, 40],
    ...             "keypoints": [30, 48, 2, 31, 14, 2],
    ...         }
    ...     ],
    ... }
    >>> images = {"a.jpg": np.zeros((60, 80, 3), np.uint8)}
    >>> lamps = CocoKeypoints(annotations, images, input_size=(96, 128))
    >>> sample = lamps[0]
    >>> sample["image"].shape, sample["keypoints"].round().tolist()
    (torch.Size([128, 96, 3]), [[48.0, 110.0], [51.0, 23.0]])
    >>> lamps.report()["people"]
    1

    A sample is a dict (a batch of a loader has a leading `B`):

    - ``image`` uint8 `[H, W, 3]`, RGB; ``normalize_images`` makes floats of it on the device
    - ``keypoints`` float32 `[K, 2]`, px of the input; 0 where not labelled
    - ``visible`` float32 `[K]`, 1 where labelled (seen or occluded), else 0
    - ``box_xyxy`` float32 `[4]`, px of the image; ``box_score`` float32, 1 for ground truth
    - ``image_id``, ``annotation_id`` int64 (-1 for a detected box)
    - ``crop_matrix`` float32 `[2, 3]`, px of the image -> px of the input

    As in the top-down toolboxes, crowds, people without labelled keypoints and boxes that are empty
    after clipping to the image are left out, in training and in testing; average precision still
    counts them as pycocotools does. With ``detections`` there is one sample for each detected box,
    without labels. ``report()`` counts everything that is left out or looks wrong. Labelled
    keypoints more than one pixel outside their image count as not labelled. Without flip pairs
    there is no mirroring.

    The randomness of a sample depends only on (``seed``, epoch, index); call ``set_epoch`` before
    each epoch. `pose_loader` and ``cycledistill.training.fit`` send the epoch to their workers with
    every index, so samples depend neither on the number of workers nor on what was loaded before.
    The workers of other loaders have copies of the dataset: restart them each epoch (no
    ``persistent_workers``).

    Attributes:
        epoch: The epoch whose augmentation is drawn.

    Args:
        annotations: COCO-format JSON: a path, the loaded dict, a `KeypointFile`, or a list of these
            to be joined (CrowdPose trains on train + val).
        images: Folder that the file names are relative to, or a mapping from file name to
            encoded bytes, an RGB array `[H, W, 3]` or a Pillow image.
        input_size: (width, height) of the model's input.
        skeleton: By default read from the file's category.
        detections: Boxes of a detector, a path, a `BoxFile` or a list of
            ``{"image_id", "category_id", "bbox" (xywh), "score"}``.
        detection_threshold: Boxes with lower scores are ignored.
        augmentation: None for testing.
        padding: Factor by which boxes grow.
        udp: Crop for unbiased data processing, see ``crop_matrix``.
        category: Name of the category to read, where several have keypoints.
        reduced_decoding: Decode at half, quarter or eighth resolution where the crop is shrunk
            that much anyway. Faster for large people, whose crops differ by 1 to 6 grey levels of
            255 (they are smoother than bilinear sampling of the full image).
        crop_cache: Folder that stores decoded images, so that every image is decoded once instead
            of once an epoch. Samples stay bit-identical. It takes four bytes a pixel, can be
            deleted at any time, and can be shared by several processes.
        bad_images: "error" raises at once for missing image files, and on loading for one that is
            truncated, broken or not of the annotated size. "skip" reads every image beforehand and
            leaves out all people in bad ones.
        seed: Seed of the augmentation.

    Raises:
        FileNotFoundError: A file or folder is missing.
        BadImageError: An image cannot be decoded or is of another size (see ``bad_images``).
        ValueError: A file is not as described above, or no people are left.
    """

    def __init__(
        self,
        annotations: Annotations,
        images: ImageSource,
        input_size: tuple[int, int] = (192, 256),
        skeleton: Skeleton | None = None,
        *,
        detections: Any = None,
        detection_threshold: float = 0.0,
        augmentation: PoseAugmentation | None = None,
        padding: float = 1.25,
        udp: bool = False,
        category: str | None = None,
        reduced_decoding: bool = False,
        crop_cache: str | os.PathLike[str] | None = None,
        bad_images: Literal["error", "skip"] = "error",
        seed: int = 0,
    ) -> None:
        if detections is not None and augmentation is not None:
            raise ValueError(
                "detections have no keypoints to train on: give either detections or augmentation"
            )
        check_choice("bad_images", bad_images, "error", "skip")
        file = KeypointFile.read(annotations, category, skeleton)
        self._title = file.title
        self.category_id = file.category.id
        self.skeleton = file.skeleton
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self._cropping = Cropping(self.skeleton, self.input_size, padding, udp, augmentation)
        self.reduced_decoding = reduced_decoding
        self.seed = seed
        self._images = ImageStore(images, crop_cache)
        source = file.title
        if detections is None:
            self._people = People.annotated(file)
        else:
            boxes = BoxFile.read(detections, "detections")
            source = boxes.title
            self._people = People.detected(file, boxes, detection_threshold)
        self._drop_bad_images(bad_images, strict=detections is None)
        if len(self._people) == 0:
            raise ValueError(f"{source}: no people to load; {self.report()}")
        self.epoch = 0

    def _drop_bad_images(self, bad_images: str, strict: bool) -> None:
        people, used = self._people, self._people.used_images()
        if bad_images == "error":
            names = self._images.missing([str(image.file_name) for image in used])
            if names:
                raise FileNotFoundError(
                    f"{self._title}: {len(names)} of {len(used)} images are not in "
                    f"{self._images.folder or 'the mapping given'}, {names[0]} among them; "
                    'bad_images="skip" (--skip-bad-images) leaves them out'
                )
            if strict and people.counts[NOT_LISTED]:
                raise ValueError(
                    f"{self._title}: {people.counts[NOT_LISTED]} annotations have an image_id that "
                    'is not among its images; bad_images="skip" (--skip-bad-images) leaves them out'
                )
            return
        missing, broken = set(), set()
        for image in used:
            try:
                self._images.read(str(image.file_name), image.size, reduce=8)
            except FileNotFoundError:
                missing.add(image.id)
            except BadImageError:
                broken.add(image.id)
        people.drop_images(missing, "skipped: image missing")
        people.drop_images(broken, "skipped: image broken")

    def __len__(self) -> int:
        """The number of people, or of detected boxes."""
        return len(self._people)

    @property
    def annotation_ids(self) -> list[int]:
        """The annotation's id of each person, -1 for a detected box."""
        return [int(number) for number in self._people.annotation_ids]

    @property
    def rows(self) -> list[int]:
        """The place of each person among the file's people, -1 for a detected box."""
        return [int(row) for row in self._people.rows]

    def set_epoch(self, epoch: int) -> None:
        """Draw the augmentation of this epoch from now on."""
        self.epoch = epoch

    def report(self) -> dict[str, int]:
        """How many people and images there are, what was left out and why."""
        people = self._people
        used = {"people": len(people), "images": len(np.unique(people.image_index))}
        return used | dict(sorted((key, n) for key, n in people.counts.items() if n))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """The people of a batch; an image in which several of them are is decoded once."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, index in enumerate(indices):
            places[int(self._people.image_index[index])].append(place)
        samples: dict[int, dict[str, Tensor]] = {}
        for of_image in places.values():
            decoded: dict[int, ImageArray] = {}
            samples |= {place: self._sample(indices[place], decoded) for place in of_image}
        return [samples[place] for place in range(len(indices))]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One person, cut out; see the class for what is in it."""
        return self._sample(index, {})

    def _sample(self, index: int, decoded: dict[int, ImageArray]) -> dict[str, Tensor]:
        """``decoded`` holds the image by how much smaller it is, and gets what it lacks."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} people")
        index %= len(self)
        person = self._people.person(index)
        matrix, flip = self._cropping.draw_matrix((self.seed, self.epoch, index), person)
        image = self._people.images[self._people.image_index[index]]
        crop = self._crop(image, matrix, decoded)
        return self._cropping.sample(crop, matrix, flip, person)

    def _crop(
        self, image: ListedImage, matrix: FloatArray, decoded: dict[int, ImageArray]
    ) -> ImageArray:
        """RGB `[H, W, 3]`, from an image that is decoded no larger than needed."""
        reduce = 1
        if self.reduced_decoding and self._images.is_encoded(str(image.file_name)):
            reduce = reduction(matrix)
            # Pixel i of the reduced image covers pixels reduce * i ... of the full one.
            offset = (reduce - 1) / 2
            matrix = np.column_stack([matrix[:, :2] * reduce, matrix @ [offset, offset, 1.0]])
        if reduce not in decoded:
            decoded[reduce] = self._images.pixels(image, reduce)
        crop = crop_image(decoded[reduce], matrix, self.input_size)
        if crop.shape[2] == 4:  # from the cache
            crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
        return crop


def reduction(matrix: FloatArray) -> int:
    """The largest of 1, 2, 4 and 8 by which an image can shrink without losing detail."""
    (a, b, _), (c, d, _) = matrix.tolist()
    shrink = 1 / math.sqrt(abs(a * d - b * c))
    return max(step for step in (1, 2, 4, 8) if step == 1 or step <= shrink)

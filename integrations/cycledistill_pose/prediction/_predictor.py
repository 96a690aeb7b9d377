"""Keypoints of the people in pictures."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch

from cycledistill import CycleWrapper
from cycledistill._checks import check_count
from cycledistill_pose._checks import check_shape
from cycledistill_pose.annotations._values import FloatArray
from cycledistill_pose.checkpoints import load_plain, save_plain
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec, codec_for
from cycledistill_pose.data import crop_matrix, invert_matrix, normalize_images, transform_points
from cycledistill_pose.data._crop import crop_image
from cycledistill_pose.data._picture import ImageArray, read_rgb
from cycledistill_pose.models import TokenPose, TokenReg
from cycledistill_pose.prediction._cycles import predict_cycles
from cycledistill_pose.skeletons import Skeleton


class Prediction(NamedTuple):
    """Keypoints of N people: `[N, K, 2]` px of the image, and scores `[N, K]`."""

    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class PosePredictor:
    """Predicts the keypoints of people in images.

    ``plain`` is the network; ``model`` is the network itself for a single pass, which several
    threads may share, or a `CycleWrapper` around it. The network may be on any device and of any
    floating-point type: ``predictor.plain.bfloat16()``.

    Args:
        model: The plain network.
        skeleton: Its keypoints.
        codec: Decodes its output.
        num_cycles: Passes through the blocks.
        flip_test: Average with the outputs for the mirrored crops. Ignored, with a warning, if the
            skeleton has no flip pairs.
        batch_size: People in a batch.

    Raises:
        ValueError: ``num_cycles`` or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: TokenPose | TokenReg,
        skeleton: Skeleton,
        codec: HeatmapCodec | RegressionCodec,
        num_cycles: int = 1,
        flip_test: bool = False,
        batch_size: int = 32,
    ) -> None:
        check_count("num_cycles", num_cycles)
        check_count("batch_size", batch_size)
        if flip_test and not skeleton.flip_pairs:
            warnings.warn("flip_test is ignored: the skeleton has no flip pairs", stacklevel=2)
        self.plain = model.eval()
        self.model = model if num_cycles == 1 else CycleWrapper(model, num_cycles, "blocks").eval()
        self.input_size = model.input_size
        self.skeleton = skeleton
        self.codec = codec
        self.num_cycles = num_cycles
        self.flip_test = flip_test
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> PosePredictor:
        """Predict with a plain network that was saved.

        Args:
            source: Its folder, or its name on the Hugging Face Hub (``"owner/name"``).
            **options: As for the class; ``num_cycles`` is by default what the network was trained
                to be used with.

        Raises:
            FileNotFoundError: A file is missing, or there is neither folder nor model on the hub.
            ValueError: A file is broken, or of another kind.
        """
        model, skeleton, written = load_plain(source)
        options.setdefault("num_cycles", model.cycles_in_use)
        return cls(model, skeleton, codec_for(model, **written), **options)

    def save_pretrained(
        self,
        folder: str | Path,
        training: Mapping[str, Any] | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> Path:
        """Write the plain network as a folder that `from_pretrained` and `push_to_hub` take.

        The folder says that it is to be used with ``num_cycles``.

        Args:
            folder: Folder to write; an existing one is replaced if it is empty or contains such a
                network and nothing else.
            training: For the model card, see `save_plain`.
            scores: For the model card, see `save_plain`.

        Raises:
            FileExistsError: There is a file, or a folder with anything else in it.
            ValueError: The network was not made by `create_model`, or has a backbone of its own.
        """
        if self.plain.made_by is None:
            raise ValueError(
                "this network cannot be rebuilt from a name and options: it was not made by "
                "create_model, or was given a backbone"
            )
        about = (*self.plain.made_by, self.skeleton, self.codec.to_dict(), training, scores)
        return save_plain(self.plain, folder, *about, self.num_cycles)

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], boxes_xyxy: Any = ..., size: Any = ...
    ) -> list[Prediction]: ...
    @overload
    def __call__(self, image: Any, boxes_xyxy: Any = ..., size: Any = ...) -> Prediction: ...
    def __call__(
        self, image: Any, boxes_xyxy: Any = None, size: Any = None
    ) -> Prediction | list[Prediction]:
        """Keypoints of the people in an image, or in each of several. Threads may share it.

        Args:
            image: Path, encoded bytes, Pillow image or array: RGB `[H, W, 3]`, grey `[H, W]`, or
                with alpha, 8 or 16 bits. Files and Pillow images are rotated upright by their
                EXIF orientation. A list or tuple (or array `[B, H, W, 3]`) means several images,
                whose people share batches.
            boxes_xyxy: `[N, 4]` px of the image; None treats the whole image as one person. For
                several images, a list of these.
            size: (width, height) of the image that the boxes were measured in, if known. If it is
                that of a photo as stored, on its side, the photo is not rotated, as in training.
                For several images, a list of these.

        Returns:
            Keypoints and scores, all finite; for several images, a list of these.

        Raises:
            BadImageError: An image cannot be decoded, or is not of this size.
            FileNotFoundError: There is no such file.
            ValueError: A box is not 4 numbers, is empty, or lies wholly outside of its image; boxes
                or sizes are not as many as the images; the network is in training mode; or what it
                returns is not finite.
        """
        if self.model.training:
            raise ValueError("the network is in training mode; expected predictor.model.eval()")
        several = isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4
        if not several:
            return self._predict([image], [boxes_xyxy], [size])[0]
        images = list(image)
        return self._predict(
            images, _for_each(images, "boxes_xyxy", boxes_xyxy), _for_each(images, "size", size)
        )

    def _predict(self, images: list[Any], boxes: list[Any], sizes: list[Any]) -> list[Prediction]:
        people = self._people(images, boxes, sizes)
        count = self.skeleton.num_keypoints
        found = [Prediction(np.zeros((0, count, 2), np.float32), np.zeros((0, count), np.float32))]
        owners: list[int] = []
        while batch := list(itertools.islice(people, self.batch_size)):
            indices, crops, matrices = zip(*batch, strict=True)
            owners += indices
            found.append(self._run(np.stack(crops), np.stack(matrices)))
        points, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        own = [np.array(owners) == index for index in range(len(images))]
        return [Prediction(points[people_of], scores[people_of]) for people_of in own]

    def _people(
        self, images: list[Any], boxes: list[Any], sizes: list[Any]
    ) -> Iterator[tuple[int, ImageArray, FloatArray]]:
        """Index of the image, crop and its matrix, person by person; images are read in turn."""
        for index, (image, of_image, size) in enumerate(zip(images, boxes, sizes, strict=True)):
            is_path = isinstance(image, str | os.PathLike)
            title = "" if is_path or len(images) == 1 else f"image {index + 1} of {len(images)}"
            pixels = read_rgb(image, size, title=title)
            height, width = pixels.shape[:2]
            chosen = np.asarray([[0, 0, width, height]] if of_image is None else of_image, float)
            chosen = chosen.reshape(0, 4) if chosen.size == 0 else chosen
            check_shape("boxes_xyxy", chosen, "N 4")
            empty = ~(np.isfinite(chosen).all(1) & (chosen[:, 2:] > chosen[:, :2]).all(1))
            if empty.any():
                raise ValueError(f"boxes_xyxy: {chosen[empty][0].tolist()} has no extent")
            seen = (chosen[:, 2:] > 0).all(1) & (chosen[:, :2] < (width, height)).all(1)
            if not seen.all():
                raise ValueError(
                    f"boxes_xyxy: {chosen[~seen][0].tolist()} lies wholly outside of its image of "
                    f"{width} x {height} px"
                )
            for box in chosen:
                crops, matrices = self.crop(pixels, box[None])
                yield index, crops[0], matrices[0]

    def _run(self, crops: ImageArray, matrices: FloatArray) -> Prediction:
        """Keypoints, in px of the images, and scores of the people in crops `[N, h, w, 3]`."""
        weights = next(self.plain.parameters())
        images = normalize_images(torch.from_numpy(crops).to(weights.device), dtype=weights.dtype)
        flip = self.skeleton.flip_indices if self.flip_test else None
        found = predict_cycles(self.model, images, self.codec, self.num_cycles, flip)[-1]
        in_crops = found[0].double().cpu().numpy()
        points = transform_points(in_crops, invert_matrix(matrices)).astype(np.float32)
        scores = found[1].float().cpu().numpy()
        if not (np.isfinite(points).all() and np.isfinite(scores).all()):
            raise ValueError(
                "the network's output is not finite: expected numbers, got NaN or infinity "
                f"(weights of {weights.dtype} on {weights.device}: broken, or out of range)"
            )
        return Prediction(points, scores)

    def crop(self, pixels: ImageArray, boxes_xyxy: Any = None) -> tuple[ImageArray, FloatArray]:
        """Crop people for the network.

        Args:
            pixels: RGB bytes `[H, W, 3]`.
            boxes_xyxy: `[N, 4]` px of the image, one or more; None takes the whole image.

        Returns:
            RGB bytes `[N, h, w, 3]` of the network's input size, and the maps `[N, 2, 3]` from px
            of the image to px of these.
        """
        height, width = pixels.shape[:2]
        boxes = [[0, 0, width, height]] if boxes_xyxy is None else boxes_xyxy
        matrices = crop_matrix(np.asarray(boxes, float), self.input_size, udp=self.codec.udp_crops)
        crops = [crop_image(pixels, matrix, self.input_size) for matrix in matrices]
        return np.stack(crops), matrices


def _for_each(images: list[Any], name: str, values: Any) -> list[Any]:
    if values is None:
        return [None] * len(images)
    if len(values) != len(images):
        raise ValueError(
            f"{name}: expected one for each of {len(images)} images, got {len(values)}"
        )
    return list(values)

"""Keypoints of the people in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from cycledistill import CycleWrapper
from cycledistill_pose.checkpoints import load_plain, save_plain
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import crop_matrix, invert_matrix, normalize_images, transform_points
from cycledistill_pose.models import TokenPose, TokenReg
from cycledistill_pose.prediction._codec import codec_for
from cycledistill_pose.prediction._cycles import predict_cycles
from cycledistill_pose.prediction._sources import read_image
from cycledistill_pose.skeletons import Skeleton


class Prediction(NamedTuple):
    """Keypoints of N people: `[N, K, 2]` px of the image, and scores `[N, K]`."""

    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class PosePredictor:
    """Call with an image and boxes to get keypoints.

    Args:
        model: The plain network.
        skeleton: Its keypoints.
        codec: Decodes its output.
        num_cycles: Passes through the blocks.
        flip_test: Average with the outputs for the mirrored crops.
        batch_size: People at a time.

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
        for name, value in (("num_cycles", num_cycles), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.model = CycleWrapper(model, num_cycles=num_cycles, blocks="blocks").eval()
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
            source: Its folder, or its name on the Hugging Face hub (``"owner/name"``).
            **options: As for the class.

        Raises:
            FileNotFoundError: A file is missing, or there is neither folder nor model on the hub.
            ValueError: A file is broken, or of another kind.
        """
        model, skeleton, written = load_plain(source)
        return cls(model, skeleton, codec_for(model, **written), **options)

    def save_pretrained(
        self,
        folder: str | Path,
        training: Mapping[str, Any] | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> Path:
        """Write the plain network as a folder that `from_pretrained` and `push_to_hub` take.

        Args:
            folder: Where to; one of the same name is replaced.
            training: For the model card, see `save_plain`.
            scores: For the model card, see `save_plain`.

        Raises:
            ValueError: The network was not made by `create_model`, or has a backbone of its own.
        """
        plain = self.model.plain
        assert isinstance(plain, TokenPose | TokenReg)
        if plain.made_by is None:
            raise ValueError(
                "this network cannot be made again from a name and options: it does not come from "
                "create_model, or with backbone=..."
            )
        codec = {}
        if isinstance(self.codec, HeatmapCodec):
            names = ("sigma", "method", "blur_kernel")
            codec = {name: getattr(self.codec, name) for name in names}
        return save_plain(plain, folder, *plain.made_by, self.skeleton, codec, training, scores)

    def __call__(self, image: Any, boxes_xyxy: Any = None) -> Prediction:
        """Keypoints of the people in an image.

        Args:
            image: Path, PIL image, or RGB bytes `[H, W, 3]`.
            boxes_xyxy: `[N, 4]` px of the image; None takes the whole image as one person.

        Raises:
            ValueError: The image cannot be read, or a box is not 4 numbers or is empty.
            FileNotFoundError: There is no such file.
        """
        pixels = read_rgb(image)
        height, width = pixels.shape[:2]
        boxes = np.asarray([[0, 0, width, height]] if boxes_xyxy is None else boxes_xyxy, float)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes_xyxy must have shape [N, 4], got {list(boxes.shape)}")
        empty = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
        if empty.any():
            raise ValueError(f"boxes_xyxy: {boxes[empty][0].tolist()} has no extent")
        count = self.skeleton.num_keypoints
        points: list[npt.NDArray[Any]] = [np.zeros((0, count, 2))]
        scores: list[npt.NDArray[Any]] = [np.zeros((0, count))]
        flip = self.skeleton.flip_indices if self.flip_test else None
        device = next(self.model.parameters()).device
        for start in range(0, len(boxes), self.batch_size):
            crops, matrices = self.crop(pixels, boxes[start : start + self.batch_size])
            images = normalize_images(torch.from_numpy(crops).to(device))
            found = predict_cycles(self.model, images, self.codec, self.num_cycles, flip)[-1]
            inverse = invert_matrix(matrices)
            points.append(transform_points(found[0].double().cpu().numpy(), inverse))
            scores.append(found[1].double().cpu().numpy())
        return Prediction(
            np.concatenate(points).astype(np.float32), np.concatenate(scores).astype(np.float32)
        )

    def crop(
        self, pixels: npt.NDArray[np.uint8], boxes_xyxy: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
        """What the network gets to see of an image.

        Args:
            pixels: RGB bytes `[H, W, 3]`.
            boxes_xyxy: `[N, 4]` px of the image, one or more.

        Returns:
            RGB bytes `[N, h, w, 3]` of the network's input size, and the maps `[N, 2, 3]` from px
            of the image to px of these.
        """
        udp = getattr(self.codec, "method", "") == "udp"
        matrices = crop_matrix(np.asarray(boxes_xyxy, float), self.input_size, udp=udp)
        crops = [cv2.warpAffine(pixels, matrix, self.input_size) for matrix in matrices]
        return np.stack(crops).astype(np.uint8), matrices


def read_rgb(image: Any) -> npt.NDArray[np.uint8]:
    """RGB bytes `[H, W, 3]` of a path, a PIL image or an array; a photo is turned upright."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"image must be RGB bytes [H, W, 3], got {array.dtype} {list(array.shape)}"
        )
    return array

"""Skeleton pictures and keypoints of images and videos."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from rich.progress import track

from cycledistill._device import Device, find_device
from cycledistill.saving._files import replacing_folder
from cycledistill_pose.data import BadImageError
from cycledistill_pose.data._people import count_strange
from cycledistill_pose.data._picture import ImageArray, read_rgb
from cycledistill_pose.drawing import draw_skeleton, save_picture
from cycledistill_pose.metrics._results import instance_scores, result_rows
from cycledistill_pose.prediction import PersonDetector, PosePredictor
from cycledistill_pose.prediction._boxes import read_boxes
from cycledistill_pose.prediction._match import number_images
from cycledistill_pose.prediction._sources import VIDEOS, Images, Video


def predict(
    source: Annotated[Path, tyro.conf.Positional],
    checkpoint: str,
    out: Path,
    boxes: Path | None = None,
    detector: Path | None = None,
    box_threshold: float = 0.5,
    category_id: int | None = None,
    first_frame: int | None = None,
    num_cycles: int | None = None,
    flip_test: bool = False,
    skip_bad_images: bool = False,
    device: Device = "auto",
) -> None:
    """Draw the skeletons of people in images or a video, and write results in COCO's format.

    Without boxes, each image is treated as one person. A person's score is the box score times the
    mean of the keypoint scores above 0.2, as in evaluations. The output folder must not exist; it
    appears only once it is complete.

    Args:
        source: An image, a folder of images (including its subfolders), or a video.
        checkpoint: Folder of a plain network, or its name on the Hugging Face Hub.
        out: Folder to write: a picture for each image or a video, and results.json.
        boxes: People's boxes as JSON: a detector's list of {image_id or file_name, bbox (xywh),
            score}, or COCO annotations. They are matched to images by the path in file_name, or by
            number if the file has nothing else. For a video, image_id is the frame number.
        detector: File with the weights of torchvision's fasterrcnn_mobilenet_v3_large_320_fpn,
            to find the people with.
        box_threshold: Ignore boxes with a lower score.
        category_id: Category of the boxes and of the results; by default the one the network was
            trained on.
        first_frame: Number of a video's first frame in the boxes file. By default 0 if the file has
            a frame 0, its first image if it lists every frame, otherwise 1.
        num_cycles: Passes through the blocks; by default as many as the network was trained to be
            used with.
        flip_test: Average with the outputs for the mirrored image.
        skip_bad_images: Skip images that cannot be decoded, or whose size differs from the one in
            the boxes file, and report them.
        device: Where the networks run; auto uses the accelerator if there is one.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    if boxes is not None and detector is not None:
        raise ValueError("expected --boxes or --detector, got both")
    where = find_device(device)
    frames = Video(source) if source.suffix.lower() in VIDEOS else Images(source)
    cycles = {} if num_cycles is None else {"num_cycles": num_cycles}
    predictor = PosePredictor.from_pretrained(checkpoint, **cycles)
    predictor.flip_test = flip_test and bool(predictor.skeleton.flip_pairs)
    predictor.model.to(where)
    if flip_test and not predictor.flip_test:
        print("--flip-test is ignored: the network has no flip pairs")
    ids: list[int | str] = list(number_images(frames.names))
    given = None
    if boxes is not None:
        given = read_boxes(
            boxes,
            frames.names,
            frames.folder,
            box_threshold,
            predictor.skeleton,
            category_id,
            isinstance(frames, Video),
            first_frame,
        )
        ids = [given.images[name].image_id for name in frames.names]
    category = predictor.skeleton.category_id if category_id is None else category_id
    find = None
    if detector is not None:
        find = PersonDetector(detector, box_threshold)
        find.model.to(where)
    results: list[dict[str, Any]] = []
    people: Counter[str] = Counter()
    bad: list[BadImageError | FileNotFoundError] = []
    with replacing_folder(out) as temporary:
        video = None
        for name, image_id, frame in track(
            zip(frames.names, ids, frames, strict=True), description="predict", total=len(ids)
        ):
            try:
                pixels = read_rgb(frame, None if given is None else given.images[name].size)
            except (BadImageError, FileNotFoundError) as error:
                if not skip_bad_images:
                    raise
                bad.append(error)
                continue
            if given is not None:
                _, xyxy, box_scores, _ = given.images[name]
                xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
                sizes = np.full((len(xyxy), 2), pixels.shape[1::-1])
                given.strange.update(count_strange(xywh, sizes, np.zeros((len(xyxy), 1, 3))))
                seen = (xyxy[:, 2:] > 0).all(1) & (xyxy[:, :2] < pixels.shape[1::-1]).all(1)
                given.left_out.update(["outside of their image"] * int((~seen).sum()))
                xyxy, box_scores = xyxy[seen], box_scores[seen]
            elif find is not None:
                xyxy, box_scores = find(pixels)
            else:
                height, width = pixels.shape[:2]
                xyxy, box_scores = np.array([[0.0, 0.0, width, height]]), np.ones(1)
            found = predictor(pixels, xyxy)
            people[name] = len(xyxy)
            total = instance_scores(box_scores, found.scores.astype(np.float64), 0.2)
            rows = result_rows([image_id] * len(total), category, *found, total)
            results += [row | {"file_name": name} for row in rows]
            picture = pixels
            for points, scores, box in zip(found.keypoints, found.scores, xyxy, strict=True):
                side = max(box[2] - box[0], box[3] - box[1])
                thickness = max(1, round(min(side / 60, max(pixels.shape[:2]) / 130)))
                picture = draw_skeleton(
                    picture, points, scores, predictor.skeleton, thickness=thickness
                )
            if isinstance(frames, Video):
                # MPEG-4 has even sides alone, and OpenCV would drop the last column or row.
                height, width = picture.shape[:2]
                picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                video = video or _writer(temporary / f"{source.stem}.mp4", frames.fps, picture)
                video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            else:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                save_picture(temporary / f"{name}.png", picture)
        if video is not None:
            video.release()
            _check_video(temporary, out, f"{source.stem}.mp4", len(people))
        if len(bad) == len(ids):
            raise ValueError(f"none of {len(ids):,} images can be used; the first error: {bad[0]}")
        (temporary / "results.json").write_text(json.dumps(results))
    if given is not None:
        print(f"boxes: {given}")
    nobody = sum(count == 0 for count in people.values())
    for reason in bad:
        print(f"left out: {reason}")
    passes = f"{predictor.num_cycles} cycle{'s' * (predictor.num_cycles > 1)}"
    print(
        f"{len(people):,} {'frames' if isinstance(frames, Video) else 'images'}, "
        f"{people.total():,} people{f', {nobody:,} without people' if nobody else ''}: {out} "
        f"({passes})"
    )


def _writer(path: Path, fps: float, picture: ImageArray) -> cv2.VideoWriter:
    height, width = picture.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise ValueError(f"this OpenCV cannot write {path.name}: it has no MPEG-4 encoder")
    return writer


def _check_video(folder: Path, out: Path, name: str, count: int) -> None:
    """Of a full disk, OpenCV only prints warnings."""
    found = max(0, int(cv2.VideoCapture(str(folder / name)).get(cv2.CAP_PROP_FRAME_COUNT)))
    if found != count:
        raise OSError(
            f"{out / name} cannot be written: {found} of {count} frames are in it (a full disk?)"
        )

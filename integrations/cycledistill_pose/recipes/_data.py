"""Training and validation people of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cycledistill_pose.data import (
    CocoKeypoints,
    PoseFiles,
    SyntheticPeople,
    check_coco_root,
    check_crowdpose_root,
)
from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.skeletons import CROWDPOSE, Skeleton


class PoseData(NamedTuple):
    """What a run trains and evaluates on.

    Attributes:
        train: People to train on, augmented; None where they were not asked for.
        val: People, or detected boxes, to evaluate on.
        truth: People with their truth for pictures: ``val``, or the annotated people where ``val``
            holds detected boxes.
        skeleton: Their keypoints.
        make_metric: Makes a fresh AP metric for ``val``.
    """

    train: Any
    val: CocoKeypoints
    truth: CocoKeypoints
    skeleton: Skeleton
    make_metric: Callable[[], CocoKeypointAP | CrowdPoseAP]


def load_data(
    config: PoseConfig, input_size: tuple[int, int], *, training: bool = True
) -> PoseData:
    """The data that a config asks for.

    Args:
        config: The options.
        input_size: (width, height) of the model's input.
        training: Read the people to train on too; without them, their files need not be there.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is not what it should be.
    """
    udp = config.codec == "udp"
    common: dict[str, Any] = {"input_size": input_size, "udp": udp, "seed": config.seed}
    train: Any = None
    if config.data_root is None:
        if config.crop_cache is not None:
            raise ValueError("crop_cache is for image files, but there is no data_root")
        easy = config.easy_synthetic
        if training:
            train = SyntheticPeople(
                config.num_synthetic,
                augmentation=config.augmentation,
                fresh=True,
                easy=easy,
                **common,
            )
        annotations, images = SyntheticPeople.coco(
            config.num_synthetic_val, seed=config.seed + 1, easy=easy
        )
        val_source: tuple[Any, Any] = (annotations, images)
        skeleton = None
    else:
        common["bad_images"] = "skip" if config.skip_bad_images else "error"
        common["reduced_decoding"] = config.reduced_decoding
        common["crop_cache"] = config.crop_cache
        splits = ["train", "val"] if training else ["val"]
        files = _files(config, Path(config.data_root), splits)
        val_source = files["val"]
        skeleton = CROWDPOSE if config.dataset == "crowdpose" else None
        if training:
            train = CocoKeypoints(
                *files["train"], skeleton=skeleton, augmentation=config.augmentation, **common
            )
    truth = CocoKeypoints(*val_source, skeleton=skeleton, **common)
    val = truth
    if config.detections is not None:
        val = CocoKeypoints(
            *val_source,
            skeleton=skeleton,
            detections=config.detections,
            detection_threshold=config.detection_threshold,
            **common,
        )
    if train is not None and train.skeleton.num_keypoints != val.skeleton.num_keypoints:
        raise ValueError(
            f"the training people have {train.skeleton.num_keypoints} keypoints, those to "
            f"evaluate on {val.skeleton.num_keypoints}"
        )
    metric_class = CrowdPoseAP if config.dataset == "crowdpose" else CocoKeypointAP

    def make_metric() -> CocoKeypointAP | CrowdPoseAP:
        return metric_class(
            val_source[0],
            nms=None if config.nms == "none" else config.nms,
            nms_threshold=config.nms_threshold,
            keypoint_score_threshold=config.keypoint_score_threshold,
            sigmas=val.skeleton.sigmas,
        )

    return PoseData(train, val, truth, val.skeleton, make_metric)


def _files(config: PoseConfig, root: Path, splits: list[str]) -> dict[str, tuple[Any, Path]]:
    given = {
        "train": (config.train_annotations, config.train_images),
        "val": (config.val_annotations, config.val_images),
    }
    found: dict[str, tuple[Any, Path]] = {}
    for split in splits:
        annotation_file, images = given[split]
        if annotation_file is not None and images is not None:
            found[split] = (root / annotation_file, root / images)
    missing = [split for split in splits if split not in found]
    if config.dataset == "files" and missing:
        options = [f"--{split}-annotations and --{split}-images" for split in splits]
        raise ValueError(f"--dataset files needs {', '.join(options)}")
    if config.dataset == "coco" and missing:
        found |= {
            split: _joined([files]) for split, files in check_coco_root(root, missing).items()
        }
    if config.dataset == "crowdpose" and missing:
        parts = {"train": ["train", "val"], "val": ["test"]}
        files = check_crowdpose_root(root, [part for split in missing for part in parts[split]])
        found |= {split: _joined([files[part] for part in parts[split]]) for split in missing}
    return found


def _joined(files: list[PoseFiles]) -> tuple[Any, Path]:
    paths = [file.annotations for file in files]
    return (paths[0] if len(paths) == 1 else paths), files[0].images

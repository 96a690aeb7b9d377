"""Training and validation people of a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cycledistill_pose.data import CocoKeypoints, SyntheticPeople
from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.recipes._files import OpenFiles, open_files
from cycledistill_pose.skeletons import Skeleton


class PoseData(NamedTuple):
    """What a run trains and evaluates on.

    Attributes:
        train: People to train on, augmented; None where they were not asked for.
        val: People, or detected boxes, to evaluate on.
        truth: People with their truth for pictures: ``val``, or the annotated people where ``val``
            holds detected boxes; None where nobody is annotated, so that there is no AP.
        skeleton: Their keypoints: the training file's.
        make_metric: Makes a fresh AP metric for ``val``.
    """

    train: Any
    val: CocoKeypoints
    truth: CocoKeypoints | None
    skeleton: Skeleton
    make_metric: Callable[[], CocoKeypointAP | CrowdPoseAP]


def load_data(
    config: PoseConfig,
    input_size: tuple[int, int],
    *,
    training: bool = True,
    files: OpenFiles | None = None,
) -> PoseData:
    """The data that a config asks for.

    Args:
        config: The options.
        input_size: (width, height) of the model's input.
        training: Read the people to train on too; without them, their files need not be there.
        files: What was read before; by default the files are read.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is not what it should be.
    """
    files = files or open_files(config, training=training)
    udp = config.codec == "udp"
    common: dict[str, Any] = {"input_size": input_size, "udp": udp, "seed": config.seed}
    train: Any = None
    if config.data_root is None:
        if config.crop_cache is not None:
            raise ValueError("crop_cache is for image files, but there is no data_root")
        if training:
            train = SyntheticPeople(
                config.num_synthetic,
                augmentation=config.augmentation,
                fresh=True,
                easy=config.easy_synthetic,
                **common,
            )
    else:
        common["bad_images"] = "skip" if config.skip_bad_images else "error"
        common["reduced_decoding"] = config.reduced_decoding
        common["crop_cache"] = config.crop_cache
        if files.train is not None:
            train = CocoKeypoints(*files.train, augmentation=config.augmentation, **common)
    truth = None
    if files.detections is None or files.val[0].has_labels:
        truth = CocoKeypoints(*files.val, **common)
    val = truth
    if files.detections is not None:
        val = CocoKeypoints(
            *files.val,
            detections=files.detections,
            detection_threshold=config.detection_threshold,
            **common,
        )
    assert val is not None
    metric_class = CrowdPoseAP if config.dataset == "crowdpose" else CocoKeypointAP

    def make_metric() -> CocoKeypointAP | CrowdPoseAP:
        return metric_class(
            files.val[0],
            nms=None if config.nms == "none" else config.nms,
            nms_threshold=config.nms_threshold,
            keypoint_score_threshold=config.keypoint_score_threshold,
            sigmas=files.sigmas,
        )

    make_metric()  # what it refuses, it refuses before anything is trained
    return PoseData(train, val, truth, files.skeleton, make_metric)

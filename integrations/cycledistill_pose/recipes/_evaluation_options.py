"""Options of the people to evaluate on, and of the metric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cycledistill.training import free


@dataclass
class EvaluationOptions:
    """Whom to evaluate on, and how; training and comparing have it in common."""

    data_root: Path | None = free(None)
    """Folder of the data set. None draws synthetic people, which needs no data."""

    dataset: Literal["coco", "crowdpose", "files"] = "coco"
    """Layout of data_root: COCO 2017 (annotations/person_keypoints_{train,val}2017.json,
    {train,val}2017/), CrowdPose (annotations/crowdpose_{train,val,test}.json, images/; trained on
    train + val, tested on test), or files named by the options for annotations and images."""

    val_annotations: Path | None = free(None)
    """COCO-format JSON to evaluate on, relative to data_root."""

    val_images: Path | None = free(None)
    """Folder of its images, relative to data_root."""

    category: str | None = None
    """Name of the category to read, where several in the annotations have keypoints."""

    detections: Path | None = free(None)
    """A detector's boxes for the evaluation, as JSON: a list of {image_id, category_id, bbox
    (xywh), score}. None evaluates on the annotated boxes. With images that nobody is annotated in,
    predictions are written and there is no AP."""

    detection_threshold: float = 0.0
    """Leave out detected boxes with a lower score."""

    skip_bad_images: bool = False
    """Leave out people in missing or broken images, and count them, instead of stopping."""

    easy_synthetic: bool = False
    """Draw one whole upright person in each picture, seen from the front: a first task for very
    small networks."""

    nms: Literal["oks", "soft_oks", "none"] = "oks"
    """How doubled people are dropped in evaluations."""

    nms_threshold: float = 0.9
    """Similarity above which the weaker of two people is dropped."""

    keypoint_score_threshold: float = 0.2
    """Keypoints of this score or less do not count in a person's score."""

    eval_batch_size: int = free(64)
    """People at a time in evaluations."""

    num_synthetic_val: int = 200
    """Synthetic pictures to evaluate on."""

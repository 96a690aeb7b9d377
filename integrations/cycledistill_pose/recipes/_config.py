"""Options of an evaluation, and of a run that trains and evaluates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cycledistill.training import CycledConfig, free
from cycledistill_pose.codecs._heatmap import HeatmapMethod
from cycledistill_pose.data import PoseAugmentation
from cycledistill_pose.models._sdpose import DETACH_TEACHER


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


@dataclass
class PoseConfig(EvaluationOptions, CycledConfig):
    """Train a pose network, cycled and distilled into one pass."""

    train_annotations: Path | None = free(None)
    """COCO-format JSON to train on, relative to data_root, in place of the layout's. Any category
    with keypoints will do: names, flip pairs and sigmas come from the file."""

    train_images: Path | None = free(None)
    """Folder of its images, relative to data_root."""

    flip_pairs: str | None = None
    """Keypoints that change places in a mirror image, as left_eye:right_eye,left_ear:right_ear; by
    default those of the file, or of its names. none mirrors nothing: no random mirroring in
    training, and no flip test."""

    num_synthetic: int = 8000
    """Synthetic people to train on, other ones in every epoch."""

    model: str = "tokenpose_s_v1"
    """Plain network: tokenpose_t, tokenpose_s_v1, tokenpose_s_v2, tokenpose_b, tokenpose_nano;
    tokenreg_s, tokenreg_nano for regression."""

    pretrained: bool = False
    """Start the backbone from ImageNet weights (tokenpose_b alone has them; downloads)."""

    initial_weights: Path | None = free(None)
    """Start from a released SDPose, TokenPose or DistilPose checkpoint, or from the folder of a
    plain network of ours. With another number of keypoints the keypoint tokens start afresh."""

    input_size: tuple[int, int] | None = None
    """Width and height of the input in pixels; None keeps the model's own. Likewise the next
    five."""

    heatmap_size: tuple[int, int] | None = None
    """Width and height of the heatmaps in pixels."""

    patch_size: tuple[int, int] | None = None
    """Height and width of a patch in pixels of the feature map."""

    dim: int | None = None
    """Channels of a token."""

    depth: int | None = None
    """Number of transformer blocks."""

    num_heads: int | None = None
    """Attention heads of a block."""

    pruning: bool = False
    """Prune visual tokens at blocks 3, 6 and 9, keeping 0.7 each time (PPT: paper, table 8)."""

    keypoint_weight: float = 5e-6
    """Weight of the keypoint tokens' distillation, alpha 1 (5e-6: paper, 4.1.2; 0: table 5)."""

    visual_weight: float = 5e-6
    """Weight of the visual tokens' distillation, alpha 2 (5e-6: paper, 4.1.2; 0: table 5)."""

    teacher: Literal["next", "last"] = "next"
    """Which cycle a cycle learns from (next: paper, table 7, 3 -> 2 -> 1)."""

    detach_teacher: bool = DETACH_TEACHER
    """Treat the later cycle's tokens as constants, as the paper's text says. Its released code does
    not; without a norm after the blocks tokens can then grow without end."""

    codec: HeatmapMethod = "fit"
    """Heatmap targets and their decoding (dark: the paper's released recipe; fit: the same targets,
    decoded right up to the border)."""

    sigma: float = 2.0
    """Standard deviation of the target, in heatmap pixels (2: the paper's released recipe)."""

    warmup_steps: int = 500
    """Steps of linear warm-up (500: the paper's released recipe)."""

    milestones: tuple[int, ...] = (200, 260)
    """Epochs at whose start the learning rate is divided by ten (200, 260: paper, 4.1.2)."""

    augmentation: PoseAugmentation = field(default_factory=PoseAugmentation)
    """Random crops of people."""

    reduced_decoding: bool = False
    """Decode images at half, quarter or eighth size where the crop is shrunk by as much anyway."""

    crop_cache: Path | None = free(None)
    """Folder in which decoded parts of images are kept (4 bytes a pixel); no pixel changes."""

    flip_test: bool = True
    """Average the outputs for the image and its mirror image in evaluations."""

    pictures: int = free(12)
    """People in the picture of predictions beside the truth."""

    def validate(self) -> None:
        """Check ranges.

        Raises:
            ValueError: An option is out of its range; the text names it.
        """
        super().validate()
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: expected rising epochs, got {self.milestones}")
        check_file_options(self)


def check_file_options(options: EvaluationOptions) -> None:
    """Check that annotations and images are named together."""
    for split in ("train", "val"):
        names = [f"{split}_annotations", f"{split}_images"]
        if len({getattr(options, name, None) is None for name in names}) > 1:
            raise ValueError(f"{names[0]} and {names[1]} go together; give both")

"""Options of an evaluation, and of a run that trains and evaluates."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cycledistill.training import CycledConfig, free, within
from cycledistill.training._config import check_limits
from cycledistill_pose.codecs._heatmap import HeatmapMethod
from cycledistill_pose.data import PoseAugmentation
from cycledistill_pose.models._sdpose import DETACH_TEACHER


@dataclass
class EvaluationOptions:
    """The people to evaluate on, and how AP is measured, in training runs and comparisons."""

    data_root: Path | None = free(None)
    """Folder of the data set. None generates people, which needs no data."""

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
    (xywh), score}. None evaluates on the annotated boxes. If the images have no annotated people,
    predictions are written without AP."""

    detection_threshold: float = 0.0
    """Ignore detected boxes with a lower score."""

    skip_bad_images: bool = False
    """Skip and count people in missing or broken images instead of stopping. AP counts them as
    missed."""

    easy_synthetic: bool = False
    """Generate one whole, upright person in each picture, seen from the front: an easy task for
    very small networks."""

    nms: Literal["oks", "soft_oks", "none"] = "oks"
    """How duplicate detections of a person are removed in evaluations."""

    nms_threshold: float = within(0.9, above=0, at_most=1)
    """Similarity above which the lower-scoring of two people is removed."""

    keypoint_score_threshold: float = within(0.2, at_least=0)
    """Keypoints with at most this score do not count towards a person's score."""

    eval_batch_size: int = free(64, at_least=1)
    """Batch size in evaluations."""

    num_synthetic_val: int = within(200, at_least=1)
    """Generated pictures to evaluate on."""


@dataclass
class PoseConfig(EvaluationOptions, CycledConfig):
    """Train a pose network, cycled and distilled into one pass."""

    mode: Literal["plain", "cycle", "distill", "fold", "grow-fold"] = "distill"  # type: ignore[assignment]
    """plain: one cycle. cycle: several cycles, loss on the last, used with all of them (paper,
    table 6). distill: loss on every cycle, tokens distilled, used with one (paper, tables 1, 5, 7).
    fold: one cycle, taught by the run in folded_from, which is frozen. grow-fold: mode cycle, then
    mode fold, in the subfolders grown and folded of output_dir."""

    folded_from: Path | None = free(None)
    """Folder of the finished run that teaches in mode fold: one of mode cycle, of a network of the
    same size."""

    warm_start: bool = True
    """Start from the teacher's weights in mode fold."""

    truth_weight: float = within(0.1, at_least=0, at_most=1)
    """Weight of the annotations in mode fold; the teacher's predictions have the rest of 1."""

    beside: tuple[Path, ...] = free(())
    """Folders of other finished runs for the last table of mode fold, such as one of mode plain."""

    train_annotations: Path | None = free(None)
    """COCO-format JSON to train on, relative to data_root, instead of the layout's own file. Any
    category with keypoints works: names, flip pairs and sigmas are read from the file."""

    train_images: Path | None = free(None)
    """Folder of its images, relative to data_root."""

    flip_pairs: str | None = None
    """Keypoints that trade places in a mirror image, as left_eye:right_eye,left_ear:right_ear; by
    default taken from the file, or from the keypoint names. none turns mirroring off, in training
    and in the flip test."""

    num_synthetic: int = within(8000, at_least=1)
    """Generated people to train on, new ones in every epoch."""

    model: str = "tokenpose_s_v1"
    """Plain network: tokenpose_t, tokenpose_s_v1, tokenpose_s_v2, tokenpose_b, tokenpose_nano;
    tokenreg_s, tokenreg_nano for regression."""

    pretrained: bool = False
    """Start the backbone from ImageNet weights (only tokenpose_b has them; downloads)."""

    initial_weights: Path | None = free(None)
    """Start from a released SDPose, TokenPose or DistilPose checkpoint, or from the folder of a
    plain network saved by this package. If the number of keypoints differs, the keypoint tokens
    are initialised anew."""

    input_size: tuple[int, int] | None = None
    """Width and height of the input in pixels. None keeps the model's own value, here and for
    the next five options."""

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

    keypoint_weight: float = within(5e-6, at_least=0)
    """Weight of the keypoint tokens' distillation, alpha 1 (5e-6: paper, 4.1.2; 0: table 5)."""

    visual_weight: float = within(5e-6, at_least=0)
    """Weight of the visual tokens' distillation, alpha 2 (5e-6: paper, 4.1.2; 0: table 5)."""

    teacher: Literal["next", "last"] = "next"
    """Which cycle a cycle learns from (next: paper, table 7, 3 -> 2 -> 1)."""

    detach_teacher: bool = DETACH_TEACHER
    """Treat the later cycle's tokens as constants, as the paper's text says. The released code does
    not. In these networks, which have no norm after the blocks, it can make tokens grow without
    bound."""

    codec: HeatmapMethod = "fit"
    """Heatmap targets and their decoding (dark: the paper's released recipe; fit: the same targets,
    decoded right up to the border)."""

    sigma: float = within(2.0, above=0)
    """Standard deviation of the target, in heatmap pixels (2: the paper's released recipe)."""

    warmup_steps: int = within(500, at_least=0)
    """Steps of linear warm-up (500: the paper's released recipe)."""

    milestones: tuple[int, ...] = (200, 260)
    """Epochs at whose start the learning rate is divided by ten (200, 260: paper, 4.1.2)."""

    augmentation: PoseAugmentation = field(default_factory=PoseAugmentation)
    """Random crops of people."""

    reduced_decoding: bool = False
    """Decode large images at half, quarter or eighth size where the crop is shrunk that much
    anyway."""

    crop_cache: Path | None = free(None)
    """Folder that caches decoded images (4 bytes a pixel). Crops stay the same."""

    flip_test: bool = True
    """In evaluations, average the outputs for the image and its mirror image."""

    pictures: int = free(12, at_least=1)
    """People in the picture of predictions beside the truth."""

    def stages(self) -> tuple[PoseConfig, ...]:
        """The runs that this one consists of: two in mode grow-fold, else itself."""
        if self.mode != "grow-fold":
            return (self,)
        grown, folded = Path(self.output_dir) / "grown", Path(self.output_dir) / "folded"
        later = self.resume if self.resume == "never" else "auto"  # a path is for the first run
        return (
            replace(self, mode="cycle", output_dir=grown),
            replace(self, mode="fold", output_dir=folded, folded_from=grown, resume=later),
        )

    def schedule_text(self, steps: int) -> str:
        """The learning rate over a run with ``steps`` in an epoch, and what of it has no effect."""
        total = self.epochs * steps
        parts = [f"warm-up {self.warmup_steps:,} of {total:,} steps"]
        for text, late in (("/ 10 after epochs", False), ("not reached: epochs", True)):
            chosen = [f"{epoch}" for epoch in self.milestones if (epoch >= self.epochs) == late]
            parts += [f"{text} {', '.join(chosen)}"] if chosen else []
        return ", ".join(parts)

    def validate(self) -> None:
        """Check ranges.

        Raises:
            ValueError: An option is out of its range; the text names it.
        """
        super().validate()
        if (self.mode == "fold") != (self.folded_from is not None):
            raise ValueError(
                f"mode=fold and --folded-from FOLDER belong together, got mode={self.mode} and "
                f"folded_from={self.folded_from}"
            )
        rising = list(self.milestones) == sorted(set(self.milestones))
        if not rising or min(self.milestones, default=0) < 0:
            raise ValueError(f"milestones: expected rising epochs from 0, got {self.milestones}")
        check_people_options(self)


def check_people_options(options: EvaluationOptions) -> None:
    """Check ranges, and that files are named together, and with the folder that they are in."""
    check_limits(options)
    for split in ("train", "val"):
        names = [f"{split}_annotations", f"{split}_images"]
        if len({getattr(options, name, None) is None for name in names}) > 1:
            raise ValueError(f"{names[0]} and {names[1]} go together; give both")
    if options.data_root is None:
        names = ["train_annotations", "val_annotations", "category", "flip_pairs", "detections"]
        given = [n for n in (*names, "crop_cache") if getattr(options, n, None) is not None]
        if options.dataset != "coco":
            given.append(f"dataset={options.dataset}")
        if given:
            raise ValueError(f"{given[0]} is for image files, but there is no data_root")

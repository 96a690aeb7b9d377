"""The people to train and to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cycledistill_pose.annotations import BoxFile, Category, KeypointFile
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import CocoKeypoints, SyntheticPeople
from cycledistill_pose.data._people import People
from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.recipes._config import EvaluationOptions, PoseConfig
from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton


@dataclass(frozen=True)
class EvaluationPeople:
    """Images with annotated people, and maybe a detector's boxes, to evaluate networks on.

    Attributes:
        file: The annotated images.
        images: Folder of the images, or images by name.
        boxes: A detector's boxes; None for the annotated ones.
        skeleton: Keypoints of the training file, or else of the network or of the file itself.
        options: How AP is measured, and which boxes and images are left out.
    """

    file: KeypointFile
    images: Any
    boxes: BoxFile | None
    skeleton: Skeleton
    options: EvaluationOptions
    _loaded: dict[Any, CocoKeypoints] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_truth(self) -> bool:
        """Whether people are annotated, so that there is an AP."""
        return self.boxes is None or self.file.has_labels

    @property
    def annotated(self) -> EvaluationPeople:
        """The people in their annotated boxes; these, if nobody has a box and keypoints."""
        return replace(self, boxes=None) if len(People.annotated(self.file)) else self

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those of the file, or else the skeleton's."""
        return self.file.category.sigmas or self.skeleton.sigmas

    def crops(self, input_size: tuple[int, int], udp: bool = False) -> CocoKeypoints:
        """The people cropped for a network; cached for each set of arguments.

        Args:
            input_size: (width, height) of the network's input in px.
            udp: See `cycledistill_pose.data.crop_matrix`.

        Raises:
            FileNotFoundError: An image is missing.
            ValueError: A file is invalid, or has no people.
        """
        key = (input_size, udp, self.boxes is None)
        if key not in self._loaded:
            self._loaded[key] = CocoKeypoints(
                self.file,
                self.images,
                input_size,
                detections=self.boxes,
                detection_threshold=self.options.detection_threshold,
                udp=udp,
                **_loading_options(self.options),
            )
        return self._loaded[key]

    def metric(self) -> CocoKeypointAP | CrowdPoseAP:
        """A fresh AP metric.

        Raises:
            ValueError: The file or an option is invalid.
        """
        options = self.options
        metric_class = CrowdPoseAP if options.dataset == "crowdpose" else CocoKeypointAP
        return metric_class(
            self.file,
            nms=None if options.nms == "none" else options.nms,
            nms_threshold=options.nms_threshold,
            keypoint_score_threshold=options.keypoint_score_threshold,
            sigmas=self.sigmas,
        )

    def assumed(
        self, category: Category | None = None, pairs_from: str | None = None
    ) -> dict[str, str]:
        """Keypoints, flip pairs and sigmas in words, and where they come from.

        Args:
            category: The training file's; by default this file's.
            pairs_from: Where the flip pairs come from, if neither from a file nor from names.
        """
        category = category or self.file.category
        skeleton, names = self.skeleton, self.skeleton.keypoint_names
        standards = {"as in COCO": COCO, "as in CrowdPose": CROWDPOSE}
        standard = next((s for s, k in standards.items() if k.keypoint_names == names), None)
        pairs = (
            "none known: no mirroring in training, and no flip test; set them with "
            "--flip-pairs name:name,... in training"
        )
        if skeleton.flip_pairs:
            by_file = "from the file" if category.has_flip_pairs else None
            paired = {index for pair in skeleton.flip_pairs for index in pair}
            single = [name for index, name in enumerate(names) if index not in paired]
            pairs = ", ".join(f"{names[a]}:{names[b]}" for a, b in skeleton.flip_pairs)
            pairs += f" ({pairs_from or by_file or standard or 'from the names'})"
            pairs += f"; without a partner: {', '.join(single)}" if single else ""
        origin = standard or "those of COCO and CrowdPose for the same names, 0.05 for others"
        if self.file.category.sigmas or category.sigmas:
            origin = "from the file"
        elif self.sigmas != Skeleton.from_coco_category({"keypoints": names}).sigmas:
            origin = "the network's"
        return {
            "keypoints": f"{len(names)} of category {category.name!r}: {', '.join(names)}",
            "flip pairs": pairs,
            "sigmas": f"{' '.join(f'{sigma:g}' for sigma in self.sigmas)} ({origin})",
        }


@dataclass(frozen=True)
class TrainingPeople:
    """Annotated images to train on, or generated people.

    Attributes:
        config: The run's options.
        file: The annotated images; None for generated people.
        images: Folder of the images.
    """

    config: PoseConfig
    file: KeypointFile | None
    images: Any

    def crops(self, codec: HeatmapCodec | RegressionCodec) -> CocoKeypoints | SyntheticPeople:
        """The people, augmented and cropped for a network with this codec."""
        config = self.config
        common: dict[str, Any] = {
            "input_size": codec.input_size,
            "udp": codec.udp_crops,
            "augmentation": config.augmentation,
            "seed": config.seed,
        }
        if self.file is None:
            easy = config.easy_synthetic
            return SyntheticPeople(config.num_synthetic, fresh=True, easy=easy, **common)
        return CocoKeypoints(self.file, self.images, **common, **_loading_options(config))


def people_rows(
    train: TrainingPeople, train_set: Any, val: EvaluationPeople, val_set: CocoKeypoints
) -> dict[str, str]:
    """Lines for the summary of a run: the people, and what is assumed about their keypoints.

    Args:
        train: The people to train on.
        train_set: Their crops.
        val: The people to evaluate on.
        val_set: Their crops.
    """
    flag = "--flip-pairs" if train.config.flip_pairs else None
    return {
        "training set": _counts(train_set),
        "evaluated on": _counts(val_set),
        **val.assumed(None if train.file is None else train.file.category, flag),
    }


def _counts(people: Any) -> str:
    counts = people.report() if isinstance(people, CocoKeypoints) else {"people": len(people)}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _loading_options(options: EvaluationOptions) -> dict[str, Any]:
    """Options of `CocoKeypoints` that training and evaluation share."""
    found: dict[str, Any] = {"bad_images": "skip" if options.skip_bad_images else "error"}
    if isinstance(options, PoseConfig):
        found["reduced_decoding"] = options.reduced_decoding
        found["crop_cache"] = options.crop_cache
    return found

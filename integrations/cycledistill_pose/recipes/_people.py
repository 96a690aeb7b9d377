"""The people that a run trains and evaluates on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cycledistill_pose.annotations import BoxFile, Category, KeypointFile, check_same_keypoints
from cycledistill_pose.codecs import HeatmapCodec, RegressionCodec
from cycledistill_pose.data import (
    CocoKeypoints,
    SyntheticPeople,
    check_coco_root,
    check_crowdpose_root,
)
from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.recipes._config import EvaluationOptions, PoseConfig, check_file_options
from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton


@dataclass(frozen=True)
class EvaluationPeople:
    """Annotated images, and a detector's boxes where there are any, to evaluate networks on.

    Attributes:
        file: The images and who is annotated in them.
        images: Folder of the images, or images by name.
        boxes: A detector's; None for the annotated boxes.
        skeleton: The keypoints: the training file's, or else the network's or the file's own.
        options: How AP is measured, and which boxes and images are left out.
        loading: Further options of `CocoKeypoints`.
    """

    file: KeypointFile
    images: Any
    boxes: BoxFile | None
    skeleton: Skeleton
    options: EvaluationOptions
    loading: dict[str, Any] = field(default_factory=dict)
    _loaded: dict[Any, CocoKeypoints] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_truth(self) -> bool:
        """Whether anybody is annotated, so that there is an AP."""
        return self.boxes is None or self.file.has_labels

    @property
    def annotated(self) -> EvaluationPeople:
        """The same people in their annotated boxes."""
        return replace(self, boxes=None)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those of the file, or else the skeleton's."""
        return self.file.category.sigmas or self.skeleton.sigmas

    def crops(self, input_size: tuple[int, int], udp: bool = False) -> CocoKeypoints:
        """The boxes cropped for a network; the same object for the same arguments.

        Args:
            input_size: (width, height) of the network's input in px.
            udp: See `cycledistill_pose.data.crop_matrix`.

        Raises:
            FileNotFoundError: An image is missing.
            ValueError: A file is not what it should be, or there is nobody.
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
                **self.loading,
            )
        return self._loaded[key]

    def metric(self) -> CocoKeypointAP | CrowdPoseAP:
        """A fresh AP metric.

        Raises:
            ValueError: The file or an option is not what it should be.
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
        file: The images and who is annotated in them; None for generated people.
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
        return CocoKeypoints(self.file, self.images, **common, **_loading(config))


def open_people(config: PoseConfig) -> tuple[TrainingPeople, EvaluationPeople]:
    """Read and compare the files of a run.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is not what it should be, or the keypoints of two of them differ.
    """
    check_file_options(config)
    if config.data_root is None:
        for name in ("flip_pairs", "category", "crop_cache"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name} is for image files, but there is no data_root")
        return TrainingPeople(config, None, None), open_evaluation(config, config.seed)
    annotations, images = _find(config, "train", "val")[0]
    file = KeypointFile.read(annotations, config.category, _forced(config))
    if config.flip_pairs is not None:
        pairs = parse_flip_pairs(config.flip_pairs)
        file = file.with_skeleton(file.skeleton.with_flip_pairs(pairs))
    val = open_evaluation(config, config.seed, file.skeleton, **_loading(config))
    check_same_keypoints(file.named, val.file.named)
    return TrainingPeople(config, file, images), val


def open_evaluation(
    options: EvaluationOptions, seed: int = 0, skeleton: Skeleton | None = None, **loading: Any
) -> EvaluationPeople:
    """Read the files to evaluate on; those to train on need not be there.

    Args:
        options: Which people.
        seed: Seed of generated ones.
        skeleton: The network's keypoints.
        **loading: Further options of `CocoKeypoints`.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is not what it should be.
    """
    check_file_options(options)
    loading.setdefault("bad_images", "skip" if options.skip_bad_images else "error")
    annotations: Any
    images: Any
    if options.data_root is not None:
        annotations, images = _find(options, "val")[0]
    elif options.category is None:
        annotations, images = SyntheticPeople.coco(
            options.num_synthetic_val, seed=seed + 1, easy=options.easy_synthetic
        )
    else:
        raise ValueError("category is for image files, but there is no data_root")
    file = KeypointFile.read(annotations, options.category, _forced(options), fallback=skeleton)
    boxes = options.detections
    return EvaluationPeople(
        file,
        images,
        None if boxes is None else BoxFile.read(boxes, "detections"),
        skeleton or file.skeleton,
        options,
        loading,
    )


def people_rows(
    train: TrainingPeople, train_set: Any, val: EvaluationPeople, val_set: CocoKeypoints
) -> dict[str, str]:
    """Lines for the summary of a run: who is trained and evaluated on, and what is assumed of them.

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


def parse_flip_pairs(text: str) -> list[list[str]]:
    """``[["left_eye", "right_eye"], ...]`` of ``left_eye:right_eye,...``; nothing of ``none``."""
    if text.strip() == "none":
        return []
    pairs = [[name.strip() for name in pair.split(":")] for pair in text.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(
            f"flip_pairs: expected left_eye:right_eye,left_ear:right_ear or none, got {text!r}"
        )
    return pairs


def _loading(config: PoseConfig) -> dict[str, Any]:
    return {
        "bad_images": "skip" if config.skip_bad_images else "error",
        "reduced_decoding": config.reduced_decoding,
        "crop_cache": config.crop_cache,
    }


def _forced(options: EvaluationOptions) -> Skeleton | None:
    is_crowdpose = options.dataset == "crowdpose" and options.data_root is not None
    return CROWDPOSE if is_crowdpose else None


def _find(options: EvaluationOptions, *splits: str) -> list[tuple[Any, Path]]:
    """For each split its annotations, one file or several, and the folder of its images."""
    assert options.data_root is not None
    root = Path(options.data_root)
    found: dict[str, tuple[Any, Path]] = {}
    for split in splits:
        annotations, images = (
            getattr(options, f"{split}_{what}", None) for what in ("annotations", "images")
        )
        if annotations is not None and images is not None:
            found[split] = (root / annotations, root / images)
    missing = [split for split in splits if split not in found]
    if missing and options.dataset == "files":
        flags = [f"--{split}-annotations and --{split}-images" for split in splits]
        raise ValueError(f"--dataset files needs {', '.join(flags)}")
    if missing and options.dataset == "coco":
        found |= check_coco_root(root, missing)
    elif missing:
        parts = {"train": ["train", "val"], "val": ["test"]}
        files = check_crowdpose_root(root, [part for split in missing for part in parts[split]])
        for split in missing:
            annotations = [files[part].annotations for part in parts[split]]
            found[split] = (annotations, files[parts[split][0]].images)
    return [found[split] for split in splits]

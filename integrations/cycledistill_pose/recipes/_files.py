"""The annotation files of a config, each read once, and what is assumed about their keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cycledistill_pose.annotations import BoxFile, KeypointFile, check_same_keypoints
from cycledistill_pose.data import PoseFiles, SyntheticPeople, check_coco_root, check_crowdpose_root
from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton


class OpenFiles(NamedTuple):
    """What a config names, read.

    Attributes:
        train: Annotations and images to train on; None for synthetic people, or without training.
        val: Annotations and images to evaluate on.
        detections: A detector's boxes for them.
        skeleton: The keypoints: the training file's, or else the network's or the evaluated file's.
    """

    train: tuple[KeypointFile, Any] | None
    val: tuple[KeypointFile, Any]
    detections: BoxFile | None
    skeleton: Skeleton

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Of the evaluation: those in the evaluated file, or else the skeleton's."""
        return self.val[0].category.sigmas or self.skeleton.sigmas

    def assumed(self, pairs_from: str | None = None) -> dict[str, str]:
        """Keypoints, flip pairs and sigmas in words, and where they come from.

        Args:
            pairs_from: Where the flip pairs come from, if not from a file or from names.
        """
        skeleton, category = self.skeleton, (self.train or self.val)[0].category
        names = skeleton.keypoint_names
        standards = {"as in COCO": COCO, "as in CrowdPose": CROWDPOSE}
        standard = next((s for s, k in standards.items() if k.keypoint_names == names), None)
        by_file = "from the file" if category.has_flip_pairs else None
        paired = {index for pair in skeleton.flip_pairs for index in pair}
        staying = [name for index, name in enumerate(names) if index not in paired]
        pairs = (
            "none known: nothing is mirrored in training, and there is no flip test; "
            "--flip-pairs name:name,... of the training sets them"
        )
        if skeleton.flip_pairs:
            pairs = ", ".join(f"{names[a]}:{names[b]}" for a, b in skeleton.flip_pairs)
            pairs += f" ({pairs_from or by_file or standard or 'from the names'})"
            pairs += f"; without a partner: {', '.join(staying)}" if staying else ""
        by_names = Skeleton.from_coco_category({"keypoints": names}).sigmas
        origin = standard or "those of COCO and CrowdPose for the same names, 0.05 for others"
        if self.val[0].category.sigmas or category.sigmas:
            origin = "from the file"
        elif self.sigmas != by_names:
            origin = "the network's"
        return {
            "keypoints": f"{len(names)} of category {category.name!r}: {', '.join(names)}",
            "flip pairs": pairs,
            "sigmas": f"{' '.join(f'{sigma:g}' for sigma in self.sigmas)} ({origin})",
        }


def open_files(
    config: PoseConfig, *, training: bool = True, skeleton: Skeleton | None = None
) -> OpenFiles:
    """Read the files that a config asks for.

    Args:
        config: The options.
        training: Read those to train on too; without it, they need not be there.
        skeleton: A network's, without training.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is not what it should be, or the keypoints of two of them differ.
    """
    if config.data_root is None and (config.flip_pairs is not None or config.category is not None):
        raise ValueError("flip_pairs and category are for files, but there is no data_root")
    forced = CROWDPOSE if config.dataset == "crowdpose" and config.data_root is not None else None
    train = None
    if config.data_root is None:
        source: tuple[Any, Any] = SyntheticPeople.coco(
            config.num_synthetic_val, seed=config.seed + 1, easy=config.easy_synthetic
        )
    else:
        found = _find(config, Path(config.data_root), ["train", "val"] if training else ["val"])
        source = found["val"]
        if training:
            file = KeypointFile.read(found["train"][0], config.category, forced)
            skeleton = file.skeleton
            if config.flip_pairs is not None:
                skeleton = skeleton.with_flip_pairs(parse_flip_pairs(config.flip_pairs))
                file = file.with_skeleton(skeleton)
            train = (file, found["train"][1])
    val = KeypointFile.read(source[0], config.category, forced, fallback=skeleton)
    if train is not None:
        check_same_keypoints(train[0].named, val.named)
    detections = None
    if config.detections is not None:
        detections = BoxFile.read(config.detections, "detections")
    return OpenFiles(train, (val, source[1]), detections, skeleton or val.skeleton)


def parse_flip_pairs(text: str) -> list[list[str]]:
    """``[["left_eye", "right_eye"], ...]`` of ``left_eye:right_eye,...``; nothing of ``none``.

    Raises:
        ValueError: It is neither.
    """
    if text.strip() == "none":
        return []
    pairs = [[name.strip() for name in pair.split(":")] for pair in text.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(
            f"flip_pairs must be like left_eye:right_eye,left_ear:right_ear, or none, got {text!r}"
        )
    return pairs


def _find(config: PoseConfig, root: Path, splits: list[str]) -> dict[str, tuple[Any, Path]]:
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


def _joined(files: Sequence[PoseFiles]) -> tuple[Any, Path]:
    paths = [file.annotations for file in files]
    return (paths[0] if len(paths) == 1 else paths), files[0].images

"""Finding, reading and comparing the annotation files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cycledistill.training import find_trained
from cycledistill_pose.annotations import BoxFile, KeypointFile, check_same_keypoints
from cycledistill_pose.checkpoints import load_plain
from cycledistill_pose.data import SyntheticPeople, check_coco_root, check_crowdpose_root
from cycledistill_pose.recipes._config import EvaluationOptions, PoseConfig, check_people_options
from cycledistill_pose.recipes._people import EvaluationPeople, TrainingPeople
from cycledistill_pose.skeletons import CROWDPOSE, Skeleton


def open_people(config: PoseConfig) -> tuple[TrainingPeople, EvaluationPeople]:
    """Read and compare the files of a run; the networks that it names have the same keypoints.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is invalid, or two files have different keypoints.
    """
    check_people_options(config)
    file = images = None
    if config.data_root is not None:
        annotations, images = _find(config, "train", "val")[0]
        file = _read(config, annotations)
        if config.flip_pairs is not None:
            pairs = parse_flip_pairs(config.flip_pairs)
            file = file.with_skeleton(file.skeleton.with_flip_pairs(pairs))
    val = open_evaluation(config, config.seed, None if file is None else file.skeleton)
    if file is not None:
        check_same_keypoints(file.named, val.file.named)
    for folder in (*config.beside, *filter(None, [config.folded_from])):
        skeleton = load_plain(find_trained(folder).network).skeleton
        check_same_keypoints(val.file.named, (f"the network {folder}", skeleton))
    return TrainingPeople(config, file, images), val


def open_evaluation(
    options: EvaluationOptions, seed: int = 0, skeleton: Skeleton | None = None
) -> EvaluationPeople:
    """Read the files to evaluate on; those to train on may be missing.

    Args:
        options: The people to evaluate on.
        seed: Seed of generated ones.
        skeleton: The network's keypoints.

    Raises:
        FileNotFoundError: Files are missing; the text names them and where to get them.
        ValueError: A file is invalid.
    """
    check_people_options(options)
    annotations: Any
    images: Any
    if options.data_root is not None:
        annotations, images = _find(options, "val")[0]
    else:
        annotations, images = SyntheticPeople.coco(
            options.num_synthetic_val, seed=seed + 1, easy=options.easy_synthetic
        )
    file = _read(options, annotations, skeleton)
    boxes = None
    if options.detections is not None:
        boxes = BoxFile.read(options.detections, "detections")
    return EvaluationPeople(file, images, boxes, skeleton or file.skeleton, options)


def parse_flip_pairs(text: str) -> list[list[str]]:
    """``[["left_eye", "right_eye"], ...]`` from ``left_eye:right_eye,...``; empty for ``none``."""
    if text.strip() == "none":
        return []
    pairs = [[name.strip() for name in pair.split(":")] for pair in text.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(
            f"flip_pairs: expected left_eye:right_eye,left_ear:right_ear or none, got {text!r}"
        )
    return pairs


def _read(
    options: EvaluationOptions, annotations: Any, fallback: Skeleton | None = None
) -> KeypointFile:
    """A file; one in CrowdPose's layout must have its keypoints, if it names any."""
    if options.dataset != "crowdpose":
        return KeypointFile.read(annotations, options.category, fallback=fallback)
    file = KeypointFile.read(annotations, options.category, CROWDPOSE)
    check_same_keypoints(("--dataset crowdpose", CROWDPOSE), file.named)
    return file


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

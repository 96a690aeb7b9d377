"""The skeletons of COCO and CrowdPose."""

from __future__ import annotations

from cycledistill_pose.skeletons._skeleton import Skeleton

COCO = Skeleton(
    name="coco",
    keypoint_names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035),
        *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
    limbs=(
        *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
        *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
        *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
    ),
    upper_body=tuple(range(11)),
    category="person",
)

CROWDPOSE = Skeleton(
    name="crowdpose",
    keypoint_names=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "top_head",
        "neck",
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    sigmas=(
        *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
        *(0.079, 0.079),
    ),
    limbs=(
        *((12, 13), (13, 0), (13, 1), (0, 1), (0, 2), (2, 4), (1, 3), (3, 5)),
        *((0, 6), (1, 7), (6, 7), (6, 8), (8, 10), (7, 9), (9, 11)),
    ),
    upper_body=(0, 1, 2, 3, 4, 5, 12, 13),
    category="person",
)

# CrowdPose's own files say "head" where others say "top_head".
_ALIASES = {"head": "top_head", "head_top": "top_head"}


def known_skeleton(names: tuple[str, ...]) -> Skeleton | None:
    """The built-in skeleton with these keypoint names, if there is one."""
    canonical = tuple(_ALIASES.get(name, name) for name in names)
    for skeleton in (COCO, CROWDPOSE):
        if canonical == skeleton.keypoint_names:
            return skeleton
    return None


def known_sigma(name: str) -> float | None:
    """The published sigma of a keypoint of this name, if there is one."""
    for skeleton in (COCO, CROWDPOSE):
        if _ALIASES.get(name, name) in skeleton.keypoint_names:
            return skeleton.sigmas[skeleton.keypoint_names.index(_ALIASES.get(name, name))]
    return None

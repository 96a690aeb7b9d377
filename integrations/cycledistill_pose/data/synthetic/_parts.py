"""Names and numbers of the parts of a person."""

from __future__ import annotations

PARTS = (
    *("torso", "neck", "head", "mane", "backpack", "skirt"),
    *("left_upper_arm", "left_forearm", "left_hand", "left_thigh", "left_shin", "left_foot"),
    *("right_upper_arm", "right_forearm", "right_hand", "right_thigh", "right_shin", "right_foot"),
)
_NUMBER = {name: number for number, name in enumerate(PARTS, start=1)}
BENEATH = {  # parts that show a keypoint when they are on top
    "shoulder": ("torso", "{}_upper_arm"),
    "elbow": ("{}_upper_arm", "{}_forearm"),
    "wrist": ("{}_forearm", "{}_hand"),
    "hip": ("torso", "skirt", "left_thigh", "right_thigh"),
    "knee": ("{}_thigh", "{}_shin", "skirt"),
    "ankle": ("{}_shin", "{}_foot"),
}


def part_number(person: int, part: str) -> int:
    """The owner number of a part: 32 x person + part."""
    return 32 * person + _NUMBER[part]

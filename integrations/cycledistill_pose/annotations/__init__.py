"""Annotation files: people with keypoints, and boxes."""

from __future__ import annotations

from cycledistill_pose.annotations._boxes import Box, BoxFile
from cycledistill_pose.annotations._category import Category, check_same_keypoints
from cycledistill_pose.annotations._file import KeypointFile
from cycledistill_pose.annotations._images import ListedImage
from cycledistill_pose.annotations._people import AnnotatedPeople

__all__ = [
    "AnnotatedPeople",
    "Box",
    "BoxFile",
    "Category",
    "KeypointFile",
    "ListedImage",
    "check_same_keypoints",
]

"""The real people that some benchmarks load."""

from __future__ import annotations

import os
from pathlib import Path

from cycledistill_pose.data import PoseFiles, check_coco_root


class NoDataError(Exception):
    """A benchmark needs data that the environment does not name."""


def tiny_coco() -> PoseFiles:
    """The training set of `tiny_coco`, below the folder that CYCLEDISTILL_DATA names.

    Raises:
        NoDataError: The variable is not set.
    """
    root = os.environ.get("CYCLEDISTILL_DATA")
    if not root:
        raise NoDataError("set CYCLEDISTILL_DATA to the folder that has tiny_coco/")
    return check_coco_root(Path(root) / "tiny_coco", ["train"])["train"]

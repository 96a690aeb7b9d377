"""What stands at the top of the package, and what importing it loads."""

from __future__ import annotations

import importlib

import pytest

import cycledistill_pose

SUBPACKAGES = (
    "annotations",
    "checkpoints",
    "codecs",
    "data",
    "losses",
    "metrics",
    "models",
    "prediction",
    "skeletons",
)


def test_every_name_is_a_subpackages() -> None:
    public = {}
    for subpackage in SUBPACKAGES:
        module = importlib.import_module(f"cycledistill_pose.{subpackage}")
        public |= {name: getattr(module, name) for name in module.__all__}
    for name in cycledistill_pose.__all__:
        assert getattr(cycledistill_pose, name) is public[name]
    for name in ("PCK", "CocoKeypointAP", "CrowdPoseAP", "bootstrap_ap", "percentile_interval"):
        assert getattr(cycledistill_pose, name) is public[name], "where older programs look"
    with pytest.raises(AttributeError, match="has no attribute 'oks'"):
        cycledistill_pose.oks  # noqa: B018

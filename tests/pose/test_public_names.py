"""The names of the sub-packages at the top of the package."""

from __future__ import annotations

import importlib
import subprocess
import sys

import cycledistill_pose

ROOMS = (
    "skeletons",
    "models",
    "codecs",
    "losses",
    "checkpoints",
    "data",
    "drawing",
    "inside",
    "metrics",
    "prediction",
)


def test_every_public_name_of_the_sub_packages_is_there():
    expected = {}
    for room in ROOMS:
        module = importlib.import_module(f"cycledistill_pose.{room}")
        expected |= {name: getattr(module, name) for name in module.__all__}
    missing = expected.keys() - set(cycledistill_pose.__all__)
    assert missing == {"IMAGENET_MEAN", "IMAGENET_STD"}
    for name in cycledistill_pose.__all__:
        assert getattr(cycledistill_pose, name) is expected[name]


def test_networks_load_neither_opencv_nor_pycocotools():
    code = (
        "import sys; from cycledistill_pose import create_model, RLELoss; "
        "create_model('tokenpose_nano'); "
        "sys.exit(', '.join({'cv2', 'pycocotools', 'accelerate'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

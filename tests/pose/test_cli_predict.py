from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cycledistill_pose import COCO, create_model, save_plain
from cycledistill_pose.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_model("tokenpose_nano", COCO.num_keypoints)
    return save_plain(model, tmp_path_factory.mktemp("p") / "plain", "tokenpose_nano", {}, COCO)


def test_a_folder_of_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.fromarray(np.full((80, 60, 3), 99, np.uint8)).save(tmp_path / "in" / name)
    out = tmp_path / "out"
    main(["predict", str(tmp_path / "in"), "--checkpoint", str(folder), "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert [(r["file_name"], len(r["keypoints"])) for r in results] == [
        ("a.jpg", 51),
        ("b.png", 51),
    ]
    assert Image.open(out / "a.jpg.png").size == (60, 80)


def test_errors_leave_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_text("x")
    for name, text in (("empty", "has no images"), ("bad.jpg", "cannot be read")):
        with pytest.raises(SystemExit) as stopped:
            main(
                [
                    *("predict", str(tmp_path / name), "--checkpoint", str(folder)),
                    *("--out", str(tmp_path / "out")),
                ]
            )
        assert stopped.value.code == 1 and text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jpg", "empty"]

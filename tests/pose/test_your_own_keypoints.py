"""The commands of the page "Your own keypoints", on a file as CVAT exports it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cycledistill.__main__ import main as core
from cycledistill_pose.cli import main as pose
from tests.examples import run_example

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-own-keypoints.md").read_text("utf-8")
NAMES = ["beak", "left_wing", "right_wing", "tail", "crown"]


def write_export(folder: Path, count: int, seed: int) -> None:
    """What CVAT's "COCO Keypoints 1.0" holds: one bird in each image, each keypoint of one colour.

    The boxes are those around the points; one point in ten is hidden (0, 0, 0), and one bird has
    no visible point at all.
    """
    rng = np.random.default_rng(seed)
    images = folder / "images" / "default"
    images.mkdir(parents=True)
    content: dict[str, Any] = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "version": ""},
        "categories": [
            {"id": 1, "name": "sky", "supercategory": "", "keypoints": [], "skeleton": []},
            {"id": 2, "name": "bird", "supercategory": "", "keypoints": NAMES,
             "skeleton": [[1, 5], [5, 4], [2, 5], [3, 5]]},
        ],
        "images": [],
        "annotations": [],
    }  # fmt: skip
    for number in range(1, count + 1):
        name = f"frame_{number - 1:06d}.jpg"
        points = (rng.uniform(14, 60, 2) + rng.uniform(0, 30, (5, 2))).round(2)
        picture = rng.integers(90, 110, (96, 96, 3), dtype=np.uint8)
        for colour, (x, y) in enumerate(points.astype(int)):
            shade = [250 * bool(colour & bit) for bit in (1, 2, 4)]
            picture[y - 3 : y + 4, x - 3 : x + 4] = shade
        Image.fromarray(picture).save(images / name, quality=95)
        left, top = points.min(0).tolist()
        right, bottom = points.max(0).tolist()
        visible = rng.random(5) > 0.1 if number > 1 else np.zeros(5, bool)
        keypoints = [
            value
            for (x, y), seen in zip(points.tolist(), visible, strict=True)
            for value in ((x, y, 2) if seen else (0.0, 0.0, 0))
        ]
        content["images"].append(
            {"id": number, "width": 96, "height": 96, "file_name": name, "license": 0,
             "flickr_url": "", "coco_url": "", "date_captured": 0}
        )  # fmt: skip
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 2, "segmentation": [],
             "area": (right - left) * (bottom - top), "iscrowd": 0,
             "bbox": [left, top, right - left, bottom - top],
             "attributes": {"occluded": False, "rotation": 0.0, "track_id": number - 1,
                            "keyframe": True},
             "keypoints": keypoints, "num_keypoints": int(visible.sum())}
        )  # fmt: skip
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "person_keypoints_default.json"
    path.write_text(json.dumps(content))


def commands() -> list[list[str]]:
    """The page's commands, word by word."""
    found = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ").split() for block in found]


def run(command: list[str]) -> None:
    """Run a command of ours here, with patterns of files replaced by their names."""
    program, *arguments = command
    names = [sorted(Path().glob(word)) if "*" in word else [word] for word in arguments]
    main = {"cycledistill-pose": pose, "cycledistill": core}[program]
    main([str(name) for found in names for name in found])


def stopped(command: list[str], log: Path) -> int:
    """Stop the command with Ctrl-C after its first steps; returns its exit status."""
    words = [sys.executable, str(ROOT / command[1]), *command[2:]]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    for _ in range(15000):  # a start takes long where many run
        if process.poll() is not None or (log.is_file() and '"train"' in log.read_text()):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    return process.wait(120)


def short(command: list[str]) -> list[str]:
    """The same command over fewer epochs."""
    shorter = {"--epochs": "20", "--milestones": "15", "--evaluate-every": "20"}
    pairs = zip(["", *command], command, strict=False)
    return [shorter.get(option, word) for option, word in pairs]


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    write_export(Path("birds/train"), 9, seed=0)
    write_export(Path("birds/val"), 4, seed=1)
    train, evaluate, predict, export = commands()
    train = [*short(train), "--num-workers", "0", "--log-every", "1"]
    log = Path("runs/birds/log.jsonl")

    assert stopped(train, log) == 130
    done = run_example(Path(train[1]).name, *train[2:])
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "training set  8 people, 8 images, 9 annotations, 1 skipped: no labelled" in told
    assert f"5 of category 'bird': {', '.join(NAMES)}" in told
    assert "left_wing:right_wing (from the names); without a partner: beak, tail, crown" in told
    records = [json.loads(line) for line in log.read_text().splitlines()]
    first, second = (r["step"] for r in records if r["event"] == "start")
    assert first == 0 < second < 20 == records[-1]["step"]

    run(evaluate)
    assert Path("runs/birds-report/report.html").is_file()
    assert "3 people, 3 images" in capsys.readouterr().out

    run(predict)
    assert "boxes: 4, all used\n4 images, 4 people" in capsys.readouterr().out
    results = json.loads(Path("runs/birds-predicted/results.json").read_text())
    assert {(r["category_id"], len(r["keypoints"])) for r in results} == {(2, 15)}
    assert [r["file_name"] for r in results] == [f"frame_{n:06d}.jpg" for n in range(4)]

    run(export)
    assert Path("runs/birds.onnx").stat().st_size > 100_000

"""The pose and classification examples, killed and continued, and on two processes."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from cycledistill.training._checkpoint import read_checkpoint
from tests.deit.image_sets import hugging_face_folder, shards

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = (
    *("--input-size", 48, 64, "--dim", 24, "--depth", 2, "--batch-size", 8, "--num-synthetic", 32),
    *("--num-synthetic-val", 5, "--epochs", 8, "--evaluate-every", 3, "--log-every", 1),
    *("--milestones", 4, "--warmup-steps", 3, "--ema-decay", 0.9, "--pictures", 2),
    *("--checkpoint-every-steps", 1, "--resume", "auto", "--device", "cpu"),
)
CLASSIFIER = (
    *("--preset", "cifar10-cpu", "--embed-dim", 24, "--depth", 2, "--epochs", 4, "--batch-size", 4),
    *("--warmup-epochs", 1, "--log-every", 1, "--checkpoint-every-steps", 1, "--device", "cpu"),
    *("--mode", "distill", "--limit-train", "None", "--evaluate-every", 1),
)
HEATMAP = ("--heatmap-size", 12, 16)
TASKS = {"pose_coco.py": HEATMAP, "pose_regression.py": ()}

pytestmark = pytest.mark.slow


def start(runner: Any, script: str, folder: Path, *more: object, **request: Any) -> Any:
    arguments = (*TINY, *TASKS[script], "--output-dir", folder, *more)
    return runner(*arguments, program=str(EXAMPLES / script), **request)


@pytest.fixture(scope="module")
def whole(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that nobody disturbed, by script."""
    folders = {}
    for script in TASKS:
        folders[script] = tmp_path_factory.mktemp("whole")
        codes, output = start(runner, script, folders[script], "--num-workers", 0)
        assert codes == [0], output
    return folders


@pytest.mark.parametrize(("script", "kills"), [("pose_coco.py", 5), ("pose_regression.py", 2)])
def test_killed_at_random_moments(
    runner: Any, toy: Any, whole: dict[str, Path], tmp_path: Path, script: str, kills: int
) -> None:
    """kill -9 and the same command again: log, weights, averages, optimiser and flow agree."""
    moments = random.Random(1)
    steps_at_kill = [0]
    for number in range(kills):
        further = f"step {steps_at_kill[-1] + moments.randint(1, 3)}/32 "
        codes, output = start(
            runner,
            script,
            tmp_path,
            *("--num-workers", number % 2),
            signal=signal.SIGKILL,
            wait_for=further if number % 3 else "output ",
            after=moments.uniform(0.0, 0.1),
        )
        assert codes == [-signal.SIGKILL], output
        steps_at_kill.append((tmp_path / "log.jsonl").read_text().count('"event": "train"'))
    assert len(set(steps_at_kill)) >= kills // 3, steps_at_kill
    codes, output = start(runner, script, tmp_path, "--num-workers", 1)
    assert codes == [0], output
    assert toy.losses(tmp_path) == toy.losses(whole[script])
    last = "checkpoints/step-00000032"
    expected = read_checkpoint(whole[script] / last).state
    found = read_checkpoint(tmp_path / last).state
    flow = [name for name in expected["module"] if name.startswith("criterion.")]
    assert bool(flow) == (script == "pose_regression.py")
    for part in ("module", "average"):
        assert found[part].keys() == expected[part].keys()
        assert all(found[part][name].equal(value) for name, value in expected[part].items())
    for index, entry in expected["optimizer"]["state"].items():
        assert found["optimizer"]["state"][index]["exp_avg_sq"].equal(entry["exp_avg_sq"])
    for name in ("results.json", "plain/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole[script] / name).read_bytes()


@pytest.mark.parametrize("people", [5, 1])
def test_pose_figures_of_two_processes_are_those_of_one(
    runner: Any, whole: dict[str, Path], tmp_path: Path, people: int
) -> None:
    """The same weights evaluated by one and by two, of whom one may have nobody."""
    tables = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        shutil.copytree(whole["pose_coco.py"], folder)
        more = ("--num-synthetic-val", people, "--allow-changes", "--num-workers", 0)
        codes, output = start(runner, "pose_coco.py", folder, *more, ranks=ranks)
        assert codes == [0] * ranks and "which is all" in output, output
        tables.append(re.findall(r"^│.*│$", output, re.MULTILINE))
        results = json.loads((folder / "results.json").read_text())
        assert len({found["image_id"] for found in results}) == people
        tables[-1].append(sorted(json.dumps(found) for found in results))
    assert len(tables[0]) == 3  # one row for each number of cycles, and the results
    assert tables[0] == tables[1]


def test_classification_of_two_processes_is_that_of_one(
    runner: Any, toy: Any, tmp_path: Path
) -> None:
    """Trained by both and evaluated by both, the last batches and shares uneven."""
    outputs, logs = [], []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        arguments = (
            *("--preset", "digits", "--epochs", 2, "--warmup-epochs", 1, "--limit-train", 161),
            *("--batch-size", 40, "--no-drop-last", "--log-every", 1, "--eval-batch-size", 33),
            *("--output-dir", folder, "--device", "cpu"),
        )
        program = str(EXAMPLES / "deit_imagenet.py")
        codes, output = runner(*arguments, program=program, ranks=ranks)
        assert codes == [0] * ranks, output
        outputs.append(re.findall(r"^│.*│$", output, re.MULTILINE))
        logs.append(toy.losses(folder))
    assert len(outputs[0]) == 3 and outputs[0] == outputs[1]
    for one, two in zip(*logs, strict=True):
        for name in one.keys() - {"event"}:
            assert two[name] == pytest.approx(one[name], rel=2e-3), (one["step"], name)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "1", again)
    arguments = (*arguments[:-4], "--output-dir", again, "--device", "cpu")
    codes, output = runner(*arguments, program=program, ranks=2)  # one's weights, read by two
    assert codes == [0, 0] and "which is all" in output, output
    assert re.findall(r"^│.*│$", output, re.MULTILINE) == outputs[0]


def test_images_of_a_hugging_face_data_set_killed_and_continued(
    runner: Any, toy: Any, tmp_path: Path
) -> None:
    """Bit by bit, with other workers: the images have indices."""
    pytest.importorskip("datasets")
    images = hugging_face_folder(tmp_path / "images")
    options = (*CLASSIFIER, "--data-dir", f"hfds/{images}", "--data-root", tmp_path / "cache")
    program = str(EXAMPLES / "deit_imagenet.py")
    folders = tmp_path / "whole", tmp_path / "killed"
    codes, output = runner(
        *options, "--num-workers", 0, "--output-dir", folders[0], program=program
    )
    assert codes == [0], output
    killed = (*options, "--num-workers", 2, "--output-dir", folders[1])
    request = {"signal": signal.SIGKILL, "wait_for": "step 4/12 "}
    codes, output = runner(*killed, program=program, **request)
    assert codes == [-signal.SIGKILL], output
    codes, output = runner(*killed, program=program)
    assert codes == [0] and "continuing from" in output, output
    assert toy.losses(folders[1]) == toy.losses(folders[0])
    expected, found = (
        read_checkpoint(folder / "checkpoints/step-00000012").state["module"] for folder in folders
    )
    assert all(found[name].equal(value) for name, value in expected.items())


def test_shards_stopped_within_an_epoch(runner: Any, toy: Any, tmp_path: Path) -> None:
    """Not bit by bit, which is said; the number of steps and what came before stay."""
    pytest.importorskip("webdataset")
    images = shards(tmp_path / "shards")
    options = (*CLASSIFIER, "--data-dir", f"wds/{images}", "--num-classes", 3, "--num-workers", 1)
    program = str(EXAMPLES / "deit_imagenet.py")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    codes, output = runner(*options, "--output-dir", whole, program=program)
    assert codes == [0] and "not promised" in output, output
    assert "12 validation images" in output, output
    request = {"signal": signal.SIGTERM, "wait_for": "step 8/24 "}
    codes, output = runner(*options, "--output-dir", stopped, program=program, **request)
    assert codes == [143], output
    before = len(toy.losses(stopped))
    assert 8 <= before < 24
    codes, output = runner(*options, "--output-dir", stopped, program=program)
    assert codes == [0] and "not promised" in output and "continuing from" in output, output
    expected, found = toy.losses(whole), toy.losses(stopped)
    assert len(found) == len(expected) and found[:before] == expected[:before]


def test_shards_read_by_two_processes(runner: Any, toy: Any, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    images = shards(tmp_path / "shards")
    options = (*CLASSIFIER, "--data-dir", f"wds/{images}", "--num-classes", 3, "--num-workers", 1)
    program = str(EXAMPLES / "deit_imagenet.py")
    codes, output = runner(*options, "--output-dir", tmp_path / "run", program=program, ranks=2)
    assert codes == [0, 0] and output.count("not promised") == 1, output
    assert "12 validation images" in output, output

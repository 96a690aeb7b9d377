"""A pose network taught by a frozen one that was trained in cycles."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pose_coco import train

from cycledistill import CycleWrapper, FoldLoss
from cycledistill_pose import COCO, PosePredictor, Skeleton, load_plain, save_plain
from cycledistill_pose.losses import HeatmapMSELoss, RLELoss, as_truth
from cycledistill_pose.recipes import build_criterion, build_model, build_teacher, open_people
from tests.examples import EXAMPLES
from tests.pose.tiny import TINY


def test_the_distance_is_the_task_loss_with_the_teacher_as_truth() -> None:
    torch.manual_seed(0)
    one, other = torch.rand(2, 3, 4, 5, 6)
    found = as_truth(HeatmapMSELoss())(one, other)
    torch.testing.assert_close(found, (one - other).square().mean())
    rle = RLELoss()
    student, teacher = torch.rand(2, 3, 4, 4) + 0.1
    expected = rle(student, teacher[..., :2], torch.ones(3, 4))
    torch.testing.assert_close(as_truth(rle)(student, teacher), expected)


def test_a_stage_is_the_same_whether_the_one_before_ran_in_this_process(tmp_path: Path) -> None:
    weights = []
    for name in ("one", "other"):
        torch.rand(len(name))
        plain = train(replace(TINY, mode="plain", output_dir=tmp_path / name)).plain
        weights.append((plain / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenpose_nano", "tokenreg_nano"])
def test_grow_then_fold(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = replace(TINY, model=model)
    if model == "tokenreg_nano":
        base = replace(base, heatmap_size=None)
    grown = replace(base, mode="cycle", output_dir=tmp_path / "grown")
    used = train(grown).plain
    assert "2 passes through its blocks" in (used / "README.md").read_text()
    assert (
        load_plain(used).model.cycles_in_use == PosePredictor.from_pretrained(used).num_cycles == 2
    )
    folding = replace(
        base,
        mode="fold",
        folded_from=tmp_path / "grown",
        output_dir=tmp_path / "folded",
        truth_weight=0.25,
    )
    network = build_model(folding, 17)
    assert build_teacher(replace(folding, folded_from=used), network).num_cycles == 2
    teacher = build_teacher(folding, network)
    assert teacher is not None
    assert teacher.num_cycles == 2
    weights = load_plain(tmp_path / "grown" / "plain").model.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), "it starts from the teacher's weights"

    criterion = build_criterion(folding, network, teacher)
    assert isinstance(criterion, FoldLoss)
    images = torch.rand(2, 3, 64, 48)
    prediction = network.eval()(images)
    shape = prediction.shape if model == "tokenpose_nano" else (*prediction.shape[:2], 2)
    target, weight = torch.rand(shape), torch.ones(2, 17)
    losses = criterion(prediction, target, weight, inputs=images)
    with torch.no_grad():
        told = CycleWrapper(load_plain(tmp_path / "grown" / "plain").model, 2, "blocks").eval()(
            images, num_cycles=2
        )
    task = criterion.task_loss
    expected = 0.25 * task(prediction, target, weight) + 0.75 * as_truth(task)(prediction, told)
    torch.testing.assert_close(losses.total, expected)
    if model == "tokenreg_nano":
        return

    beside = tmp_path / "plain [s]"  # markup of rich
    train(replace(base, mode="plain", output_dir=beside, epochs=1))
    assert "the same with --mode distill" in capsys.readouterr().out
    run = train(replace(folding, beside=(beside,)))
    printed = capsys.readouterr().out
    table = printed[printed.index("Each network as it is used") :]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines()]
    plain, other, folded = (row for row in rows if len(row) > 3 and row[2].endswith(" M"))
    assert [row[1] for row in (plain, other, folded)] == ["1", "2", "1"]
    assert plain[0] == str(beside)
    assert plain[2] == folded[2] != other[2]
    assert folded[3] == f"{run.scores['AP/1']:.1f}"
    assert set(run.scores) >= {"AP/1"}
    assert "AP/2" not in run.scores
    assert load_plain(run.plain).model is not None

    with pytest.raises(ValueError, match=r"settings differ: teacher's weights \(\w+ then, \w+ now"):
        train(replace(folding, folded_from=beside))
    shutil.move(tmp_path / "grown", tmp_path / "moved")
    train(replace(folding, folded_from=tmp_path / "moved"))


def test_both_stages_in_one_run(tmp_path: Path) -> None:
    config = replace(TINY, mode="grow-fold", output_dir=tmp_path)
    config.validate()
    grown, folded = config.stages()
    assert (grown.mode, grown.output_dir, grown.training_cycles) == ("cycle", tmp_path / "grown", 2)
    assert (folded.mode, folded.folded_from) == ("fold", tmp_path / "grown")
    assert (folded.output_dir, folded.training_cycles) == (tmp_path / "folded", 1)
    assert TINY.stages() == (TINY,)
    for resume, later in (("never", "never"), ("other/checkpoints/step-00000001", "auto")):
        stages = replace(config, resume=resume).stages()
        assert [stage.resume for stage in stages] == [resume, later]
    for stage in (grown, folded):
        stage.validate()


@pytest.mark.slow
def test_both_stages_on_two_processes(tmp_path: Path) -> None:
    """The second process must not look for the grown network before the first has written it."""
    options = (
        "--mode grow-fold --input-size 48 64 --heatmap-size 12 16 --dim 48 --epochs 1 "
        "--milestones --num-synthetic 32 --num-synthetic-val 2 --device cpu --num-workers 0"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(EXAMPLES / "pose_coco.py", *options.split(), "--output-dir", tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("The plain network:") == 2


def test_a_fresh_student_keeps_its_own_weights(tmp_path: Path) -> None:
    train(replace(TINY, mode="cycle", output_dir=tmp_path / "grown"))
    config = replace(
        TINY, mode="fold", folded_from=tmp_path / "grown", warm_start=False, output_dir=tmp_path
    )
    torch.manual_seed(5)
    network = build_model(config, 17)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    build_teacher(config, network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    smaller = build_model(replace(config, dim=24), 17)
    with pytest.raises(ValueError, match=r"cannot start from the weights of .*grown.*warm-start"):
        build_teacher(replace(config, warm_start=True), smaller)
    other = build_model(replace(config, model="tokenreg_nano", heatmap_size=None), 17)
    with pytest.raises(ValueError, match=r"is a TokenPose for .*expected a TokenReg"):
        build_teacher(config, other)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"codec": "dark"}, True),
        ({"codec": "udp"}, False),
        ({"codec": "msra"}, False),
        ({"sigma": 1.0}, False),
        ({"heatmap_size": (6, 8)}, False),
    ],
)
def test_a_teacher_of_other_targets_is_refused(tmp_path: Path, changes: Any, fits: bool) -> None:
    save(tmp_path / "net", COCO)
    config = replace(TINY, mode="fold", folded_from=tmp_path / "net", warm_start=False, **changes)
    network = build_model(config, 17)
    if fits:
        assert build_teacher(config, network) is not None
        return
    with pytest.raises(ValueError, match=r"net was trained on other targets: expected .*, got"):
        build_teacher(config, network)


def test_networks_of_other_keypoints_are_refused_before_the_first_step(tmp_path: Path) -> None:
    save(tmp_path / "net", replace(COCO, keypoint_names=("mouth", *COCO.keypoint_names[1:])))
    for named in (
        {"beside": (tmp_path / "net",)},
        {"mode": "fold", "folded_from": tmp_path / "net"},
    ):
        with pytest.raises(ValueError, match=r"of the network .*net is 'mouth', expected 'nose'"):
            open_people(replace(TINY, **named))
    with pytest.raises(FileNotFoundError, match=r"nowhere has no model\.safetensors"):
        open_people(replace(TINY, mode="grow-fold", beside=(tmp_path / "nowhere",)))


def save(folder: Path, skeleton: Skeleton) -> None:
    options = {name: getattr(TINY, name) for name in ("input_size", "heatmap_size", "depth", "dim")}
    save_plain(build_model(TINY, 17), folder, TINY.model, options, skeleton, {"sigma": 2.0})


def test_options_that_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mode=fold and --folded-from FOLDER belong together"):
        replace(TINY, mode="fold").validate()
    with pytest.raises(ValueError, match=r"belong together, got mode=distill and folded_from="):
        replace(TINY, folded_from=tmp_path).validate()
    replace(TINY, mode="fold", folded_from=tmp_path, num_cycles=1).validate()
    with pytest.raises(ValueError, match="truth_weight must be at least 0 and at most 1, got 2"):
        replace(TINY, truth_weight=2.0).validate()
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors: expected the folder"):
        train(replace(TINY, mode="fold", folded_from=tmp_path, output_dir=tmp_path / "run"))

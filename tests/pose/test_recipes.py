"""A pose run from files to AP, and what the ablation options train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pose_coco import train
from torchmetrics import Metric

from cycledistill import CycleOutput, CycleWrapper
from cycledistill_pose import COCO, CROWDPOSE, load_plain, save_plain
from cycledistill_pose.annotations import BoxFile
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.models import TokenPruning, create_model, sdpose_loss
from cycledistill_pose.recipes import (
    PoseConfig,
    build_criterion,
    build_model,
    evaluate_cycles,
    model_options,
    open_people,
    scores_by_cycle,
)
from tests.examples import run_example
from tests.pose.tiny import TINY


def evaluate(model, people, codec, cycles):
    return evaluate_cycles(CycleWrapper(model, cycles, "blocks").eval(), people, codec, cycles)


@pytest.mark.parametrize(
    ("changes", "task", "keypoint", "visual"),
    [
        ({"mode": "distill"}, (1, 1), 5e-6, 5e-6),
        ({"mode": "distill", "keypoint_weight": 0.0}, (1, 1), 0, 5e-6),
        ({"mode": "distill", "visual_weight": 0.0}, (1, 1), 5e-6, 0),
        ({"mode": "distill", "task_cycles": "last"}, (0, 1), 5e-6, 5e-6),
        ({"mode": "cycle"}, (0, 1), 0, 0),
        ({"mode": "distill", "num_cycles": 3}, (1, 1, 1), 5e-6, 5e-6),
    ],
)
def test_options_of_tables_5_to_7_choose_the_terms(changes, task, keypoint, visual):
    config = replace(TINY, **changes)
    model = build_model(config, 17)
    criterion = build_criterion(config, model)
    output = CycleWrapper(model, len(task), "blocks")(torch.rand(2, 3, 64, 48))
    target, weight = torch.rand(2, 17, 16, 12), torch.ones(2, 17)
    losses = criterion(output, target, weight)
    expected = sum(loss for loss, used in zip(losses.task, task, strict=True) if used)
    expected = expected + keypoint * losses.tokens["keypoint"].sum()
    expected = expected + visual * losses.tokens["visual"].sum()
    torch.testing.assert_close(losses.total, expected)
    assert len(losses.tokens["visual"]) == len(task) - 1
    for prediction, used in zip(output.predictions, task, strict=True):
        (gradient,) = torch.autograd.grad(
            losses.total, prediction, retain_graph=True, allow_unused=True
        )
        assert (gradient is not None and bool(gradient.any())) == bool(used)
    tokens = tuple(t.detach().requires_grad_() for t in output.tokens)
    losses = criterion(CycleOutput(output.predictions, tokens), target, weight)
    (gradient,) = torch.autograd.grad(losses.total, tokens[0], allow_unused=True)
    for part, weight_of_part in ((slice(0, 17), keypoint), (slice(17, None), visual)):
        assert (gradient is not None and bool(gradient[:, part].any())) == bool(weight_of_part)


def test_three_cycles_distil_into_each_next_or_into_the_last():
    model = build_model(TINY, 17)
    output = CycleWrapper(model, 3, "blocks")(torch.rand(2, 3, 64, 48))
    one, two, three = output.tokens
    target, weight = torch.rand(2, 17, 16, 12), torch.ones(2, 17)
    for teacher, second in (("next", two), ("last", three)):
        losses = build_criterion(replace(TINY, teacher=teacher), model)(output, target, weight)
        expected = torch.stack(
            [
                (one[:, 17:] - second[:, 17:]).square().mean(),
                (two[:, 17:] - three[:, 17:]).square().mean(),
            ]
        )
        torch.testing.assert_close(losses.tokens["visual"], expected)


def test_a_run_detaches_teachers_as_the_loss_does_by_default():
    model = build_model(TINY, 17)
    assert build_criterion(TINY, model).detach_teacher == sdpose_loss(model).detach_teacher
    changed = replace(TINY, detach_teacher=not TINY.detach_teacher)
    assert build_criterion(changed, model).detach_teacher == changed.detach_teacher


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_cycles": 0}, r"num_cycles.* at least 1"),
        ({"num_cycles": 1}, "mode=distill with num_cycles=1 is plain training"),
        ({"milestones": (5, 2)}, r"milestones: expected rising epochs from 0, got \(5, 2\)"),
        ({"train_annotations": Path("a.json")}, "train_annotations and train_images go together"),
        ({"val_images": Path("a")}, "val_annotations and val_images go together"),
    ],
)
def test_bad_options_are_named(changes, text):
    with pytest.raises(ValueError, match=text):
        replace(TINY, **changes).validate()


def test_unknown_model_and_missing_root_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"model: expected .*, got 'tokenpose_xl'"):
        train(replace(TINY, model="tokenpose_xl", output_dir=tmp_path / "run"))
    with pytest.raises(ValueError, match="heatmap_size: expected None, because tokenreg_nano"):
        train(replace(TINY, model="tokenreg_nano", output_dir=tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        train(replace(TINY, data_root=tmp_path / "no", output_dir=tmp_path / "run"))
    with pytest.raises(ValueError, match="--dataset files needs --train-annotations"):
        open_people(replace(TINY, data_root=tmp_path, dataset="files"))
    assert not (tmp_path / "run").exists()


def test_a_schedule_says_what_of_it_has_no_effect():
    config = replace(TINY, epochs=10, warmup_steps=500, milestones=(3, 8, 10, 200))
    expected = "warm-up 500 of 400 steps, / 10 after epochs 3, 8, not reached: epochs 10, 200"
    assert config.schedule_text(40) == expected
    assert replace(config, milestones=()).schedule_text(100) == "warm-up 500 of 1,000 steps"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tokenpose_nano", "tokenreg_nano"])
def test_a_run_on_synthetic_people_leaves_what_it_promises(tmp_path, model, capsys):
    heatmaps = (12, 16) if model == "tokenpose_nano" else None
    easy = heatmaps is not None
    config = replace(TINY, model=model, heatmap_size=heatmaps, easy_synthetic=easy)
    config = replace(config, output_dir=tmp_path / "run")
    done = train(config)
    next_step = f"evaluate {done.plain} OTHER/plain{' --easy-synthetic' * easy}"
    assert f"{next_step} --num-synthetic-val 6;" in capsys.readouterr().out
    assert {"AP/1", "AP/2", "AR/1", "AR/2"} <= done.scores.keys()
    results = json.loads(done.results.read_text())
    assert results and len(results[0]["keypoints"]) == 51
    with Image.open(done.predictions) as picture:
        assert picture.width > 200 and np.asarray(picture).std() > 10
    card = (done.plain / "README.md").read_text("utf-8")
    assert f"| 1 | {done.scores['AP/1']:.1f} |" in card and '"training set":' in card
    assert str(tmp_path) not in card
    loaded = load_plain(done.plain)
    own = codec_for(loaded.model, method=config.codec, sigma=config.sigma)
    assert loaded.codec == own.to_dict() and bool(loaded.codec) == bool(heatmaps)
    assert ('"codec"' in card) == ('"sigma"' in card) == (heatmaps is not None)
    assert loaded.skeleton == COCO and not loaded.model.training
    with torch.no_grad():
        output = loaded.model(torch.rand(1, 3, 64, 48))
    assert output.shape == ((1, 17, 16, 12) if heatmaps else (1, 17, 4))


@pytest.mark.slow
def test_truth_as_prediction_scores_one_hundred_on_real_files(shared_data):
    """The whole path but the network: boxes, crops, targets, decoding, way back, AP."""
    config = replace(
        TINY, data_root=shared_data("tiny_coco"), input_size=None, heatmap_size=None,
        model="tokenpose_t", depth=1, flip_test=False,
    )  # fmt: skip
    _, people = open_people(config)
    codec = codec_for(build_model(config, 17), method=config.codec, sigma=config.sigma)
    crops = people.crops((192, 256))
    truth = {}
    for index in range(len(crops)):
        sample = crops[index]
        heatmaps, _ = codec.encode(sample["keypoints"][None], sample["visible"][None])
        truth[int(sample["annotation_id"])] = heatmaps[0]
    order = iter([int(crops[i]["annotation_id"]) for i in range(len(crops))])

    class Oracle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Identity()])
            self.unused = torch.nn.Parameter(torch.zeros(()))

        def forward(self, images):
            return self.blocks[0](torch.stack([truth[next(order)] for _ in images]))

    scores = scores_by_cycle(evaluate(Oracle(), people, codec, 1))
    assert scores["AP/1"] > 99.0 and scores["AR/1"] > 99.0 and scores["PCK/1"] > 99.0


@pytest.mark.slow
def test_detected_boxes_are_evaluated(shared_data):
    samples = shared_data("samples") / "coco"
    config = replace(
        TINY, data_root=samples, dataset="files", train_annotations=Path("test_coco.json"),
        train_images=Path("."), val_annotations=Path("test_coco.json"), val_images=Path("."),
        detections=samples / "test_coco_det_AP_H_56.json",
    )  # fmt: skip
    _, people = open_people(config)
    crops, annotated = people.crops((48, 64)), people.annotated.crops((48, 64))
    detections = json.loads((samples / "test_coco_det_AP_H_56.json").read_text())
    assert 0 < len(crops) <= len(detections) and len(annotated) < len(crops)
    model = build_model(config, 17)
    scores = scores_by_cycle(evaluate(model, people, codec_for(model), 2))
    assert 0 <= scores["AP/1"] <= 100


def test_repeated_boxes_are_people_of_their_own():
    people = open_people(replace(TINY, num_synthetic_val=2, nms="none"))[1]
    box = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 60, 90], "score": 0.5}
    people = replace(people, boxes=BoxFile.read([box, box], "detections"))
    model = build_model(TINY, 17)
    metric = evaluate(model, people, codec_for(model), 1)[0].ap
    assert [person["image_id"] for person in metric.results()] == [1, 1]


def test_metrics_are_on_the_device_of_the_network(monkeypatch):
    """NCCL, through which processes with GPUs communicate, exchanges no tensors of the CPU."""
    moved = []
    to = Metric.to
    monkeypatch.setattr(Metric, "to", lambda self, device: moved.append(self) or to(self, device))
    people = open_people(replace(TINY, num_synthetic_val=2))[1]
    model = build_model(TINY, 17)
    assert moved == [*evaluate(model, people, codec_for(model), 1)[0]]


def test_crowdpose_layout_joins_train_and_val_and_tests_on_test(tmp_path, shared_data):
    source = shared_data("samples") / "crowdpose"
    annotations = next(path for path in source.glob("*.json") if "det" not in path.name)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(source)
    content = json.loads(annotations.read_text())
    for offset, split in enumerate(("train", "val", "test")):
        part = json.loads(json.dumps(content))
        for image in part["images"]:
            image["id"] += 10_000_000 * offset
        for annotation in part["annotations"]:
            annotation["id"] += 10_000_000 * offset
            annotation["image_id"] += 10_000_000 * offset
        (tmp_path / "annotations" / f"crowdpose_{split}.json").write_text(json.dumps(part))
    config = replace(TINY, data_root=tmp_path, dataset="crowdpose", nms="none")
    training, people = open_people(config)
    model = build_model(config, 14)
    codec = codec_for(model)
    assert len(training.crops(codec)) == 2 * len(people.crops((48, 64)))
    assert people.skeleton == CROWDPOSE
    metrics = evaluate(model, people, codec, 1)
    assert {"AP/1", "AP50/1", "AR/1"} <= scores_by_cycle(metrics).keys()
    assert "AP_easy" in metrics[0].ap.compute()


def test_saved_network_comes_back_with_its_options(tmp_path):
    pruning = TokenPruning(blocks=(1,), keep_ratio=0.5)
    options = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 2, "pruning": pruning}
    model = create_model("tokenpose_nano", 14, **options).eval()
    folder = save_plain(model, tmp_path / "plain", "tokenpose_nano", options, CROWDPOSE)
    loaded = load_plain(folder)
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))
    assert loaded.skeleton == CROWDPOSE and loaded.model.pruning == pruning
    assert model_options(replace(TINY, pruning=True))["pruning"] == TokenPruning()


def test_a_saved_network_of_other_keypoints_starts_a_run(tmp_path):
    options = {"input_size": (64, 64), "heatmap_size": (16, 16), "patch_size": (4, 4), "depth": 2}
    trained = create_model("tokenpose_nano", 17, **options)
    folder = save_plain(trained, tmp_path / "plain", "tokenpose_nano", options, COCO)
    config = PoseConfig(model="tokenpose_nano", initial_weights=folder, **options)
    model = build_model(config, 5)
    assert torch.equal(model.head[-1].weight, trained.head[-1].weight)
    assert model.keypoint_tokens.shape[1] == 5
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_model(replace(config, initial_weights=tmp_path / "nowhere"), 5)


@pytest.mark.parametrize("script", ["pose_coco.py", "pose_regression.py"])
def test_examples_say_what_is_missing(tmp_path, script):
    missing = run_example(script, "--data-root", tmp_path)
    assert missing.returncode == 1 and missing.stderr.startswith("error: ")
    assert "person_keypoints_train2017.json" in missing.stderr

"""A run's files: read once, compared, and what is assumed about them is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pose_coco import train

from cycledistill.export import load_exportable
from cycledistill_pose import PoseAugmentation, load_plain
from cycledistill_pose.annotations import _file as reader
from cycledistill_pose.cli import main
from cycledistill_pose.codecs import RegressionCodec
from cycledistill_pose.comparison import compare_checkpoints
from cycledistill_pose.metrics import oks
from cycledistill_pose.prediction import PosePredictor, predict_cycles
from cycledistill_pose.recipes import (
    EvaluationOptions,
    PoseConfig,
    open_evaluation,
    open_people,
)
from cycledistill_pose.recipes._open import parse_flip_pairs
from cycledistill_pose.skeletons import CROWDPOSE

NAMES = ["head", "left_wing", "right_wing", "tail"]
CODEC = RegressionCodec((32, 32))


def write_file(path: Path, names: list[str] = NAMES, people: bool = True, **category: Any) -> Path:
    """Six birds of 48 x 48 px; returns the path, whose images lie beside it."""
    rng = np.random.default_rng(0)
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    entry = {"id": 3, "name": "bird", "keypoints": names, **category}
    content: dict[str, Any] = {"categories": [entry], "images": [], "annotations": []}
    for number in range(1, 7):
        picture = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(path.parent / "images" / f"{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": 48, "height": 48}
        )
        points = rng.uniform(10, 40, (len(names), 2)).round(1).tolist()
        person = {"id": number, "image_id": number, "category_id": entry["id"]}
        person |= {"bbox": [6, 6, 36, 36], "area": 1296.0}
        person["keypoints"] = [value for x, y in points for value in (x, y, 2)]
        content["annotations"] += [person] if people else []
    path.write_text(json.dumps(content))
    return path


def config_for(root: Path, **changes: Any) -> PoseConfig:
    options: dict[str, Any] = {
        "data_root": root, "dataset": "files", "output_dir": root / "run", "device": "cpu",
        "train_annotations": Path("train.json"), "train_images": Path("images"),
        "val_annotations": Path("val.json"), "val_images": Path("images"),
        "model": "tokenpose_nano", "input_size": (32, 32), "heatmap_size": (8, 8),
        "patch_size": (4, 4), "dim": 24, "depth": 1, "num_heads": 2, "epochs": 1, "batch_size": 6,
        "milestones": (), "warmup_steps": 1, "num_workers": 0, "pictures": 2,
    }  # fmt: skip
    return PoseConfig(**options | changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train.json", "val.json"):
        write_file(tmp_path / name)
    return tmp_path


def test_a_run_parses_each_file_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = reader.load_json

    def counting(source: Any, title: str) -> Any:
        parsed.append(Path(source).name)
        return real(source, title)

    monkeypatch.setattr(reader, "load_json", counting)
    config = config_for(root, num_cycles=3, epochs=2, evaluate_every=1)
    run = train(config)
    assert sorted(parsed) == ["train.json", "val.json"]
    assert {"AP/1", "AP/3"} <= run.scores.keys()
    parsed.clear()
    other = root / "other"
    run.plain.rename(other)
    compare_checkpoints([other], config, 2, resamples=2, cases=1, device="cpu")
    assert parsed == ["val.json"]


def test_the_network_keeps_the_training_files_category(root: Path, capsys: Any) -> None:
    write_file(root / "val.json", id=8, name="pigeon", sigmas=[0.1, 0.1, 0.1, 0.2])
    config = config_for(root, flip_pairs="head:tail", evaluate_every=1)
    run = train(config)
    results = json.loads(run.results.read_text())
    assert {entry["category_id"] for entry in results} == {8}  # the file's that AP is taken on
    skeleton = load_plain(run.plain).skeleton
    assert (skeleton.category_id, skeleton.category) == (3, "bird")
    assert skeleton.flip_pairs == ((0, 3),)
    told = " ".join(capsys.readouterr().out.split())
    assert "keypoints 4 of category 'bird': head, left_wing, right_wing, tail" in told
    assert "flip pairs head:tail (--flip-pairs); without a partner: left_wing, right_wing" in told
    assert "sigmas 0.1 0.1 0.1 0.2 (from the file)" in told
    out = root / "predicted"
    main(["predict", str(root / "images"), "--checkpoint", str(run.plain), "--out", str(out),
          "--boxes", str(root / "train.json")])  # fmt: skip
    assert "boxes: 6, all used" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert {entry["category_id"] for entry in results} == {3} and len(results) == 6
    with pytest.raises(SystemExit):
        main(["predict", str(root / "images"), "--checkpoint", str(run.plain.parent), "--out", "x"])
    assert f"it looks like a run, whose pose network is {run.plain}" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=f"a run, whose model is {run.plain}"):
        load_exportable(run.plain.parent)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c["annotations"][2].update(area=float("nan")), "annotation 3: its area: exp"),
        (lambda c: c["annotations"][2]["keypoints"].__setitem__(0, float("inf")), "'head': exp"),
        (lambda c: c["categories"][0].update(keypoints=NAMES[::-1]), "keypoint 1 of .*val.json is"),
        (lambda c: c["categories"][0].update(sigmas=[0.1, 0.1, 0.1, 0.0]), "sigmas: exp"),
        (lambda c: c["categories"].append({"id": 9, "name": "fish", "keypoints": ["eye"]}),
         None),  # the training file's category is taken
        (lambda c: c["categories"][0].pop("keypoints"), None),
    ],
)  # fmt: skip
def test_a_run_fails_before_its_first_step(root: Path, spoil: Any, words: str | None) -> None:
    content = json.loads((root / "val.json").read_text())
    spoil(content)
    (root / "val.json").write_text(json.dumps(content))
    if words is None:
        assert len(open_people(config_for(root))[1].crops((32, 32))) == 6
        return
    with pytest.raises(ValueError, match=words):
        train(config_for(root))
    assert not (root / "run").exists()


def test_a_run_is_not_continued_with_other_keypoints(root: Path, capsys: Any) -> None:
    """In another order they would give the network's outputs other names."""
    run = train(config_for(root, easy_synthetic=True))
    words = (
        f"evaluate {run.plain} OTHER/plain --data-root {root} --dataset files "
        "--val-annotations val.json --val-images images;"
    )
    printed = capsys.readouterr().out
    assert words in printed
    assert "COCO folder" not in printed and "--preset paper" not in printed
    for name in ("train.json", "val.json"):
        write_file(root / name, NAMES[::-1])
    with pytest.raises(ValueError, match=r"keypoints \(\['head', .* then, \['tail', .* now\)"):
        train(config_for(root, easy_synthetic=True))


def test_a_category_is_chosen_for_all_files(root: Path) -> None:
    for name in ("train.json", "val.json"):
        content = json.loads((root / name).read_text())
        content["categories"].append({"id": 9, "name": "fish", "keypoints": ["eye", "fin"]})
        content["annotations"][0] |= {"category_id": 9, "keypoints": [20, 20, 2, 30, 30, 2]}
        (root / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="say which category"):
        open_people(config_for(root))
    for category, count in (("fish", 1), ("bird", 5)):
        training, people = open_people(config_for(root, category=category))
        assert len(training.crops(CODEC)) == len(people.crops((32, 32))) == count
        assert people.skeleton.category == category
        assert people.metric().num_keypoints == people.skeleton.num_keypoints


def test_unknown_pairs_mirror_nothing_and_say_so(root: Path) -> None:
    for name in ("train.json", "val.json"):
        write_file(root / name, ["1", "2", "3", "4"])
    config = config_for(root, augmentation=PoseAugmentation(flip_probability=1.0))
    training, people = open_people(config)
    assert people.assumed()["flip pairs"].startswith("none known: no mirroring")
    never = replace(config, augmentation=PoseAugmentation(flip_probability=0.0))
    moved, still = training.crops(CODEC), open_people(never)[0].crops(CODEC)
    for index in range(6):
        assert (moved[index]["image"] == still[index]["image"]).all()
        assert (moved[index]["keypoints"] == still[index]["keypoints"]).all()
    training, people = open_people(replace(config, flip_pairs="1:2,3:4"))
    named = training.crops(CODEC)
    assert people.skeleton.flip_pairs == named.skeleton.flip_pairs == ((0, 1), (2, 3))
    assert any((named[i]["image"] != still[i]["image"]).any() for i in range(6))

    run = train(config)
    skeleton = load_plain(run.plain).skeleton
    predictor = PosePredictor.from_pretrained(run.plain)
    images = torch.randn(2, 3, 32, 32)
    plain, tested = (
        predict_cycles(predictor.model, images, predictor.codec, 1, flip)[0][0]
        for flip in (None, skeleton.flip_indices)
    )
    assert torch.equal(plain, tested)


def test_pairs_in_the_file_win_over_names(root: Path) -> None:
    for pairs in ([["head", "tail"]], [[1, 4]]):
        write_file(root / "train.json", flip_pairs=pairs)
        training, people = open_people(config_for(root))
        assert people.skeleton.flip_pairs == ((0, 3),)
        told = people.assumed(training.file.category)["flip pairs"]
        assert "head:tail (from the file)" in told
    assert parse_flip_pairs("a:b, c : d") == [["a", "b"], ["c", "d"]]
    assert open_people(config_for(root, flip_pairs="none"))[1].skeleton.flip_pairs == ()
    for wrong, words in (
        ("left_wing", "flip_pairs: expected .* got 'left_wing'"),
        ("left_wing:", "flip_pairs: expected"),
        ("left_wing:wing", "name the keypoint 'wing', expected one of head, left_wing"),
        ("head:tail,tail:left_wing", "is in two flip_pairs"),
        ("head:head", "is in two flip_pairs"),
    ):
        with pytest.raises(ValueError, match=words):
            open_people(config_for(root, flip_pairs=wrong))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dataset=files", {"dataset": "files"}),
        ("dataset=crowdpose", {"dataset": "crowdpose"}),
        ("val_annotations", {"val_annotations": Path("val.json"), "val_images": Path("images")}),
        ("detections", {"detections": Path("boxes.json")}),
        ("category", {"category": "bird"}),
        ("train_annotations", {"train_annotations": Path("a.json"), "train_images": Path(".")}),
        ("flip_pairs", {"flip_pairs": "none"}),
        ("crop_cache", {"crop_cache": Path("cache")}),
    ],
)
def test_files_without_their_folder_are_not_replaced_by_generated_people(name, options) -> None:
    words = f"{name} is for image files, but there is no data_root"
    with pytest.raises(ValueError, match=words):
        open_people(PoseConfig(**options))
    if all(hasattr(EvaluationOptions, option) for option in options):
        with pytest.raises(ValueError, match=words):
            open_evaluation(EvaluationOptions(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nms_threshold": 5.0}, "nms_threshold must be above 0 and at most 1, got 5.0"),
        ({"keypoint_score_threshold": np.nan}, "keypoint_score_threshold must be at least 0, got"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"num_synthetic_val": 0}, "num_synthetic_val must be at least 1, got 0"),
        ({"num_synthetic": 0}, "num_synthetic must be at least 1, got 0"),
        ({"pictures": 0}, "pictures must be at least 1, got 0"),
        ({"visual_weight": -1.0}, "visual_weight must be at least 0, got -1.0"),
        ({"warmup_steps": -5}, "warmup_steps must be at least 0, got -5"),
        ({"milestones": (-1,)}, r"milestones: expected rising epochs from 0, got \(-1,\)"),
    ],
)
def test_options_out_of_range_are_named_before_the_first_step(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        PoseConfig(**options).validate()
    if all(hasattr(EvaluationOptions, option) for option in options):
        with pytest.raises(ValueError, match=words):
            open_evaluation(EvaluationOptions(**options))


def write_test_images(root: Path) -> Path:
    """COCO's list of test images: eighty categories without keypoints, nobody annotated."""
    write_file(root / "val.json", people=False)
    content = json.loads((root / "val.json").read_text())
    del content["annotations"]
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 3, "name": "bird"}]
    (root / "val.json").write_text(json.dumps(content))
    boxes = [
        {"image_id": n, "category_id": 3, "bbox": [6, 6, 36, 36], "score": 0.5} for n in (1, 4)
    ]
    (root / "boxes.json").write_text(json.dumps([*boxes, {**boxes[0], "category_id": 1}]))
    return root / "boxes.json"


def test_images_without_annotations_get_predictions_and_no_ap(root: Path, capsys: Any) -> None:
    config = config_for(root, detections=write_test_images(root), evaluate_every=1)
    with pytest.raises(ValueError, match="no people to load"):
        open_people(replace(config, detections=None))[1].crops((32, 32))
    run = train(config)
    assert run.scores == {}
    results = json.loads(run.results.read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [(1, 3), (4, 3)]
    with Image.open(run.predictions) as picture:
        assert picture.width > 100
    out = root / "out"
    main(["evaluate", str(run.plain), "--out", str(out), "--data-root", str(root), "--dataset",
          "files", "--val-annotations", "val.json", "--val-images", "images", "--detections",
          str(config.detections), "--flip-test", "off", "--device", "cpu"])  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == [
        "results_1.json", "results_2.json", "scores.json"]  # fmt: skip
    again = json.loads((out / "results_1.json").read_text())
    assert [r["image_id"] for r in again] == [1, 4]
    assert "No AP: these images have no annotated people" in capsys.readouterr().out
    assert json.loads((out / "scores.json").read_text())["rows"][0]["scores"] == {}


def detect_birds(root: Path, *numbers: int) -> Path:
    boxes = [
        {"image_id": n, "category_id": 3, "bbox": [6, 6, 36, 36], "score": 0.5} for n in numbers
    ]
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root / "boxes.json"


def test_keypoints_without_boxes_are_evaluated_on_a_detectors(root: Path) -> None:
    content = json.loads((root / "val.json").read_text())
    for person in content["annotations"]:
        del person["bbox"]
    (root / "val.json").write_text(json.dumps(content))
    config = config_for(root, detections=detect_birds(root, 1, 2, 3))
    run = train(config)
    assert run.scores["AP/1"] >= 0 and run.plain.is_dir()
    found = compare_checkpoints([run.plain], config, 1, (False,), 2, 6, "cpu")
    assert "AP" in found.rows[0].scores and found.cases == []


def test_missing_images_of_annotated_people_end_a_run_before_its_first_step(root: Path) -> None:
    shutil.copytree(root / "images", root / "others")
    (root / "others" / "6.png").unlink()
    config = config_for(root, detections=detect_birds(root, 1, 2), val_images=Path("others"))
    with pytest.raises(FileNotFoundError, match=r"1 of 6 images are not in .*others, 6\.png"):
        train(config)
    assert not (root / "run").exists()


def test_files_in_crowdposes_layout_have_its_keypoints(root: Path) -> None:
    names = [*CROWDPOSE.keypoint_names[::-1][2:], "head", "neck"]
    for name in ("train.json", "val.json"):
        write_file(root / name, names)
    config = config_for(root, dataset="crowdpose")
    words = "is 'right_ankle', expected 'left_shoulder' as in --dataset crowdpose"
    for opened in (open_people, open_evaluation):
        with pytest.raises(ValueError, match=words):
            opened(config)


def test_duplicate_ids_pair_nobody_with_another_person(root: Path) -> None:
    """Two birds of one image share an id: each case is drawn and scored with its own truth."""
    content = json.loads((root / "val.json").read_text())
    for number, person in enumerate(content["annotations"]):
        person |= {"id": 1, "image_id": 1 + number // 2}
    (root / "val.json").write_text(json.dumps(content))
    run = train(config_for(root))
    other = root / "other"
    run.plain.rename(other)
    found = compare_checkpoints([other], config_for(root), 1, (False,), 2, 6, "cpu")
    factor = 192 / (1.25 * 36)  # px of the shown crop by px of the image
    assert len(found.cases) == 6
    for case in found.cases:
        truth, predicted = case.truth[None] / factor, case.predictions[0][None] / factor
        expected = oks(truth, predicted, [1296.0], sigmas=[0.079, 0.05, 0.05, 0.05])[0, 0]
        assert case.oks[0] == pytest.approx(expected, abs=1e-4)

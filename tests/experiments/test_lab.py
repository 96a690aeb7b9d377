"""The lab: keys, claims, records, splits, runs that stop, and figures that are right."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cycledistill import CycleOutput, CycleWrapper
from cycledistill_pose.data import CocoKeypoints
from experiments import _images, _people, _train
from experiments.__main__ import PAGE, results_of, run
from experiments._config import RunConfig
from experiments._headline import headline
from experiments._images import augment
from experiments._people import People, Poses
from experiments._report import section, table, write_page
from experiments._results import Results, weights_file
from experiments._statistics import paired_difference, spread
from experiments._studies import STUDIES, Study
from experiments._train import load_task, make_criterion, make_model, train

TINY = RunConfig(task="digits", mode="distill", epochs=2, train_samples=60, batch_size=30, width=16)


def study_of(**variants: RunConfig) -> Study:
    return Study("?", variants, seeds=(0, 1), baselines=(next(iter(variants)),))


def record_of(config: RunConfig, **metrics: float) -> dict[str, Any]:
    return {
        "key": config.key,
        "seed": config.seed,
        "commit": "abc",
        "date": "2026-01-01",
        "device": "x cpu",
        "threads": 1,
        "budget": {"training_macs": 2e12, "macs_in_use": 3000},
        "metrics": {name.replace("_", "/"): value for name, value in metrics.items()},
        "diverged": "" if metrics else "non-finite loss in step 3",
    }


def test_key_is_of_all_fields_and_not_of_defaults() -> None:
    keys = {TINY.key}
    for field in fields(RunConfig):
        value = getattr(TINY, field.name)
        if isinstance(value, str):
            other: Any = value + "?"
        else:
            other = not value if isinstance(value, bool) else (value or 0) + 1
        keys.add(replace(TINY, **{field.name: other}).key)
    assert len(keys) == 1 + len(fields(RunConfig))
    # A recorded key: it may not change when fields are added.
    assert RunConfig(task="digits", mode="plain", epochs=200, seed=100).key == "7b739c3c1f55a8d4"


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_sound(name: str) -> None:
    study = STUDIES[name]
    keys = [config.key for config in study.runs()]
    assert len(set(keys)) == len(keys) == len(study.variants) * len(study.seeds)
    assert set(study.baselines) <= set(study.variants)


def test_nothing_chosen_is_reported_with_the_same_seeds() -> None:
    chosen = {seed for study in STUDIES.values() if study.split == "val" for seed in study.seeds}
    shown = {seed for study in STUDIES.values() if study.split == "test" for seed in study.seeds}
    assert chosen and shown and not chosen & shown


def test_digits_are_split_into_three_parts() -> None:
    splits = _images._digits()
    assert [len(split.labels) for split in splits] == [500, 400, 897]
    images = torch.cat([split.images for split in splits])
    assert len(images.flatten(1).unique(dim=0)) == len(images)  # nobody is in two parts
    whole, fewer = load_task(replace(TINY, train_samples=None)), load_task(TINY)
    assert (whole.num_samples, fewer.num_samples) == (500, 60)
    everything, labels = whole.batch(torch.arange(500))
    assert torch.equal(labels[0], splits[0].labels)
    assert abs(float(everything.mean())) < 1e-4 and abs(float(everything.std()) - 1) < 1e-4
    assert torch.equal(fewer.batch(torch.arange(60)).targets[0], splits[0].labels[:60])
    with pytest.raises(ValueError, match="train_samples=501 is not within 1 and the 500"):
        load_task(replace(TINY, train_samples=501))


def test_cifar10_is_split_into_three_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    shade = 0
    for split, count in (("train", 20), ("val", 5)):
        for name in ("cat", "dog"):
            folder = tmp_path / "cifar10" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (5 * shade, 0, 0)).save(folder / f"{number:02}.png")
                shade += 1
    monkeypatch.setenv("CYCLEDISTILL_DATA", str(tmp_path))
    config = replace(TINY, task="cifar10", train_samples=None)
    splits = _images.read_cifar10(tmp_path / "cifar10")
    shades = [set(split.images[:, 0, 0, 0].tolist()) for split in splits]
    assert [len(found) for found in shades] == [36, 4, 10]
    assert len(set.union(*shades)) == 50  # no image in two parts
    train = splits[0]
    assert train.images.shape == (36, 3, 32, 32) and train.images.dtype == torch.uint8
    # Red is 5 x the number of the image: 0 to 19 are cats.
    assert torch.equal(train.labels, (train.images[:, 0, 0, 0] >= 100).long())
    task = load_task(config)
    assert task.num_samples == 36 and task.example.shape == (1, 3, 32, 32)
    _images.read_cifar10.cache_clear()
    (tmp_path / "cifar10" / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="val"):
        load_task(config)


def test_augmentation_shifts_and_mirrors() -> None:
    image = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    found = augment(image.expand(400, 1, 3, 4), padding=1)
    padded = torch.nn.functional.pad(image, (1,) * 4)[0, 0]
    possible = {}
    for top in range(3):
        for left in range(3):
            window = padded[top : top + 3, left : left + 4]
            for mirrored in (False, True):
                expected = window.flip(1) if mirrored else window
                possible[tuple(expected.flatten().tolist())] = (top, left, mirrored)
    seen = {possible[tuple(one.flatten().tolist())] for one in found}
    assert len(seen) == 18
    assert augment(image, padding=0) is image


def test_mixed_images_have_the_probabilities_of_their_parts() -> None:
    plain, mixed = load_task(TINY), load_task(replace(TINY, mixed=True))
    indices = torch.arange(8)
    images, (labels,) = plain.batch(indices)
    one_hot = torch.nn.functional.one_hot(labels, 10).float()
    other = one_hot.flip(0)
    for seed in range(8):
        np.random.seed(seed)
        found, (probabilities,) = mixed.batch(indices)
        share = found.sub(images).flatten(1).norm(dim=1)
        assert (share > 0).any()
        torch.testing.assert_close(probabilities.sum(1), torch.ones(8))
        different = labels != labels.flip(0)
        weight = (probabilities * one_hot).sum(1)[different]
        torch.testing.assert_close(weight, weight[:1].expand_as(weight))
        expected = weight[0] * one_hot + (1 - weight[0]) * other
        torch.testing.assert_close(probabilities, expected)
        loss = mixed.loss(TINY)(torch.zeros(8, 10), probabilities)
        assert float(loss) == pytest.approx(np.log(10), abs=1e-5)


def people(count: int) -> People:
    """People whose pixels tell the column, and whose keypoints stand at columns 24 and 44."""
    images = torch.arange(64, dtype=torch.uint8)[None, None, :, None].expand(count, 64, 64, 3)
    keypoints = torch.tensor([[24.0, 32.0], [44.0, 30.0], [32.0, 60.0]]).expand(count, 3, 2)
    visible = torch.tensor([1.0, 0.0, 1.0]).expand(count, 3)
    return People(images, keypoints, visible, torch.tensor([0.0, 0.0, 60.0, 40.0]).expand(count, 4))


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_mirrored_people_keep_their_keypoints(head: str) -> None:
    task = Poses(people(64), people(3), people(3), flip_indices=(1, 0, 2), head=head)
    inputs, (target, weight) = task.batch(torch.arange(64))
    first = inputs[:, 0, 0, 0]
    mirrored = first > first.mean()
    assert 10 < int(mirrored.sum()) < 54
    points = task.codec.decode(target)[0] if head == "heatmap" else 64 * target
    for flipped, seen in ((False, ~mirrored), (True, mirrored)):
        # Keypoint 0 of a mirrored person is keypoint 1 of the original, which is not labelled.
        labelled, where = (1, [63 - 24.0, 32.0]) if flipped else (0, [24.0, 32.0])
        assert weight[seen].reshape(int(seen.sum()), 3, -1)[:, :, 0].tolist() == (
            [[0.0, 1.0, 1.0] if flipped else [1.0, 0.0, 1.0]] * int(seen.sum())
        )
        expected = torch.tensor(where).expand(int(seen.sum()), 2)
        torch.testing.assert_close(points[seen, labelled], expected, atol=0.1, rtol=0)


def test_scores_of_people_are_measured_by_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Poses(people(4), people(3), people(5), flip_indices=(1, 0, 2), head="heatmap")
    config = replace(TINY, task="lspet", width=32, head_dim=16)
    cycled = make_model(config, task).eval()
    # The longest side is 60, so 0.1 of it are 6 px: 5 px are right, 7 px are wrong.
    near, far = torch.tensor([5.0, 0.0]), torch.tensor([0.0, 7.0])

    def predict(model: Any, images: Any, codec: Any, cycles: int, flip: Any) -> Any:
        truth = people(len(images)).keypoints
        return [(truth + near, None), (truth + torch.stack([near, near, far]), None)]

    monkeypatch.setattr(_people, "predict_cycles", predict)
    assert task.scores(cycled, "test", 2) == [100.0, 50.0]


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_a_pose_run(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Poses(people(8), people(3), people(3), flip_indices=(1, 0, 2), head=head)
    monkeypatch.setattr(_train, "load_task", lambda config: task)
    config = replace(TINY, task="lspet", head=head, batch_size=4, detach_teacher=False)
    record = train(config, tmp_path / "run", "cpu")
    assert set(record["metrics"]) == {f"{s}/PCK/{n}" for s in ("val", "test") for n in (1, 2)}
    assert all(0 <= value <= 100 for value in record["metrics"].values())


@pytest.mark.slow
def test_lspet_is_split_into_three_parts(
    shared_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_pixels(annotations: Path, folder: Path, size: tuple[int, int]) -> CocoKeypoints:
        images = json.loads(annotations.read_text())["images"]
        pixels = {
            image["file_name"]: np.broadcast_to(np.uint8(0), (image["height"], image["width"], 3))
            for image in images
        }
        return CocoKeypoints(annotations, pixels, size)

    monkeypatch.setattr(_people, "CocoKeypoints", without_pixels)
    train, val, test, swapped = _people.read_lspet.__wrapped__(shared_data("lspet"))
    assert [len(split.images) for split in (train, val, test)] == [6651, 739, 975]
    assert sorted(swapped) == list(range(14)) and train.images.shape[1:] == (64, 64, 3)
    extent = val.boxes[:, 2:] - val.boxes[:, :2]
    torch.testing.assert_close(extent.amax(1), torch.full((739,), 64 / 1.25), atol=0.5, rtol=0)
    inside = (val.keypoints[val.visible > 0] - 31.5).abs() < 32
    assert float(inside.float().mean()) > 0.99


def test_criterion_of_each_mode() -> None:
    known = load_task(TINY)
    logits = torch.zeros(2, 10), torch.ones(2, 10)
    output = CycleOutput(logits, (torch.zeros(2, 3, 4), torch.ones(2, 3, 4)))
    labels = torch.tensor([1, 2])
    task = float(torch.tensor(10.0).log())
    distill = replace(TINY, token_weight=0.5)
    assert float(make_criterion(distill, known)(output, labels).total) == pytest.approx(
        2 * task + 0.5
    )
    mean = replace(distill, task_cycles="mean")
    assert float(make_criterion(mean, known)(output, labels).total) == pytest.approx(task + 0.5)
    cycle = replace(distill, mode="cycle", prediction_weight=1.0)
    assert float(make_criterion(cycle, known)(output, labels).total) == pytest.approx(task)
    later = torch.zeros(2, 3, 4)
    later[:, 0] = 2.0
    output = CycleOutput(logits, (torch.zeros(2, 3, 4), later))
    for group, distance in (("class", 4.0), ("patch", 0.0)):
        alone = make_criterion(replace(distill, token_group=group), known)
        assert float(alone(output, labels).total) == pytest.approx(2 * task + 0.5 * distance)


def test_variants_start_from_the_same_weights() -> None:
    task = load_task(TINY)
    plain = make_model(replace(TINY, mode="plain"), task).state_dict()
    cycled = make_model(TINY, task).state_dict()
    other = make_model(replace(TINY, seed=1), task).state_dict()
    assert plain.keys() == cycled.keys()
    assert all(torch.equal(plain[name], cycled[name]) for name in plain)
    assert not torch.equal(plain["pos_embed"], other["pos_embed"])


def test_a_run_is_recorded_once_and_the_same_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "results" / "s.jsonl", tmp_path / "work")
    study = Study("?", {"a": TINY, "b": replace(TINY, mode="plain")}, (0,), ("b",))
    assert run(study, results, "cpu") == 2
    text = results.path.read_text()
    assert run(study, results, "cpu") == 0
    assert results.path.read_text() == text
    records = results.read()
    cycled, plain = records[TINY.key], records[study.variants["b"].key]
    assert set(cycled["metrics"]) == {f"{s}/accuracy/{n}" for s in ("val", "test") for n in (1, 2)}
    assert set(plain["metrics"]) == {"val/accuracy/1", "test/accuracy/1"}
    assert RunConfig(**cycled["config"]) == TINY
    assert cycled["budget"]["training_macs"] == 2 * plain["budget"]["training_macs"]
    assert cycled["budget"]["macs_in_use"] == plain["budget"]["macs_in_use"]
    assert not cycled["budget"]["resumed"] and not list(results.work.glob("*/checkpoints"))
    again = train(TINY, tmp_path / "again", "cpu")
    assert again["metrics"] == cycled["metrics"]


def test_a_frozen_teacher_is_trained_first_and_recorded(tmp_path: Path) -> None:
    folded = replace(TINY, mode="fold", epochs=3)
    grown = replace(folded, mode="cycle")
    study = Study("?", {"grown": grown, "folded": folded}, (4,), ("grown",), teachers=("grown",))
    assert study.run("grown", 4) == study.run("folded", 4).taught_by  # type: ignore[union-attr]
    results = Results(tmp_path / "r" / "s.jsonl", tmp_path / "work")
    assert run(study, results, "cpu", ["folded"]) == 2 and run(study, results, "cpu") == 0
    teacher, student = (results.read()[config.key] for config in study.runs())
    assert set(student["metrics"]) == {"val/accuracy/1", "test/accuracy/1"}
    one, two = (record["budget"]["macs_in_use"] for record in (student, teacher))
    assert one < two
    costs = [record["budget"]["training_macs"] for record in (student, teacher)]
    plain = train(replace(folded, mode="plain"), tmp_path / "plain", "cpu")["budget"]
    assert costs[0] == pytest.approx(costs[1] * 4 / 3 + plain["training_macs"])
    # Without learning the student is its teacher's plain network, but for a fresh one.
    still = replace(folded, lr=1e-30)
    stills = {"warm": still, "fresh": replace(still, warm=False)}
    assert run(Study("?", stills, (4,), ("warm",)), results, "cpu") == 3
    assert still.seeded(4).taught_by is not None
    scores = [
        results.read()[config.key]["metrics"]["test/accuracy/1"]
        for config in (still.seeded(4), stills["fresh"].seeded(4), still.seeded(4).taught_by)
    ]
    assert scores[0] == scores[2] != scores[1]
    # Lost weights come back without a second record.
    weights_file(study.run("grown", 4).key, results.work).unlink()
    weighed = Study("?", {"a": replace(folded, truth_weight=0.5)}, (4,), ("a",))
    lines = len(results.path.read_text().splitlines())
    assert run(weighed, results, "cpu") == 2
    assert len(results.path.read_text().splitlines()) == lines + 1


def test_people_learn_from_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for head, shape in (("heatmap", (2, 3, 16, 16)), ("regression", (2, 3, 4))):
        task = Poses(people(8), people(3), people(3), flip_indices=(1, 0, 2), head=head)
        monkeypatch.setattr(_train, "load_task", lambda config, task=task: task)
        config = replace(TINY, task="lspet", head=head, batch_size=4, mode="fold")
        loss = task.loss(config)
        student, teacher = torch.rand(shape), torch.rand(shape)
        found = task.teaching(loss)(student, teacher)
        truth = teacher if head == "heatmap" else teacher[..., :2]
        assert torch.equal(found, loss(student, truth, torch.ones(2, 3)))
        results = Results(tmp_path / head / "s.jsonl", tmp_path / head / "work")
        assert run(Study("?", {"a": config}, (0,), ("a",)), results, "cpu") == 2
        assert 0 <= results.read()[config.key]["metrics"]["test/PCK/1"] <= 100


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(TINY, tmp_path / "whole", "cpu")
    steps = []

    def power_cut(images: torch.Tensor, padding: int) -> torch.Tensor:
        steps.append(padding)
        if len(steps) == 4:  # the second of two steps of the second epoch
            raise KeyboardInterrupt
        return augment(images, padding)

    monkeypatch.setattr(_images, "augment", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "stopped", "cpu")
    assert len(steps) == 4
    resumed = train(TINY, tmp_path / "stopped", "cpu")
    assert len(steps) == 6  # both steps of the second epoch again, neither of the first
    assert resumed["budget"]["resumed"] and resumed["metrics"] == whole["metrics"]


def test_a_run_that_diverges_is_a_result(tmp_path: Path) -> None:
    config = replace(TINY, token_weight=float("inf"))
    record = train(config, tmp_path / "run", "cpu")
    assert record["diverged"].startswith("non-finite loss in step 1") and not record["metrics"]
    assert str(tmp_path) not in json.dumps(record)


def _hold(results: Results, key: str, ready: Any) -> None:
    with results.claim(key) as mine:
        ready.send(mine)
        time.sleep(60)


def test_claims_exclude_others_and_end_with_their_process(tmp_path: Path) -> None:
    results = Results(tmp_path / "s.jsonl", tmp_path / "work")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(results, "k", theirs))
    process.start()
    assert ours.poll(30) and ours.recv() is True
    with results.claim("k") as mine:
        assert not mine
    with results.claim("another") as mine:
        assert mine
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with results.claim("k") as mine:
        assert mine
    results.append({"key": "k"})
    with results.claim("k") as mine:
        assert not mine


def test_half_a_line_is_no_record(tmp_path: Path) -> None:
    results = Results(tmp_path / "s.jsonl", tmp_path / "work")
    assert results.read() == {}
    results.append({"key": "a"})
    with open(results.path, "a") as file:
        file.write('{"key": "b", "metr')
    assert list(results.read()) == ["a"]
    results.append({"key": "c"})
    assert list(results.read()) == ["a", "c"]
    with open(results.path, "a") as file:
        file.write("nonsense\n")
    with pytest.raises(ValueError, match=r"s\.jsonl:3 is no record"):
        results.read()


def test_spread_and_difference() -> None:
    # 95 % points of Student's t from printed tables: 12.706 (1 degree of freedom), 2.776 (4).
    two = spread([1.0, 3.0])
    assert two.mean == 2 and two.half == pytest.approx(12.706, abs=1e-3)
    five = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, abs=1e-3)
    paired = paired_difference({0: 5.0, 1: 9.0, 7: 0.0}, {0: 4.0, 1: 8.0, 2: 50.0})
    assert paired is not None and paired.mean == 1 and paired.half == 0 and paired.seeds == 2
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_table() -> None:
    plain, cycle = replace(TINY, mode="plain"), replace(TINY, mode="cycle")
    study = study_of(plain=plain, ours=TINY, cycle=cycle, never=replace(TINY, depth=3))
    done = [
        record_of(replace(plain, seed=0), test_accuracy_1=90.0),
        record_of(replace(plain, seed=1), test_accuracy_1=92.0),
        record_of(replace(TINY, seed=0), test_accuracy_1=91.0, test_accuracy_2=95.0),
        record_of(replace(TINY, seed=1)),
        record_of(replace(cycle, seed=1), test_accuracy_1=10.0, test_accuracy_2=93.5),
    ]
    lines = table(study, {record["key"]: record for record in done}).splitlines()[2:]
    assert lines == [
        "| plain | 2 | 2 | 3 k | 2 | 91.00 ± 12.71 |  |  |",
        "| ours | 2 | 2 | 3 k | 1, 1 diverged | 91.00 | 95.00 | +1.00 |",
        "| cycle | 2 | 2 | 3 k | 1 | 93.50 | 93.50 | +1.50 |",
        "| never | 2 |  |  | 0 |  |  |  |",
    ]


def test_page_keeps_what_people_wrote(tmp_path: Path) -> None:
    study = study_of(plain=replace(TINY, mode="plain"))
    record = record_of(study.runs()[0], test_accuracy_1=90.0)
    page = tmp_path / "docs" / "results" / "lab.md"
    page.parent.mkdir(parents=True)
    page.write_text("before\n<!-- s: begin -->\nold\n<!-- s: end -->\nafter\n")
    written = write_page(page, {"s": study}, {"s": {record["key"]: record}})
    first = page.read_text()
    assert first.startswith("before\n") and first.endswith("\nafter\n") and "old" not in first
    assert "1 of 2 runs" in first and all(path.stat().st_size for path in written)
    assert write_page(page, {"s": study}, {"s": {record["key"]: record}}) == written
    assert page.read_text() == first
    with pytest.raises(ValueError, match="0 places for the study t"):
        write_page(page, {"t": study}, {"t": {record["key"]: record}})


def test_without_anything_to_compare_there_is_no_picture(tmp_path: Path) -> None:
    study = study_of(plain=replace(TINY, mode="plain"), other=TINY)
    study = replace(study, baselines=("plain",), plot="differences")
    page = tmp_path / "docs" / "results" / "lab.md"
    page.parent.mkdir(parents=True)
    page.write_text("<!-- s: begin -->\n<!-- s: end -->\n")
    names = {name: study.run(name, study.seeds[0]) for name in ("plain", "other")}
    scores = {"test_accuracy_1": 90.0, "test_accuracy_2": 91.0}
    records = {run.key: record_of(run, **scores) for run in names.values()}
    alone = {names["plain"].key: records[names["plain"].key]}
    assert write_page(page, {"s": study}, {"s": alone}) == [page]
    assert "![" not in page.read_text() and "1 of 4 runs" in page.read_text()
    assert [path.suffix for path in write_page(page, {"s": study}, {"s": records})] == [
        ".md",
        ".png",
    ]
    assert "![" in page.read_text()


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    text = PAGE.read_text("utf-8")
    for name, study in STUDIES.items():
        body = section(name, study, results_of(name).read())
        assert f"<!-- {name}: begin -->\n\n{body}\n\n<!-- {name}: end -->" in text, (
            "run: python -m experiments report"
        )
    body = headline(STUDIES, {name: results_of(name).read() for name in STUDIES})
    assert f"<!-- headline: begin -->\n\n{body}\n\n<!-- headline: end -->" in text


def test_a_run_of_one_study_is_known_to_others(tmp_path: Path) -> None:
    work = tmp_path / "work"
    Results(tmp_path / "results" / "one.jsonl", work).append({"key": "k"})
    other = Results(tmp_path / "results" / "two.jsonl", work)
    with other.claim("k") as mine:
        assert not mine
    assert list(other.read()) == ["k"] and not other.path.exists()


def test_cycles_may_begin_later_or_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    forward = CycleWrapper.forward

    @functools.wraps(forward)
    def counted(self: CycleWrapper, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if self.training:
            counts.append(len(output.tokens))
        return output

    monkeypatch.setattr(CycleWrapper, "forward", counted)

    def macs(config: RunConfig) -> float:
        return float(train(config, tmp_path / config.key, "cpu")["budget"]["training_macs"])

    one, two = macs(replace(TINY, mode="plain")), macs(TINY)
    assert counts == [1] * 4 + [2] * 4
    counts.clear()
    late = macs(replace(TINY, cycles_from=0.5))
    assert counts == [1, 1, 2, 2] and late == pytest.approx((one + two) / 2)
    counts.clear()
    drawn = macs(replace(TINY, epochs=10, min_cycles=1))
    assert set(counts) == {1, 2} and drawn == pytest.approx(5 * (one + two) / 2)

"""The quick loop: seeds trained at once are what each is alone, and losses are what they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from cycledistill import CycleWrapper
from experiments import _image_classes, _image_study, _image_train
from experiments._image_data import SeededImages
from experiments._image_run import ImageRun
from experiments._image_study import run_seeds
from experiments._image_train import train_seeds
from experiments._image_views import Views
from experiments._images import Split
from experiments._results import Results, weights_file
from experiments._study import Study
from experiments._vit import SeededViT, initial_weights, plain_model, stacked
from experiments._weights import keep, load_kept, score

TINY = ImageRun(epochs=2, train_samples=40, width=32, depth=1, patch_size=16, batch_size=10)
GROWN = replace(TINY, cycles=2, used=2)
FOLDED = replace(TINY, teachers=(GROWN,), warm=True)


def some_images(count: int, seed: int) -> Split:
    numbers = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    return Split(images, torch.randint(0, 10, (count,), generator=numbers))


SPLITS = some_images(40, 0), some_images(30, 1), some_images(20, 2)


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_image_classes, "cifar10", lambda cache: SPLITS)


def moved(config: ImageRun, *seeds: int) -> list[dict[str, Tensor]]:
    """Weights of which every one matters."""
    found = [initial_weights(config.seeded(seed)) for seed in seeds]
    for own in found:
        for value in own.values():
            value.add_(0.1 * torch.randn_like(value))
    return found


def timm_model(config: ImageRun, weights: dict[str, Tensor]) -> nn.Module:
    model = plain_model(config)
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.parametrize("depth", [1, 2])
def test_predictions_are_those_of_timm_for_every_cycle(depth: int) -> None:
    config = replace(TINY, depth=depth)
    weights = moved(config, 0, 1)
    images = torch.randn(2, 3, 3, 32, 32)
    found = SeededViT(config, stacked(weights)).cycles(images, 3, every=True)
    last = SeededViT(config, stacked(weights)).cycles(images, 3)
    for place, own in enumerate(weights):
        cycled = CycleWrapper(timm_model(config, own), num_cycles=3, blocks="blocks").eval()
        for cycle in range(3):
            expected = cycled(images[place], num_cycles=cycle + 1)
            torch.testing.assert_close(found[cycle].outputs[place], expected, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(last[0].outputs[place], expected, atol=2e-5, rtol=2e-5)


def test_what_later_cycles_have_alone_begins_as_nothing_and_leaves_the_first_cycle() -> None:
    plain = replace(TINY, cycles=2)
    rich = replace(plain, own_norms=True, adapter_rank=2)
    images = torch.randn(1, 3, 3, 32, 32)
    weights = initial_weights(rich)
    assert {name for name in weights if not name.startswith("later.")} == set(initial_weights(TINY))
    plainly = SeededViT(plain, stacked([initial_weights(plain)])).cycles(images, 2, every=True)
    for name in [None, *(name for name in weights if name.startswith("later."))]:
        own = {key: value.clone() for key, value in weights.items()}
        if name is not None:
            own[name] += torch.randn_like(own[name])
        found = SeededViT(rich, stacked([own])).cycles(images, 2, every=True)
        torch.testing.assert_close(found[0].outputs, plainly[0].outputs)
        same = torch.allclose(found[1].outputs, plainly[1].outputs, atol=1e-6)
        assert same is (name is None or name.endswith(".down"))  # as .up is still zero


def test_every_shift_and_both_sides_are_drawn() -> None:
    pictures = SPLITS[0].images
    data = SeededImages(pictures, [0, 1])
    indices = torch.zeros(2, 3000, dtype=torch.long)
    drawn = data.batch(indices)
    found = drawn.images
    assert found.shape == (2, 3000, 3, 32, 32)
    padded = functional.pad(data.normalized(pictures[:1]), (4,) * 4)[0]
    mask = functional.pad(torch.randn(3, 24, 24), (4,) * 4)  # what no shift pushes out
    shifts = [(top, left) for top in range(9) for left in range(9)]
    windows = [
        own[:, top : top + 32, left : left + 32]
        for own in (padded, padded.flip(2))
        for top, left in shifts
    ]
    both = torch.stack(windows)
    apart = (found[0] * mask).sum((1, 2, 3))[:, None] - (both * mask).sum((1, 2, 3))
    nearest = apart.abs().argmin(1)
    assert len(nearest.unique()) == 162
    # Padding is the mean colour, to half a grey level: 0 within 0.01.
    torch.testing.assert_close(found[0], both[nearest], atol=0.01, rtol=0)
    told = 81 * drawn.mirrored + 9 * (4 - drawn.down) + 4 - drawn.right
    assert torch.equal(told[0], nearest)
    again = SeededImages(pictures, [1]).batch(indices[:1])[0]
    assert torch.equal(found[1], again[0]) and not torch.equal(found[0], found[1])


def reference_kl(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    own = (student / temperature).log_softmax(-1)
    return (target * (target.log() - own)).sum(-1).mean() * temperature**2


def loss_of(config: ImageRun, weights: list[dict[str, Tensor]], *taught: Any) -> Any:
    images, labels = torch.randn(2, 5, 3, 32, 32), torch.randint(0, 10, (2, 5))
    teachers = [SeededViT(own, stacked(values)) for own, values in taught]
    model = SeededViT(config, stacked(weights), training=True)
    return images, labels, _image_train._loss(model, teachers, images, labels)


def test_loss_of_frozen_teachers_is_that_of_their_mean_prediction() -> None:
    deeper = replace(TINY, depth=2)
    config = replace(
        FOLDED, teachers=(GROWN, deeper), temperature=3.0, truth_weight=0.2, token_weight=0.7
    )
    student, grown, deep = moved(TINY, 0, 1), moved(GROWN, 2, 3), moved(deeper, 4, 5)
    images, labels, found = loss_of(config, student, (GROWN, grown), (deeper, deep))
    expected = torch.zeros(())
    for place in range(2):
        model = timm_model(TINY, student[place])
        cycled = CycleWrapper(timm_model(GROWN, grown[place]), blocks="blocks").eval()
        told = cycled(images[place], num_cycles=2), timm_model(deeper, deep[place])(images[place])
        target = (told[0] / 3).softmax(-1) / 2 + (told[1] / 3).softmax(-1) / 2
        logits = model(images[place])
        truth = functional.cross_entropy(logits, labels[place])
        token = model.blocks(model._pos_embed(model.patch_embed(images[place])))[:, 0]
        other = cycled.forward_cycles(images[place], num_cycles=2).tokens[-1][:, 0]
        apart = functional.layer_norm(token, (32,)) - functional.layer_norm(other, (32,))
        expected = expected + 0.2 * truth + 0.8 * reference_kl(logits, target, 3.0)
        expected = expected + 0.7 * apart.square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_loss_of_the_joint_recipe_and_of_both_speeds() -> None:
    joint = replace(TINY, cycles=2, every_cycle=True, prediction_weight=0.5, label_smoothing=0.1)
    student = moved(TINY, 0, 1)
    images, labels, found = loss_of(joint, student)
    speeds = replace(TINY, cycles=2, every_cycle=True, teachers=(GROWN, TINY))
    grown, plain = moved(GROWN, 2, 3), moved(TINY, 4, 5)
    pictures, truths, both = loss_of(speeds, student, (GROWN, grown), (TINY, plain))
    _, _, alone = loss_of(replace(speeds, teachers=(GROWN,)), student, (GROWN, grown))
    assert not torch.allclose(alone, both)
    expected, expected_both = torch.zeros(()), torch.zeros(())
    for place in range(2):
        cycled = CycleWrapper(timm_model(TINY, student[place]), blocks="blocks").eval()
        one, two = (cycled(images[place], num_cycles=n) for n in (1, 2))
        for logits in (one, two):
            truth = functional.cross_entropy(logits, labels[place], label_smoothing=0.1)
            expected = expected + truth / 2
        expected = expected + 0.5 * reference_kl(one, two.softmax(-1), 1.0)
        teacher = CycleWrapper(timm_model(GROWN, grown[place]), blocks="blocks").eval()
        told = (
            teacher(pictures[place], num_cycles=2),
            timm_model(TINY, plain[place])(pictures[place]),
        )
        for n, target in enumerate(told, 1):
            logits = cycled(pictures[place], num_cycles=n)
            truth = functional.cross_entropy(logits, truths[place])
            kl = reference_kl(logits, (target / 2).softmax(-1), 2.0)
            expected_both = expected_both + (0.1 * truth + 0.9 * kl) / 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, expected_both, rtol=1e-4, atol=1e-5)


def test_mixed_images_have_both_labels_and_a_teacher_that_sees_them_mixed() -> None:
    student, grown = moved(TINY, 0, 1), moved(GROWN, 2, 3)
    images, labels = torch.randn(2, 5, 3, 32, 32), torch.randint(0, 10, (2, 5))
    labels[:, 1] = _image_classes.UNLABELLED
    shares = torch.tensor([0.25, 0.8])
    found = _image_train._loss(
        SeededViT(FOLDED, stacked(student)),
        [SeededViT(GROWN, stacked(grown))],
        images,
        labels,
        shares,
    )
    expected = torch.zeros(())
    for place, share in enumerate(shares.tolist()):
        own, before = images[place], images[place][[4, 0, 1, 2, 3]]
        mixed = share * own + (1 - share) * before
        logits = timm_model(TINY, student[place])(mixed)
        teacher = CycleWrapper(timm_model(GROWN, grown[place]), blocks="blocks").eval()
        told = (teacher(mixed, num_cycles=2) / 2).softmax(-1)
        truth = torch.zeros(())
        for part, order in ((share, [0, 1, 2, 3, 4]), (1 - share, [4, 0, 1, 2, 3])):
            labelled = [i for i in range(5) if order[i] != 1]  # image 1 has no label
            classes = labels[place][[order[i] for i in labelled]]
            truth = truth + part * functional.cross_entropy(logits[labelled], classes)
        expected = expected + 0.1 * truth + 0.9 * reference_kl(logits, told, 2.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_unlabelled_images_count_in_an_epoch_and_their_labels_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(GROWN, train_samples=20)
    config = replace(FOLDED, teachers=(few,), train_samples=20, unlabelled=True)
    found = []
    for labels in (SPLITS[0].labels, torch.cat([SPLITS[0].labels[:20], torch.zeros(20).long()])):
        splits = (Split(SPLITS[0].images, labels), *SPLITS[1:])
        monkeypatch.setattr(_image_classes, "cifar10", lambda cache, splits=splits: splits)
        work = tmp_path / str(len(found))
        (teacher,) = train_seeds([few], work)
        (record,) = train_seeds([config], work)
        whole, own = (record["budget"][name] for name in ("training_macs", "student_macs"))
        assert whole - own == teacher["budget"]["training_macs"]
        found.append((record["metrics"], record["budget"]["student_macs"]))
        assert torch.equal(splits[0].labels, labels)  # the data stay what they were
    assert found[0] == found[1]
    (alone,) = train_seeds([replace(config, unlabelled=False)], work)
    assert found[0][1] == 2 * alone["budget"]["student_macs"]
    assert alone["metrics"] != found[0][0]


def test_seeds_at_once_are_what_each_is_alone(tmp_path: Path) -> None:
    results = Results(tmp_path / "r" / "s.jsonl", tmp_path / "together")
    assert run_seeds([FOLDED.seeded(seed) for seed in (3, 4)], results) == 4  # and two teachers
    alone = Results(tmp_path / "a" / "s.jsonl", tmp_path / "alone")
    run_seeds([FOLDED.seeded(4)], alone)
    key = FOLDED.seeded(4).key
    together, single = results.read()[key], alone.read()[key]
    assert together["metrics"] == single["metrics"] and together["seed"] == 4
    assert {"val/accuracy/1", "test/accuracy/2", "test/accuracy/teachers"} <= set(single["metrics"])
    ours, theirs = (
        load_file(weights_file(FOLDED.seeded(4).key, own.work)) for own in (results, alone)
    )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)
    # Nothing is done twice; weights that were lost come back, without a second record.
    text = results.path.read_text()
    assert run_seeds([FOLDED.seeded(seed) for seed in (3, 4)], results) == 0
    weights_file(GROWN.seeded(1003).key, results.work).unlink()
    fresh = replace(FOLDED, warm=False)
    assert run_seeds([fresh.seeded(3)], results) == 1
    assert results.path.read_text().startswith(text)
    assert len(results.read()) == 5 and len(results.path.read_text().splitlines()) == 5


def test_a_student_starts_from_its_teacher_where_it_is_to(tmp_path: Path) -> None:
    still = replace(FOLDED, lr=0.0)
    results = Results(tmp_path / "r" / "s.jsonl", tmp_path / "work")
    run_seeds([still.seeded(0), replace(still, warm=False).seeded(0)], results)
    teacher = load_file(weights_file(GROWN.seeded(1000).key, results.work))
    warm = load_file(weights_file(still.seeded(0).key, results.work))
    fresh = load_file(weights_file(replace(still, warm=False).seeded(0).key, results.work))
    first = initial_weights(TINY)
    assert all(torch.equal(warm[name], teacher[name]) for name in teacher)
    assert all(torch.equal(fresh[name], first[name]) for name in teacher)
    assert not torch.equal(teacher["pos_embed"], first["pos_embed"])
    # What later cycles have alone starts from the teacher's too, where it has it.
    rich = replace(still, cycles=2, every_cycle=True, own_norms=True, adapter_rank=2)
    run_seeds([rich.seeded(0)], results)
    own = load_file(weights_file(rich.seeded(0).key, results.work))
    assert torch.equal(own["later.norm.bias"], teacher["norm.bias"])
    assert teacher["norm.bias"].any() and not own["later.blocks.0.attn.qkv.up"].any()


@pytest.mark.parametrize("views", [None, 1])
def test_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int | None
) -> None:
    config = replace(TINY, epochs=4, dropout=0.0)
    if views:
        config = replace(config, teachers=(GROWN,), views=views)
        for name in ("whole", "cut"):
            train_seeds([GROWN], tmp_path / name)
    whole = train_seeds([config], tmp_path / "whole")
    monkeypatch.setattr(_image_train, "_CHECKPOINT_SECONDS", -1.0)
    order: Callable[[SeededImages], Tensor] = SeededImages.orders
    epochs = []

    def power_cut(self: SeededImages) -> Tensor:
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return order(self)

    monkeypatch.setattr(SeededImages, "orders", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train_seeds([config], tmp_path / "cut")
    again = train_seeds([config], tmp_path / "cut")
    assert len(epochs) == 5 and again[0]["budget"]["resumed"]
    assert again[0]["metrics"] == whole[0]["metrics"]
    ours, theirs = (load_file(weights_file(config.key, tmp_path / n)) for n in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_views_that_come_again_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(FOLDED, epochs=5, views=2)
    asked: list[Tensor] = []
    cycles = SeededViT.cycles

    def spied(self: SeededViT, images: Tensor, count: int, every: bool = False) -> Any:
        asked.extend([images] * (count == 2 and images.shape[1] == 10))
        return cycles(self, images, count, every)

    monkeypatch.setattr(SeededViT, "cycles", spied)
    train_seeds([GROWN], tmp_path)  # as the teacher of both is the same run
    asked.clear()
    once = train_seeds([config], tmp_path)
    assert len(asked) == 2 * 4
    ours = load_file(weights_file(config.key, tmp_path))
    monkeypatch.setattr(Views, "told", lambda self, epoch, indices, ask: list(ask()))
    always = train_seeds([config], tmp_path)
    assert len(asked) == (2 + 5) * 4
    assert once[0]["metrics"] == always[0]["metrics"]
    for name, value in load_file(weights_file(config.key, tmp_path)).items():
        torch.testing.assert_close(value, ours[name])
    one, two = (_image_train._macs(TINY, cycles) for cycles in (1, 2))
    assert once[0]["budget"]["student_macs"] == 5 * 40 * 3 * one + 2 * 40 * two


def test_views_are_mixed_with_what_teachers_said_of_them() -> None:
    """The gradient is that of the mixed labels and of the mixed predictions of whole images."""
    config = replace(TINY, mixup=True, teachers=(GROWN,), views=1, truth_weight=0.3)
    weights = {name: value[None] for name, value in initial_weights(config).items()}
    for value in weights.values():
        value.requires_grad_()
    numbers = torch.Generator().manual_seed(0)
    images = torch.randn(1, 6, 3, 32, 32, generator=numbers)
    labels = torch.randint(10, (1, 6), generator=numbers)
    told = torch.randn(1, 6, 10, generator=numbers)
    share = torch.tensor([0.3])
    model = SeededViT(config, weights)
    loss = _image_train._loss(model, [model], images, labels, share, [told])
    logits = model.cycles(0.3 * images + 0.7 * images.roll(1, 1), 1)[0].outputs
    truth, taught = functional.one_hot(labels, 10).float(), (told / 2).softmax(-1)
    mixed = [0.3 * one + 0.7 * one.roll(1, 1) for one in (truth, taught)]
    own = [logits.log_softmax(-1), (logits / 2).log_softmax(-1)]
    parts = [-(one * log).sum(-1).mean() for one, log in zip(mixed, own, strict=True)]
    expected = torch.autograd.grad(0.3 * parts[0] + 0.7 * 4 * parts[1], list(weights.values()))
    found = torch.autograd.grad(loss, list(weights.values()))
    torch.testing.assert_close(found, expected)


def test_places_of_views() -> None:
    views = Views(3, [0, 1], 500, begin=0)
    drawn = [views.places(epoch) for epoch in range(6)]
    assert all(torch.equal(drawn[n], drawn[n + 3]) for n in range(3))
    kinds = [own for one in drawn[:3] for own in one]
    assert all((a == b).double().mean() < 0.05 for a, b in itertools.combinations(kinds, 2))
    data = SeededImages(some_images(500, 3).images, [0, 1])
    indices = torch.stack([torch.arange(500).flip(0), torch.arange(500)])
    found = data.batch(indices, drawn[0])
    told = 2 * (9 * (4 - found.down) + 4 - found.right) + found.mirrored
    assert torch.equal(told[0].flip(0), drawn[0][0]) and torch.equal(told[1], drawn[0][1])


def test_views_need_teachers_and_all_images_in_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views are for teachers"):
        replace(TINY, views=2)
    with pytest.raises(ValueError, match="views need batches that divide 40 images"):
        config = replace(FOLDED, teachers=(TINY,), batch_size=15, views=2)
        train_seeds([TINY], tmp_path)
        train_seeds([config], tmp_path)


def test_a_run_that_diverges_is_a_result(tmp_path: Path) -> None:
    (record,) = train_seeds([replace(TINY, lr=float("inf"))], tmp_path)
    assert record["diverged"] == "non-finite weights" and not record["metrics"]


@pytest.mark.gpu
def test_a_gpu_trains_the_same(tmp_path: Path) -> None:
    (there,), _ = (
        train_seeds([replace(TINY, dropout=0.0)], tmp_path / device, device)
        for device in ("cuda", "cpu")
    )
    assert "TF32" in there["device"]
    ours, theirs = (load_file(weights_file(TINY.key, tmp_path / name)) for name in ("cuda", "cpu"))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0.05, atol=0.01)  # TF32


def test_bfloat16_is_for_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cycles = SeededViT.cycles
    seen = set()

    def spied(self: SeededViT, *args: Any, **kwargs: Any) -> Any:
        seen.add((self.training, torch.is_autocast_enabled("cpu")))
        found = cycles(self, *args, **kwargs)
        assert all(one.outputs.dtype == torch.float32 for one in found)
        return found

    monkeypatch.setattr(SeededViT, "cycles", spied)
    train_seeds([replace(TINY, precision="bfloat16")], tmp_path)
    assert seen == {(True, True), (False, False)}
    seen.clear()
    train_seeds([TINY], tmp_path)
    assert seen == {(True, False), (False, False)}


def test_seeds_alone_may_differ(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in their seeds alone"):
        train_seeds([TINY, GROWN], tmp_path)


def test_training_costs_the_whole_recipe() -> None:
    cost = _image_train._cost(FOLDED, 40)
    one, two = (_image_train._macs(TINY, cycles) for cycles in (1, 2))
    # Worked out by hand: 5 tokens of 32 channels, 2 heads, MLPs of 128, patches of 16 px.
    block = 5 * (4 * 32 * 32 + 2 * 32 * 128) + 2 * 5 * 5 * 32
    assert two - one == block and one == block + 4 * 3 * 16 * 16 * 32 + 32 * 10
    assert cost["training_macs"] == 80 * (3 * two + 3 * one + two)
    assert cost["student_macs"] == 80 * (3 * one + two) and cost["macs_in_use"] == one
    assert _image_train._cost(GROWN, 40)["macs_in_use"] == two
    assert _image_train._cost(replace(TINY, batch_size=30), 40)["training_macs"] == 60 * 3 * one


def test_another_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "r" / "s.jsonl", tmp_path / "work")
    teacher = GROWN.seeded(1000)
    claim = results.claim(teacher.key)
    claim.__enter__()

    def finished(seconds: float) -> None:
        results.append(train_seeds([teacher], results.work)[0])
        claim.__exit__(None, None, None)

    monkeypatch.setattr(_image_study.time, "sleep", finished)
    assert run_seeds([FOLDED.seeded(0)], results) == 1
    assert len(results.read()) == 2


def test_keys_of_runs_and_their_teachers() -> None:
    changed = {
        "epochs": 3, "seed": 1, "train_samples": None, "width": 64, "depth": 2, "head_dim": 8,
        "patch_size": 8, "cycles": 2, "used": 2, "every_cycle": True, "teachers": (GROWN,),
        "temperature": 4.0, "truth_weight": 0.3, "token_weight": 1.0, "own_norms": True,
        "adapter_rank": 4, "label_smoothing": 0.1, "dropout": 0.1, "batch_size": 20, "lr": 1e-3,
        "weight_decay": 0.1, "warmup": 0.1, "precision": "bfloat16",
    }  # fmt: skip
    runs = [replace(TINY, **{name: value}) for name, value in changed.items()]
    runs += [FOLDED, replace(FOLDED, teachers=(replace(GROWN, epochs=9),)), TINY]
    runs += [replace(TINY, cycles=2, every_cycle=True, prediction_weight=w) for w in (1.0, 2.0)]
    assert len({run.key for run in runs}) == len(runs)
    # Recorded keys: they may not change when fields are added.
    assert ImageRun(epochs=100, seed=30, train_samples=5000).key == "a5c4431ee7b00bca"
    twice = replace(FOLDED, teachers=(GROWN, TINY, GROWN)).seeded(5)
    assert [teacher.seed for teacher in twice.teachers] == [1005, 1005, 2005]
    for wrong, words in (
        ({"warm": True}, "got no teachers"),
        ({"prediction_weight": 1.0}, "prediction_weight is for"),
        ({"every_cycle": True, "cycles": 3, "teachers": (TINY, TINY)}, "got 2"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(TINY, **wrong)  # type: ignore[arg-type]


def test_kept_weights_are_scored_on_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(FOLDED, views=2)
    study = Study("?", {"a": TINY, "b": again, "c": GROWN}, (7, 8), ("a",), kept=("b", "c"))
    results = Results(tmp_path / "r" / "s.jsonl", tmp_path / "work")
    assert keep([study], results.work, tmp_path / "kept") == []
    run_seeds([config for config in study.runs() if isinstance(config, ImageRun)], results)
    written = keep([study], results.work, tmp_path / "kept")
    assert [path.stem for path in written] == [study.run(n, 7).key for n in ("b", "c")]
    for number, (picture, label) in enumerate(zip(*SPLITS[2], strict=True)):
        folder = tmp_path / "images" / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    folded, grown = (load_kept(path.stem, tmp_path / "kept") for path in written)
    with pytest.raises(ValueError, match="expected CIFAR-10's 10"):
        score(folded, tmp_path / "images")
    for label in range(10):
        (tmp_path / "images" / f"class {label}").mkdir(exist_ok=True)
    for hidden in (".cache", "class 3/.cache"):
        (tmp_path / "images" / hidden).mkdir()
    for kept, name in ((folded, "b"), (grown, "c")):
        metrics = results.read()[study.run(name, 7).key]["metrics"]
        found = score(kept, tmp_path / "images")
        assert {n: round(value, 4) for n, value in found.items()} == {
            n: metrics[f"test/{n}"] for n in ("accuracy/1", "accuracy/2")
        }
    assert grown.config.used == 2 and folded.config.teachers == ()
    timm_model(TINY, folded.weights)
    for path in (tmp_path / "images").glob("*/*.png"):
        Image.new("RGB", (40, 30)).save(path)
    with pytest.raises(ValueError, match="10 folders of classes, of 40x30 px, expected"):
        score(folded, tmp_path / "images")
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(ValueError, match=r"png: expected an image of \d\dx\d\d px as .*, got "):
        score(folded, tmp_path / "images")
    with pytest.raises(ValueError, match="class 0 has no images in folders"):
        score(folded, tmp_path / "images" / "class 0")
    with pytest.raises(FileNotFoundError, match=f"kept are the weights of .*{written[0].stem}"):
        load_kept("nothing", tmp_path / "kept")

"""Pretrained networks that go on training: where they start, what they see, what is recorded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional

from experiments import _pretrain, _retrofit_tasks
from experiments.__main__ import run
from experiments._each_cycle import each_cycle
from experiments._images import Split
from experiments._pretrain import PRETRAINING, pretrain
from experiments._results import Results, weights_file
from experiments._retrofit import RetrofitRun, retrofit
from experiments._retrofit_tasks import FewImages, Text, pretrained_file
from experiments._study import Study

FEW = RetrofitRun("images", "plain", epochs=1, per_class=4, batch_size=10)
MORE = RetrofitRun("text", "plain", epochs=1, batch_size=2)


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and weights that a step or two have trained."""
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (120, 3, 32, 32), generator=numbers).to(torch.uint8)
    everything = Split(pixels, torch.arange(120) % 10)
    splits = (everything, everything.take(slice(0, 20)), everything.take(slice(0, 40)))
    monkeypatch.setattr(_retrofit_tasks, "cifar10", lambda cache: splits)
    monkeypatch.setattr(_retrofit_tasks, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(_retrofit_tasks.FewImages, "SCORED", 10)
    monkeypatch.setattr(_retrofit_tasks.Text, "steps_per_epoch", 2)
    monkeypatch.setattr(_retrofit_tasks.Text, "SCORED", 4)
    for task, config in PRETRAINING.items():
        small = replace(config, epochs=1, batch_size=20 if task == "images" else 2)
        monkeypatch.setitem(_pretrain.PRETRAINING, task, small)
        pretrain(task, tmp_path)
    return tmp_path


def test_few_images_are_of_the_last_classes_and_the_seeds_own(pretrained: Path) -> None:
    def seen(seed: int) -> Split:
        return FewImages(FEW.seeded(seed), pretrained)._train

    own = seen(3)
    assert torch.bincount(own.labels).tolist() == [4] * 5
    assert not torch.equal(own.images, seen(4).images)
    assert torch.equal(own.images, seen(1003).images)  # the teacher of seed 3
    everything, _, test = _retrofit_tasks.cifar10(pretrained)
    task = FewImages(FEW, pretrained)
    deviation, mean = torch.std_mean(everything.images.float(), dim=(0, 2, 3), keepdim=True)
    later = everything.images[everything.labels == 7].float()
    for image in own.images[own.labels == 2]:
        assert ((later - mean) / deviation - image).abs().amax((1, 2, 3)).min() < 1e-5
    assert len(task._splits["test"].labels) == (test.labels >= 5).sum() / 2


def test_pretrained_weights_are_what_a_run_starts_from(pretrained: Path) -> None:
    with safe_open(pretrained_file("images"), "pt") as opened:
        assert '"pretrains": true' in opened.metadata()["record"]
    for config, skipped in ((FEW, "head."), (MORE, "lm_head.")):
        record = retrofit(replace(config, lr=0.0), pretrained)
        weights = load_file(weights_file(record["key"], pretrained))
        kept = load_file(pretrained_file(config.task))
        ours = {n.removeprefix("transformer."): w for n, w in weights.items()}
        body = {name: value.half() for name, value in ours.items() if not name.startswith(skipped)}
        assert body.keys() == {name for name in kept if not name.startswith(skipped)}
        assert all(torch.equal(value, kept[name]) for name, value in body.items())


def test_closed_gates_leave_the_perplexity_of_the_plain_model(pretrained: Path) -> None:
    gated = replace(MORE, mode="cycle", gate=True, lr=0.0)
    metrics = retrofit(gated, pretrained)["metrics"]
    assert metrics["test/perplexity/1"] == metrics["test/perplexity/3"]
    open_ = retrofit(replace(gated, gate=False), pretrained)["metrics"]
    assert open_["test/perplexity/1"] == metrics["test/perplexity/1"] != open_["test/perplexity/2"]
    task = Text(MORE)
    text = task._splits["test"]
    losses = []
    for part in range(4):
        window = text[int(part * (len(text) - 96) / 3) :][:96]
        logits = task.model().eval()(window[None]).logits[0]
        losses.append(functional.cross_entropy(logits[:-1], window[1:]).item())
    assert metrics["test/perplexity/1"] == pytest.approx(math.exp(sum(losses) / 4), rel=1e-4)


def test_runs_are_recorded_and_students_have_their_teachers(pretrained: Path) -> None:
    middle = replace(FEW, mode="cycle", blocks="blocks.2:4", gate=True)
    scheduled = replace(FEW, mode="distill", cycles_until=0.5)
    study = Study(
        "?",
        {"plain": FEW, "middle": middle, "fold": replace(middle, mode="fold"), "end": scheduled},
        (0,),
        ("plain",),
    )
    results = Results(pretrained / "r" / "s.jsonl", pretrained / "work")
    assert run(study, results) == 5 and run(study, results) == 0
    found = results.read()
    plain, grown, folded, ending = (found[config.key] for config in study.runs())
    assert set(plain["metrics"]) == {f"{s}/accuracy/{n}" for s in ("val", "test") for n in (1, 2)}
    once, twice = plain["budget"]["macs_in_use"], grown["budget"]["macs_in_use"]
    assert once < twice < 1.5 * once  # two of six blocks again
    steps = 2  # 20 images
    assert plain["budget"]["training_macs"] == 3 * 10 * steps * once
    assert folded["budget"]["macs_in_use"] == once
    assert folded["budget"]["training_macs"] == 10 * steps * (3 * once + 4 * twice)
    both = ending["budget"]["training_macs"] / (3 * 10)
    assert both == pytest.approx(once + 2 * once, rel=0.03)  # a step in two cycles, one in one
    assert RetrofitRun(**grown["config"]) == middle.seeded(0)
    lines = each_cycle(study, found).splitlines()
    assert lines[0] == "| accuracy, % | 1 cycle | 2 cycles |" and len(lines) == 6
    assert lines[3].startswith(f"| middle | {grown['metrics']['test/accuracy/1']:.2f} |")


def test_keys_of_recorded_runs_stay() -> None:
    recorded = RetrofitRun("images", "plain", epochs=15, seed=50)
    assert recorded.key == "63ab1d8391474986"

"""Early exit by confidence, on probabilities that are chosen by hand."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from experiments._each_cycle import each_cycle
from experiments._exits import early_exits
from experiments._image_run import ImageRun
from experiments._report import write_page
from experiments._study import Study


def logits_of(*first: float) -> Tensor:
    """Logits of one seed, whose images have these probabilities of the first of two classes."""
    probabilities = torch.tensor(first)
    return torch.stack([probabilities, 1 - probabilities], -1).log()[None]


def test_confident_images_stop_and_the_others_go_on() -> None:
    # Confidences of the first cycle: 0.9, 0.8, 0.7, 0.6. Half of the images may have another one.
    chosen_on = [logits_of(0.9, 0.2, 0.7, 0.4), logits_of(0.5, 0.5, 0.5, 0.5)]
    first, second = logits_of(0.95, 0.85, 0.75, 0.25), logits_of(0.1, 0.1, 0.9, 0.9)
    found = early_exits(chosen_on, [first, second], torch.tensor([0, 0, 0, 0]))
    assert list(found) == [f"{mean}/{kind}" for mean in (1.25, 1.5, 1.75) for kind in
                           ("accuracy", "cycles")]  # fmt: skip
    # The threshold is 0.8: two images stop, right; two go on, and are right after two cycles.
    assert found["1.5/cycles"].tolist() == [1.5] and found["1.5/accuracy"].tolist() == [100.0]
    # The threshold is 0.9: only the first image stops; the second goes on and becomes wrong.
    assert found["1.75/cycles"].tolist() == [1.75] and found["1.75/accuracy"].tolist() == [75.0]
    # The threshold is 0.7: all are confident in their first cycle, the last one wrongly.
    assert found["1.25/cycles"].tolist() == [1.0] and found["1.25/accuracy"].tolist() == [75.0]


def test_an_image_stays_where_it_was_confident_first() -> None:
    # It is less sure in the second cycle of three, which it does not reach.
    chosen_on = [logits_of(0.9, 0.6), logits_of(0.6, 0.7), logits_of(0.5, 0.5)]
    found = early_exits(chosen_on, chosen_on, torch.tensor([0, 1]))
    assert found["2/cycles"].tolist() == [2.0]  # one and three
    assert found["2/accuracy"].tolist() == [50.0]


def test_each_seed_has_a_threshold_of_its_own() -> None:
    chosen_on = [torch.cat([logits_of(0.9, 0.8), logits_of(0.7, 0.6)]), torch.zeros(2, 2, 2)]
    found = early_exits(chosen_on, chosen_on, torch.tensor([0, 0]))
    assert found["1.5/cycles"].tolist() == [1.5, 1.5]


def test_the_page_shows_a_network_for_several_speeds(tmp_path: Path) -> None:
    plain = ImageRun(epochs=1)
    taught = ImageRun(epochs=1, cycles=2, every_cycle=True)
    variants = {"plain": plain, "grown": ImageRun(epochs=1, cycles=2, used=2), "both": taught}
    study = Study("Which?", variants, seeds=(0, 1), baselines=("plain",), plot="cycles")
    scores = {"plain": (50.0, 40.0), "grown": (30.0, 60.0), "both": (51.0, 59.0)}
    records = {}
    for name, (first, second) in scores.items():
        for config in (study.run(name, seed) for seed in study.seeds):
            metrics = {"test/accuracy/1": first, "test/accuracy/2": second}
            if name == "both":
                metrics |= {"test/exit/1.5/cycles": 1.48, "test/exit/1.5/accuracy": 57.0}
            if name == "plain":
                metrics["test/accuracy/teachers"] = 1.0  # is no cycle
            budget = {"training_macs": 1.0, "macs_in_use": 1.0}
            records[config.key] = {"metrics": metrics, "diverged": "", "budget": budget}
    text = each_cycle(study, records)
    assert "| both | 51.00 ± 0.00 | 59.00 ± 0.00 |" in text
    assert "| plain | 50.00 ± 0.00 | 40.00 ± 0.00 |" in text
    assert "early exit: mean cycles | 1.48 |\n| --- | --: |\n| accuracy, % | 57.00 ± 0.00 |" in text

    for key, seed in [(config.key, config.seed) for config in study.runs()]:
        shared = {"commit": "c", "date": "2026-01-01", "device": "cpu", "threads": 1, "seed": seed}
        records[key].update(shared)
    page = tmp_path / "docs" / "results" / "lab.md"
    page.parent.mkdir(parents=True)
    page.write_text("<!-- s: begin -->\n<!-- s: end -->\n")
    _, picture = write_page(page, {"s": study}, {"s": records})
    assert picture.stat().st_size > 5000

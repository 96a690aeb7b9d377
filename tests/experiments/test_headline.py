"""What the page says on top, and in its tables, of networks that were grown and folded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments._headline import headline
from experiments._image_run import ImageRun
from experiments._report import table
from experiments._study import Headline, Study

PLAIN = ImageRun(epochs=2)
GROWN = replace(PLAIN, cycles=2, used=2)
FOLDED = replace(PLAIN, teachers=(GROWN,), warm=True)


def record_of(config: ImageRun, training_macs: float, **metrics: float) -> dict[str, Any]:
    return {
        "key": config.key,
        "seed": config.seed,
        "budget": {"training_macs": training_macs, "macs_in_use": 3000},
        "metrics": {name.replace("_", "/"): value for name, value in metrics.items()},
        "diverged": "",
    }


def test_headline_is_over_the_best_plain_network_of_any_length() -> None:
    longer = replace(PLAIN, epochs=4)
    study = Study(
        "?",
        {"plain": PLAIN, "longer, mixup": longer, "grown": GROWN, "folded": FOLDED},
        seeds=(1, 2),
        baselines=("plain", "longer, mixup"),
        teachers=("grown",),
        headline=Headline("a small one", "grown", "folded"),
    )
    records = {}
    for name, macs, found in (
        ("plain", 1e12, (40.0, 41.0)),
        ("longer, mixup", 2e12, (42.0, 42.0)),
        ("grown", 2e12, (50.0, 52.0)),
        ("folded", 3.5e12, (45.0, 44.0)),
    ):
        for seed, value in zip((1, 2), found, strict=True):
            config = study.run(name, seed)
            assert isinstance(config, ImageRun)
            metrics = {"test_accuracy_1": value, "test_accuracy_2": value}
            metrics |= {"val_accuracy_1": 2 * value, "val_accuracy_2": 2 * value}
            records[config.key] = record_of(config, macs, **metrics)
    assert study.run("grown", 1).seed == 1001
    lines = headline({"a": study, "b": replace(study, headline=None)}, {"a": records, "b": records})
    sentence, _, _, _, row = lines.splitlines()
    best = "the best plain network (4 epochs with Mixup), which"
    assert f"gains **+2.50 ± 6.35** points over {best}" in sentence
    assert sentence.endswith("takes 3.5x the plain training; 2 seeds.")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "a small one" and cells[-1] == "3.5x"
    assert [cell.split(" ")[0] for cell in cells[1:8]] == [
        "40.50", "42.00", "51.00", "44.50", "+4.00", "+2.50", "+5.00",
    ]  # fmt: skip
    assert cells[2].endswith("(4 epochs with Mixup)")
    for seed, value in zip((1, 2), (41.0, 41.5), strict=True):
        records[study.run("folded", seed).key]["metrics"]["test/accuracy/1"] = value
    behind = headline({"a": study}, {"a": records}).splitlines()[0]
    assert f"is **0.75 ± 3.18** points behind {best}" in behind
    # Without the folded network's records there is nothing to say.
    for seed in study.seeds:
        del records[study.run("folded", seed).key]
    assert headline({"a": study}, {"a": records}) == "No study of it is done yet."


def test_last_cycles_are_compared_with_the_deep_variant() -> None:
    both = replace(PLAIN, cycles=2, every_cycle=True)
    study = Study(
        "?", {"plain": PLAIN, "grown": GROWN, "both": both}, (1,), ("plain",), deep="grown"
    )
    records = {}
    for name, one, two in (("plain", 40.0, 1.0), ("grown", 2.0, 50.0), ("both", 39.0, 49.5)):
        config = study.run(name, 1)
        assert isinstance(config, ImageRun)
        metrics = {"test_accuracy_1": one, "test_accuracy_2": two}
        records[config.key] = record_of(config, 1e12, **metrics)
    heads, _, *lines = table(study, records).splitlines()
    assert heads.endswith("| minus 'plain' | last cycle minus 'grown' |")
    assert [line.split("|")[-3:-1] for line in lines] == [
        ["  ", "  "], [" +10.00 ", "  "], [" -1.00 ", " -0.50 "],
    ]  # fmt: skip

"""Following pointers: the truth, and a run's record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import _pointers
from experiments.__main__ import run
from experiments._pointers import PointerRun
from experiments._results import Results
from experiments._study import Study

TINY = PointerRun(places=4, hops=3, width=8, batch_size=4)


def test_what_is_asked_is_where_the_hops_end() -> None:
    pointers, reached = TINY.draw(5, torch.Generator().manual_seed(0))
    for sample, ends in zip(pointers.tolist(), reached.tolist(), strict=True):
        assert sorted(sample) == [0, 1, 2, 3]
        assert ends == [sample[sample[sample[place]]] for place in range(4)]
    once = replace(TINY, hops=1).draw(5, torch.Generator().manual_seed(0))
    assert torch.equal(once[0], once[1]) and torch.equal(once[0], pointers)


def test_a_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pointers, "_STEPS", 3)
    results = Results(tmp_path / "r" / "s.jsonl", tmp_path / "work")
    twice = replace(TINY, cycles=2)
    study = Study("?", {"a": TINY, "b": twice}, (0,), ("a",))
    assert run(study, results, variants=["b"]) == 1
    assert run(study, results) == 1 and run(study, results) == 0
    with pytest.raises(ValueError, match=r"no variant 'c', expected of \['a', 'b'\]"):
        run(study, results, variants=["c"])
    once, again = (results.read()[config.key] for config in study.runs())
    assert 0 <= once["metrics"]["test/accuracy/1"] <= 100
    assert set(again["metrics"]) == {"test/accuracy/2"}
    assert once["budget"]["training_macs"] == 3 * 3 * 4 * once["budget"]["macs_in_use"]
    assert again["budget"]["macs_in_use"] > 1.5 * once["budget"]["macs_in_use"]
    assert PointerRun(**again["config"]) == twice.seeded(0)
    assert PointerRun(seed=30).key == "b6531016ec9a3073"  # recorded

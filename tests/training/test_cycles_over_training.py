"""The number of cycles over training, and the size of the tokens in the log."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.training import CycledConfig, fit, read_log


class Scaled(nn.Module):
    """Makes tokens larger by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def run(toy: Any, folder: Path, factor: float = 1.0, **options: Any) -> list[dict[str, Any]]:
    """Train with three cycles and return the log of its steps."""
    config = CycledConfig(
        output_dir=folder,
        num_cycles=3,
        batch_size=8,
        epochs=5,
        log_every=1,
        device="cpu",
        **options,
    )
    model = CycleWrapper(nn.Sequential(Scaled(factor)), blocks=":", **config.wrapper_options())
    criterion = CycleDistillLoss(lambda prediction, target: (prediction - target).square().mean())
    fit(
        config,
        model=model,
        criterion=criterion,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-9),
        train_dataset=toy.Points(16),
        forward_loss=lambda model, criterion, batch: (
            criterion(model(batch["points"]), batch["points"]),
            len(batch["label"]),
        ),
    )
    return [record for record in read_log(folder / "log.jsonl") if record["event"] == "train"]


def test_the_schedule_is_followed(toy: Any, tmp_path: Path) -> None:
    records = run(toy, tmp_path, cycles_from=0.4, cycles_until=0.8)
    cycles = [sum(name.startswith("task/") for name in record) for record in records]
    assert cycles == [1] * 2 + [2] * 2 + [3] * 4 + [1] * 2


def test_tokens_that_grow_are_told_once(toy: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tokens grow from cycle to cycle") as told:
        records = run(toy, tmp_path / "large", factor=4.0)
    assert sum("tokens grow" in str(one.message) for one in told) == 1
    assert "cycle_norm='input'" in str(next(m.message for m in told if "grow" in str(m.message)))
    scales = [records[0][f"scale/{cycle}"] for cycle in (1, 2, 3)]
    assert scales[2] / scales[0] == pytest.approx(16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the tokens grow")
        run(toy, tmp_path / "small", factor=2.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cycles_from": 0.9, "cycles_until": 0.5}, "0 <= cycles_from <= cycles_until <= 1"),
        ({"min_cycles": 4}, r"min_cycles must be from 1 to num_cycles=3, got 4"),
        *(
            (
                {"mode": mode, "cycles_until": 0.8},
                f"cycles_until=0.8 ends the training with one cycle, but mode={mode} trains a "
                "network that is used with num_cycles=3",
            )
            for mode in ("cycle", "grow", "grow-fold")
        ),
    ],
)
def test_options(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CycledConfig(output_dir=tmp_path, num_cycles=3, **options).validate()

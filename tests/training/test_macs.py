"""Multiply-accumulates against sums by hand, and what the summary says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill.training import TrainConfig, read_log
from cycledistill.training._macs import count_run_macs

TOKENS, WIDTH, CLASSES = 5, 8, 3
BLOCK, HEAD = TOKENS * WIDTH * WIDTH, WIDTH * CLASSES


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(2)
        )
        self.norm = nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, points: Tensor) -> Tensor:
        tokens = self.norm(self.embed(points).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("cycles", [1, 2, 3])
@pytest.mark.parametrize("checkpointing", [None, "block"])
def test_counts_are_those_by_hand(cycles: int, checkpointing: Any) -> None:
    model = CycleWrapper(
        Net(), cycles, activation_checkpointing=checkpointing, min_cycles=1 if cycles == 3 else None
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embed, passes = TOKENS * 2 * WIDTH, 3 if checkpointing is None else 4
    macs = count_run_macs(model, torch.zeros(TOKENS, 2), cycles_in_use=cycles)
    assert macs.in_use == embed + cycles * 2 * BLOCK + HEAD
    # Of the embedding no gradient of its input is needed; a checkpointed block runs once more.
    assert macs.training == 2 * embed + cycles * (passes * 2 * BLOCK + 3 * HEAD)
    assert model.training and model.min_cycles == (1 if cycles == 3 else None)
    assert all(p.grad is None for p in model.parameters())
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_attention_products_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    in_use, training = count_run_macs(layer, torch.zeros(TOKENS, WIDTH))
    linear = TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * 16)
    products = 2 * TOKENS * TOKENS * WIDTH
    assert in_use == linear + products
    # Backward twice as much, but no gradient of the layer's input: its q, k and v projection.
    assert training == 3 * (linear + products) - TOKENS * 3 * WIDTH * WIDTH


def test_summary_has_macs_and_budget(toy: Any, tmp_path: Path, capsys: Any) -> None:
    config: TrainConfig = toy.default_config(tmp_path, epochs=2, drop_last=True)
    result = toy.train(config, min_cycles=None, example_input=torch.zeros(4, toy.WIDTH))
    with_macs = toy.losses(tmp_path)
    width = toy.WIDTH
    in_use = 4 * 3 * width * width + 3 * width  # embedding and two blocks on 4 tokens, the head
    training = 4 * (2 + 3 * 3 * 2) * width * width + 3 * 3 * 3 * width
    shown = " ".join(capsys.readouterr().out.split())
    assert f"MACs {in_use} a sample in use, {training / 1000:.3g} k in training (all" in shown
    in_all = training * 2 * 32  # 37 samples an epoch, the last 5 left out
    assert f"= 8 steps on 37 samples = {in_all / 1000:.3g} k MACs" in shown
    assert "MACs" in read_log(tmp_path / "log.jsonl")[0]["summary"]
    assert result.steps == 8
    toy.train(toy.default_config(tmp_path / "b", epochs=2, drop_last=True), min_cycles=None)
    assert toy.losses(tmp_path / "b") == with_macs  # counting changes nothing

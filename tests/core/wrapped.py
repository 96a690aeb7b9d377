"""What the tests of copies, state and attributes have in common."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.reference import task_loss
from tests.core.zoo import ZOO

_SOME = ["vit", "deit-distilled", "beit-shared-bias", "hf-bert", "encoder", "sequential"]
some = pytest.mark.parametrize("case", [ZOO[name] for name in _SOME], ids=_SOME)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "block": {"activation_checkpointing": "block"},
    "teacher": {"cycle_embedding": True, "adapter_rank": 2, "token_dim": 16},
}
options = pytest.mark.parametrize("kwargs", OPTIONS.values(), ids=OPTIONS.keys())


def train_step(cycled: CycleWrapper, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    CycleDistillLoss(task_loss)(cycled(*args, **kwargs)).total.backward()
    torch.optim.SGD(cycled.parameters(), lr=0.05).step()
    cycled.zero_grad()


def through_file(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)

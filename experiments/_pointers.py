"""A task that wants depth: following pointers, by a block that is run again or by more blocks."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper
from experiments._config import hash_of
from experiments._record import commit, record
from experiments._train import macs_of_cycles

_STEPS = 1000


@dataclass(frozen=True)
class PointerRun:
    """A permutation of places is given; for every place, the place some hops further is asked.

    Attributes:
        epochs: Of 1,000 steps each; every sample is drawn anew.
        seed: Of the initial weights and the samples.
        places: Length of the sequence.
        hops: Pointers to follow.
        width: Channels of a token.
        depth: Blocks.
        cycles: Cycles of training and in use, with the loss on the last.
        batch_size: Samples of a step.
        lr: Largest learning rate of AdamW; warm-up over a twentieth, then straight down to 0.
    """

    epochs: int = 1
    seed: int = 0
    places: int = 8
    hops: int = 4
    width: int = 64
    depth: int = 1
    cycles: int = 1
    batch_size: int = 64
    lr: float = 2e-3

    @property
    def training_cycles(self) -> int:
        """Cycles that training runs."""
        return self.cycles

    @property
    def inference_cycles(self) -> int:
        """Cycles that the trained model is meant to be used with."""
        return self.cycles

    @property
    def metric(self) -> Literal["accuracy"]:
        """The score: places found, in percent."""
        return "accuracy"

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits, a hash of what differs from the defaults."""
        changed = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        return hash_of({"engine": "pointers", **changed})

    def seeded(self, seed: int) -> PointerRun:
        """The run with another seed."""
        return replace(self, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """All fields, for the record."""
        return asdict(self)

    def draw(self, count: int, numbers: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where each place points, and where one is after all hops, `[count, places]` each."""
        pointers = torch.rand(count, self.places, generator=numbers).argsort(1)
        reached = pointers
        for _ in range(self.hops - 1):
            reached = pointers.gather(1, reached)
        return pointers, reached


class PointerModel(nn.Module):
    """Tokens of places and what they point to, blocks, and a place for each token."""

    def __init__(self, config: PointerRun) -> None:
        super().__init__()
        width = config.width
        self.place = nn.Embedding(config.places, width)
        self.pointer = nn.Embedding(config.places, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.places)

    def forward(self, pointers: Tensor) -> Tensor:
        """Logits `[B, T, T]` of pointers `[B, T]`."""
        tokens = self.place.weight + self.pointer(pointers)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens))  # type: ignore[no-any-return]


def train_pointers(config: PointerRun) -> dict[str, Any]:
    """Train and return the record; the score is that of 2,000 samples that no seed trains on."""
    revision, start = commit(), time.perf_counter()
    torch.manual_seed(config.seed)
    cycled = CycleWrapper(PointerModel(config), num_cycles=config.cycles, blocks="blocks")
    criterion = CycleDistillLoss(_task_loss, token_weight=0.0, task_cycles="last")
    optimizer = torch.optim.AdamW(cycled.parameters(), lr=config.lr)
    numbers = torch.Generator().manual_seed(config.seed)
    steps = _STEPS * config.epochs
    for step in range(steps):
        rising = (step + 1) / (0.05 * steps)
        optimizer.param_groups[0]["lr"] = config.lr * min(1.0, rising) * (1 - step / steps)
        pointers, reached = config.draw(config.batch_size, numbers)
        loss = criterion(cycled(pointers), reached).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pointers, reached = config.draw(2000, torch.Generator().manual_seed(-1))
    cycled.eval()
    with torch.no_grad():
        found = cycled(pointers, num_cycles=config.cycles).argmax(-1)
    score = round(100 * float((found == reached).double().mean()), 4)
    tokens = torch.zeros(1, config.places, config.width)
    macs = macs_of_cycles(cycled.unwrap(), pointers[:1], tokens, config.cycles)
    budget = {
        "epochs": config.epochs,
        "training_macs": 3 * macs * config.batch_size * steps,
        "macs_in_use": macs,
    }
    metrics = {f"test/accuracy/{config.cycles}": score}
    seconds = time.perf_counter() - start
    return record(config, revision, torch.device("cpu"), budget, seconds, metrics)


def _task_loss(logits: Tensor, reached: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), reached.flatten())

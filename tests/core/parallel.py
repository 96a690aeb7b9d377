"""What each of two processes does in `test_parallel`; here so that it can be started anew."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill._hooks import AfterBlock
from tests.core.models import LoopModel

BATCH = 4
STEPS = 3
LEARNING_RATE = 0.05


def build() -> LoopModel:
    torch.manual_seed(0)
    return LoopModel().double()


def batch(step: int, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """The whole batch of a step, or one process's half."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(BATCH, 6, 16, generator=generator, dtype=torch.float64)
    y = torch.randint(5, (BATCH,), generator=generator)
    return (x, y) if rank is None else (x[rank::2], y[rank::2])


def criterion() -> CycleDistillLoss:
    return CycleDistillLoss(nn.CrossEntropyLoss(), token_weight=0.5, prediction_weight=0.1)


def train(
    module: nn.Module,
    rank: int | None = None,
    counts: Callable[[int], dict[str, int]] = lambda step: {},
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Some steps."""
    optimizer = optimizer or torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        x, y = batch(step, rank)
        loss = criterion()(module(x, **counts(step)), y).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def whole(parameters: Any) -> dict[str, Tensor]:
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in parameters
    }


def data_parallel(rank: int, **options: Any) -> dict[str, Tensor]:
    cycled = CycleWrapper(build(), 2, **options).double()
    train(DistributedDataParallel(cycled), rank)
    return whole(cycled.named_parameters())


def data_parallel_around_the_plain_model(rank: int) -> dict[str, Tensor]:
    model = build()
    cycled = CycleWrapper(DistributedDataParallel(model), 2)
    train(cycled, rank)
    return whole(model.named_parameters())


def data_parallel_teacher(rank: int) -> dict[str, Tensor]:
    """One cycle in one step, three in the next, and each process draws its own number."""
    cycled = CycleWrapper(build(), 3, min_cycles=1, cycle_embedding=True, adapter_rank=2).double()
    parallel = DistributedDataParallel(cycled)
    torch.manual_seed(10 + rank)
    train(parallel, rank, lambda step: {"num_cycles": (1, 3, 2)[step]})
    train(parallel, rank)
    train(parallel, rank)
    return whole(cycled.named_parameters())


def data_parallel_unused_cycles(rank: int) -> dict[str, Tensor]:
    cycled = CycleWrapper(build(), 3)
    parallel = DistributedDataParallel(cycled)
    for step in range(STEPS):
        x, y = batch(step, rank)
        out = parallel(x)
        nn.functional.cross_entropy(out.predictions[step], y).backward()
    return whole((name, p.grad) for name, p in cycled.named_parameters())


def sharded(
    rank: int, order: str = "wrap-first", keep: bool = False, **options: Any
) -> dict[str, Tensor]:
    """All blocks sharded, and the rest; or also the head for itself and kept after forward."""
    model = build()
    if keep:
        for part in (*model.blocks, model.norm, model.head, model):
            fully_shard(part, reshard_after_forward=False)
        cycled = CycleWrapper(model, 2, **options)
        train(cycled, rank)
        return whole(cycled.named_parameters())
    if order == "shard-first":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        cycled = CycleWrapper(model, 2, **options).double()
    else:
        cycled = CycleWrapper(model, 2, **options).double()
        for part in (*cycled.blocks, cycled.head):
            fully_shard(part)
        fully_shard(cycled)
        assert isinstance(cycled, FSDPModule) and isinstance(cycled, CycleWrapper)
    assert any(isinstance(parameter, DTensor) for parameter in cycled.parameters())
    train(cycled, rank)

    hooks = list(cycled.blocks[-1]._forward_hooks.values())
    assert isinstance(hooks[-1], AfterBlock), "FSDP2 closes a block before it runs again"
    return whole(cycled.named_parameters())


def sharded_modes(rank: int) -> dict[str, Tensor]:
    """Training, use with one and with three cycles, training again, and the state's names."""
    cycled = CycleWrapper(build(), 2)
    for block in cycled.blocks:
        fully_shard(block)
    fully_shard(cycled)
    optimizer = torch.optim.SGD(cycled.parameters(), lr=LEARNING_RATE)
    train(cycled, rank, optimizer=optimizer)
    x, _ = batch(9)
    cycled.eval()
    with torch.no_grad():
        results = {"one": cycled(x), "three": cycled(x, num_cycles=3), "again": cycled(x)}
    cycled.train()
    train(cycled, rank, optimizer=optimizer)
    options = StateDictOptions(full_state_dict=True)
    state = get_model_state_dict(cycled, options=options)
    return {**results, **{f"state.{name}": value for name, value in state.items()}}


SCENARIOS: dict[str, tuple[Callable[..., dict[str, Tensor]], dict[str, Any]]] = {
    "data-parallel": (data_parallel, {}),
    "data-parallel-block": (data_parallel, {"activation_checkpointing": "block"}),
    "data-parallel-cycle": (data_parallel, {"activation_checkpointing": "cycle"}),
    "data-parallel-batched": (data_parallel, {"batched": True}),
    "data-parallel-inside": (data_parallel_around_the_plain_model, {}),
    "data-parallel-teacher": (data_parallel_teacher, {}),
    "data-parallel-unused": (data_parallel_unused_cycles, {}),
    "sharded": (sharded, {}),
    "sharded-first": (sharded, {"order": "shard-first"}),
    "sharded-block": (sharded, {"activation_checkpointing": "block"}),
    "sharded-cycle": (sharded, {"activation_checkpointing": "cycle"}),
    "sharded-teacher": (sharded, {"cycle_embedding": True, "adapter_rank": 2}),
    "sharded-batched": (sharded, {"batched": True}),
    "sharded-kept": (sharded, {"keep": True}),
    "sharded-modes": (sharded_modes, {}),
}


def run(rank: int, folder: str) -> None:
    """Run every scenario in this process and save what came of each, or its traceback."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    results: dict[str, Any] = {}
    try:
        for name, (scenario, options) in SCENARIOS.items():
            try:
                results[name] = scenario(rank, **options)
            except Exception:
                results[name] = traceback.format_exc()
            torch.save(results, Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def alone(**options: Any) -> dict[str, Tensor]:
    """The same training in one process, on the whole batches."""
    cycled = CycleWrapper(build(), 2, **options).double()
    train(cycled)
    return whole(cycled.named_parameters())

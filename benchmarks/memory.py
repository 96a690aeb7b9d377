"""Memory of a training step with four cycles, over the plain step, one cycle and nothing redone.

On a GPU the allocator's own count of the most bytes at once. On a CPU each case in a fresh
process, two steps of Adam. What the process holds at most (its resident set) is what a machine must
have, but it counts in the allocator's leftovers; so beside it stand the bytes of the tensors that
are alive at once, counted exactly, and of those kept for the backward pass.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.apart import Apart, resident_mib
from benchmarks.arithmetic import saved_bytes
from benchmarks.comparison import Comparison, Figure
from cycledistill import CycleWrapper
from cycledistill_pose import create_model
from cycledistill_pose.models import sdpose_loss

MODEL = "tokenpose_s_v1"
BATCHES = {"cpu": 16, "cuda": 128}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {}),
    "4 cycles, checkpointed by block": (4, {"activation_checkpointing": "block"}),
    "4 cycles, checkpointed by cycle": (4, {"activation_checkpointing": "cycle"}),
    "4 cycles, gradients through 1": (4, {"grad_cycles": 1}),
    "4 cycles, everything kept": (4, {}),
}
MEASURES = {"resident": "resident set", "alive": "tensors alive", "saved": "kept for backward"}


def measure(rounds: int, device: str = "cpu") -> Iterator[Comparison | Figure]:
    batch = BATCHES[device]
    if device == "cuda":
        yield from on_gpu(MODEL, batch)
    else:
        yield from of_model(MODEL, batch, max(2, rounds // 10))


def on_gpu(model: str, batch: int) -> Iterator[Comparison | Figure]:
    """Every case once: the count is exact."""
    found = {}
    for case, arguments in CASES.items():
        step = build_step(model, batch, "cuda", *arguments)[0]
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        found[case] = torch.cuda.max_memory_allocated() / 2**20
        del step
        torch.cuda.empty_cache()
    plain, label = found.pop("plain"), f"memory of the GPU, {model}, batch {batch}"
    yield Figure(f"{label}: plain", plain, plain, plain, "MiB")
    for case, mib in found.items():
        ratio, limit = mib / plain, 1.0 if "checkpointed" in case else None
        yield Comparison(f"{label}: {case} / plain", ratio, ratio, ratio, limit, "the plain step")


def of_model(model: str, batch: int, rounds: int) -> Iterator[Comparison | Figure]:
    """Every case in turn, each time in a new process."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, arguments in CASES.items():
            with Apart(build, model, batch, *arguments) as apart:
                found[case].append(apart()[1])
    for key, words in MEASURES.items():
        if not all(one[key] for one in found["plain"]):
            continue  # a system that does not tell
        label = f"{words}, {model}, batch {batch}"
        low, middle, high = _quartiles([one[key] for one in found["plain"]])
        yield Figure(f"{label}: plain", middle, low, high, "MiB")
        for case in list(CASES)[1:]:
            ratios = [a[key] / b[key] for a, b in zip(found[case], found["plain"], strict=True)]
            low, middle, high = _quartiles(ratios)
            limit = 1.0 if "checkpointed" in case and key != "saved" else None
            name = f"{label}: {case} / plain"
            yield Comparison(name, middle, low, high, limit, "the plain step")


def build(model: str, batch: int, num_cycles: int, options: dict[str, Any]) -> Callable[[], Any]:
    """Training steps of one case, that return MiB."""
    step, forward, held, optimizer = build_step(model, batch, "cpu", num_cycles, options)

    def run() -> dict[str, float]:
        before = resident_mib("VmRSS")
        step()
        step()
        highest = resident_mib("VmHWM")
        resident = 0.0 if before is None or highest is None else highest - before
        saved = saved_bytes(forward) / 2**20
        optimizer.zero_grad()
        state = (value for values in optimizer.state.values() for value in values.values())
        peak = sum(tensor.nbytes for tensor in [*held, *state]) / 2**20 + _peak_mib(step)
        return {"resident": resident, "alive": peak, "saved": saved}

    return run


def build_step(
    model: str, batch: int, device: str, num_cycles: int, options: dict[str, Any]
) -> tuple[Callable[[], None], Callable[[], Any], list[Tensor], torch.optim.Optimizer]:
    """A step, its forward pass alone, what it needs all the time, and its optimiser."""
    torch.manual_seed(0)
    cycled = CycleWrapper(create_model(model), num_cycles, "blocks", **options).train().to(device)
    criterion = sdpose_loss(cycled).to(device)
    optimizer = torch.optim.Adam([*cycled.parameters(), *criterion.parameters()], lr=1e-4)
    width, height = cycled.plain.input_size
    images = torch.rand(batch, 3, height, width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    target, weight = _targets(cycled, images)

    def forward() -> Any:
        return criterion(cycled(images), target, weight)

    def step() -> None:
        losses = forward()
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()

    held = [*cycled.parameters(), *cycled.buffers(), images, target]
    return step, forward, held, optimizer


def _peak_mib(function: Callable[[], object]) -> float:
    """Most bytes that a call's own tensors take at once, by the allocator's own report."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    now = highest = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        now += change
        highest = max(highest, now)
    return highest / 2**20


def _targets(cycled: CycleWrapper, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        output = cycled.eval()(images[:1])
    cycled.train()
    shape = (output if isinstance(output, Tensor) else output[0]).shape[1:]
    device = images.device
    return (
        torch.rand(len(images), *shape, device=device),
        torch.ones(len(images), shape[0], device=device),
    )


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high

"""Memory of a training step with four cycles over the plain step, one cycle and nothing redone.

Each case once, in a process of its own. What a process holds at most (its resident set) is what a
machine must have, but it counts in the allocator's leftovers; so beside it stand the bytes of the
tensors that are alive at once, which are exact, and of those kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks._arithmetic import saved_bytes
from benchmarks._frame import Apart, Row
from benchmarks.cycles import images
from benchmarks.training import PoseStep
from cycledistill import CycleWrapper
from cycledistill_pose import create_model

BATCHES = {"cpu": 16, "cuda": 128}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {}),
    "4 cycles, checkpointed by block": (4, {"activation_checkpointing": "block"}),
    "4 cycles, checkpointed by cycle": (4, {"activation_checkpointing": "cycle"}),
    "4 cycles, gradients through 1": (4, {"grad_cycles": 1}),
    "4 cycles, everything kept": (4, {}),
}


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    yield from of_model("tokenpose_s_v1", BATCHES[device], device)


def of_model(name: str, batch: int, device: str = "cpu") -> Iterator[Row]:
    """Every case, one after the other."""
    plain: dict[str, float] = {}
    for case, (num_cycles, options) in CASES.items():
        with Apart(build, name, batch, device, num_cycles, options) as apart:
            found = apart()[1]
        plain = plain or found
        for what, mib in found.items():
            label = f"memory, {what}, {name}, batch {batch}: {case}"
            if case == "plain":
                yield Row.of(label, [mib], "MiB")
            else:
                target = 1.0 if "checkpointed" in case and "backward" not in what else None
                yield Row.of(f"{label} / plain", [mib / plain[what]], "", target)


def build(
    name: str, batch: int, device: str, num_cycles: int, options: dict[str, Any]
) -> Callable[[], dict[str, float]]:
    """Training steps of one case, with Adam; returns MiB."""
    cycled = CycleWrapper(create_model(name), num_cycles, "blocks", **options)
    step = PoseStep(cycled, device)
    given = images(batch, cycled.plain.input_size, device)
    with torch.no_grad():
        target = torch.rand_like(cycled.eval()(given))
    everything = given, target, torch.ones(target.shape[:2], device=device)
    cycled.train()

    def run() -> dict[str, float]:
        before = _resident("VmRSS")
        step(*everything)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step(*everything)
        found = {}
        if device == "cuda":
            found["tensors alive"] = torch.cuda.max_memory_allocated()
        else:
            found["resident set"] = _resident("VmHWM") - before
            step.optimizer.zero_grad()
            state = [t for values in step.optimizer.state.values() for t in values.values()]
            held = [*cycled.parameters(), *cycled.buffers(), given, target, *state]
            found["tensors alive"] = sum(t.nbytes for t in held) + _most_bytes(
                lambda: step(*everything)
            )
        found["kept for backward"] = saved_bytes(lambda: step.forward(*everything))
        return {what: count / 2**20 for what, count in found.items()}

    return run


def _resident(name: str) -> int:
    """``VmRSS`` (bytes now) or ``VmHWM`` (highest so far) of this process, which Linux tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _most_bytes(function: Callable[[], object]) -> int:
    """Most bytes that a call's own tensors take at once, by the CPU allocator's own report."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    now = highest = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        now += change
        highest = max(highest, now)
    return highest

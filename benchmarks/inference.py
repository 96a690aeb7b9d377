"""In use: images per second of every SDPose model, and how much faster than a straight translation.

Single passes; on a GPU also in bfloat16, and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks._frame import Row, in_turn, ratio
from benchmarks._straight import StraightSDPose
from benchmarks.cycles import images
from cycledistill import count_macs
from cycledistill_pose import create_sdpose

MODELS = ("sdpose_t", "sdpose_nano", "sdpose_s_v1", "sdpose_reg", "sdpose_b", "sdpose_s_v2")
TRANSLATED = ("sdpose_t", "sdpose_s_v1")
BATCHES = (1, 2, 64)
TRANSLATED_BATCHES = {"cpu": (1, 2), "cuda": (1, 64)}
KINDS = {"cpu": ("float32",), "cuda": ("float32", "bfloat16", "bfloat16, compiled")}


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    for name in MODELS:
        yield from of_model(name, rounds, device)


def of_model(
    name: str, rounds: int, device: str = "cpu", batches: tuple[int, ...] = BATCHES
) -> Iterator[Row]:
    """Each size of a batch; the largest in fewer rounds, as each is as long as 64 images."""
    cycled = create_sdpose(name).eval()
    image = images(1, cycled.plain.input_size, "cpu")
    macs = " / ".join(f"{count / 1e9:.2f}" for count in count_macs(cycled, image))
    parameters = sum(p.numel() for p in cycled.plain.parameters() if p.requires_grad) / 1e6
    straight = StraightSDPose(cycled).eval().to(device) if name in TRANSLATED else None
    cycled.to(device)
    torch.compiler.reset()
    for batch in batches:
        given = images(batch, cycled.plain.input_size, device)
        calls = {kind: _call(cycled, given, kind) for kind in KINDS[device]}
        if straight is not None and batch in TRANSLATED_BATCHES[device]:
            calls["straight"] = _call(straight, given.contiguous(), "float32")
            with torch.backends.cudnn.flags(enabled=False):  # cuDNN's may round to 10 bits
                assert_close(calls["float32"](), calls["straight"]())
        taken = in_turn(calls, rounds if batch < 64 else max(2, rounds // 5))
        label = f"inference, {name}, batch {batch}"
        for kind in KINDS[device]:
            about = f"{parameters:.2f} M, {macs} GMACs, {kind}"
            yield Row.of(f"{label}, {about}", [batch / s for s in taken[kind]], "images/s")
            if "straight" in taken:
                values = ratio(taken["straight"], taken[kind])
                yield Row.of(f"{label}: straight translation / ours, {kind}", values, "", 2.0, True)


def assert_close(one: Tensor, other: Tensor) -> None:
    """Both are the same up to 1e-4 of the largest value."""
    scale = float(other.detach().abs().max())
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale)


def _call(model: nn.Module, given: Tensor, kind: str) -> Callable[[], Tensor]:
    if "compiled" in kind:
        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]

    @torch.no_grad()
    def call() -> Tensor:
        with torch.autocast(given.device.type, torch.bfloat16, enabled="bfloat16" in kind):
            found: Tensor = model(given)
        return found

    return call

"""Operations and bytes of a computation, and how many of them the machine does in a second."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._frame import seconds


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations, forward and backward, as torch counts them.

    Its counter does not know the CPU's fused attention, so that runs as two matrix products here.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for its backward pass, each block of memory once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()  # while it lives, no two blocks have one address
    assert kept is not None
    return sum(sizes.values())


def peak_flops(device: str = "cpu", times: int = 10) -> float:
    """Floating-point operations per second of a large product of matrices, the best of some.

    In float32 on a CPU, in bfloat16 on a GPU.
    """
    size, dtype = (1024, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    return 2 * size**3 / min(seconds(lambda: left @ right) for _ in range(times))


def bandwidth(device: str = "cpu", times: int = 5) -> float:
    """Bytes per second that a large copy reads and writes, the best of some."""
    mib = 256 if device == "cpu" else 4096
    source = torch.ones(mib * 2**18, device=device)
    target = torch.empty_like(source).copy_(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(times))

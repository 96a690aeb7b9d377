"""The comparison of batched cycles with ordinary calls."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cycledistill._batched import BatchedRun
from cycledistill._call import call_plain
from cycledistill._ordinary import OrdinaryRun
from cycledistill._output import CycleOutput
from cycledistill._rng import RngState, generators_in
from cycledistill._setup import Setup
from cycledistill._teacher import TeacherOnly
from cycledistill._tree import iter_tensors


class Verification(NamedTuple):
    """The result of `CycleWrapper.verify`.

    Attributes:
        tensors: Number of tensors of predictions and tokens that were compared, over all cycles.
        gradients: Number of parameters whose gradients were compared.
        largest: The largest difference, relative to the largest value of its tensor.
        unchecked: Why nothing (or no gradient) was compared; "" if everything was.
    """

    tensors: int
    gradients: int
    largest: float
    unchecked: str = ""

    def __str__(self) -> str:
        """A one-line summary."""
        if not self.tensors:
            return self.unchecked
        compared = f"{self.tensors} tensors and {self.gradients} gradients"
        equal = f"batched cycles equal ordinary calls in {compared}, to {self.largest:.0e}"
        return f"{equal} ({self.unchecked})" if self.unchecked else equal


def compare(
    setup: Setup,
    plain: nn.Module,
    teacher: TeacherOnly | None,
    num_cycles: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Verification:
    """Run batched cycles and ordinary calls on the same inputs, and compare their results.

    Raises:
        ValueError: They differ; the message says where, why, and what to do.
    """
    batched = BatchedRun(setup, plain, teacher, num_cycles)
    ordinary = OrdinaryRun(setup, plain, teacher, num_cycles)
    parameters: dict[str, Tensor] = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    distributed = dist.is_available() and dist.is_initialized()
    unchecked = ""
    if distributed or not torch.is_grad_enabled():
        parameters = {}
        unchecked = "gradients were not compared: " + (
            "several processes may share the parameters" if distributed else "they are disabled"
        )
    rng = RngState((*setup.generators, *generators_in((args, kwargs))))
    with _deterministic(plain, rng):
        try:
            result = batched.run(args, kwargs)
            pruned, got = result.pruned, _by_name(result.output, parameters)
            del result  # and its graph
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            call_plain(plain, args, kwargs)  # an error of the model itself is raised here
            text = str(error).rstrip(". ")
            advice = "" if "batched=False" in text else ". Use batched=False"
            raise ValueError(
                f"{setup.model} cannot run its cycles in one batch: {text}{advice}"
            ) from error
        if pruned:
            why = "the blocks prune tokens, which every ordinary call would do again"
            return Verification(0, 0, 0.0, f"nothing was compared: {why}")
        rng.restore()
        expected = _by_name(ordinary.run(args, kwargs).output, parameters)
        differences = _differences(expected, got)
        tolerance = _tolerance(expected)
        wrong = {name: size for name, size in differences.items() if not size <= tolerance}
        if wrong:
            repeated = _differences(expected, _by_name(ordinary.run(args, kwargs).output, {}))
            if any(not size <= tolerance for size in repeated.values()):
                why = f"{setup.model} draws random numbers that could not be disabled"
                return Verification(0, 0, 0.0, f"nothing was compared: {why}")
    if wrong:
        raise ValueError(_message(setup, wrong))
    gradients = sum(map(_is_gradient, expected))
    largest = max(differences.values(), default=0.0)
    return Verification(len(expected) - gradients, gradients, largest, unchecked)


def _by_name(output: CycleOutput, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a run and the gradients of the parameters, by name."""
    tensors = {}
    for cycle, (prediction, tokens) in enumerate(zip(*output, strict=True), 1):
        tensors[f"tokens of cycle {cycle}"] = tokens
        for number, tensor in enumerate(iter_tensors(prediction), 1):
            tensors[f"tensor {number} of the prediction of cycle {cycle}"] = tensor
    outputs = [t for t in tensors.values() if t.requires_grad]
    found = {name: tensor.detach() for name, tensor in tensors.items()}
    if parameters and outputs:
        # Weights without symmetry: a softmax sums to one, and a mean treats all cycles alike.
        weights = [
            (torch.arange(t.numel(), device=t.device) + number).cos().view(t.shape).to(t.dtype)
            for number, t in enumerate(outputs)
        ]
        made = torch.autograd.grad(outputs, [*parameters.values()], weights, allow_unused=True)
        for (name, parameter), grad in zip(parameters.items(), made, strict=True):
            found[f"gradient of {name}"] = torch.zeros_like(parameter) if grad is None else grad
    return found


def _is_gradient(name: str) -> bool:
    return name.startswith("gradient")


def _differences(expected: dict[str, Tensor], got: dict[str, Tensor]) -> dict[str, float]:
    """The relative difference of each tensor and, where ``got`` has gradients, each gradient."""
    only_one = [name for name in expected.keys() ^ got.keys() if not _is_gradient(name)]
    if only_one:
        return dict.fromkeys(sorted(only_one), math.inf)
    largest = [float(g.abs().max()) for n, g in expected.items() if _is_gradient(n) and g.numel()]
    scale = 1e-3 * max(largest, default=0.0)
    return {
        name: _relative(expected[name], tensor, scale if _is_gradient(name) else 0.0)
        for name, tensor in got.items()
    }


def _relative(expected: Tensor, got: Tensor, scale: float) -> float:
    if expected.shape != got.shape:
        return math.inf
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got) else math.inf
    if not expected.numel():
        return 0.0
    same = (expected == got) | (expected.isnan() & got.isnan())
    difference = (expected - got).abs().where(~same, 0).max()
    size = expected.abs().where(expected.isfinite(), 0).max()
    return float(difference / size.clamp_min(max(scale, torch.finfo(size.dtype).tiny)))


def _tolerance(tensors: dict[str, Tensor]) -> float:
    """Square root of the coarsest dtype's precision (3e-4 in float32), at least 1e-5."""
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return max([1e-5, *(math.sqrt(torch.finfo(kind).eps) for kind in kinds)])


def _message(setup: Setup, wrong: dict[str, float]) -> str:
    kind = next(kind for kind in _REASONS if any(name.startswith(kind) for name in wrong))
    size, most = max((size, name) for name, size in wrong.items() if name.startswith(kind))
    return (
        f"batched cycles of {setup.model} ({setup.stack.path!r}) differ from its ordinary calls in "
        f"{len(wrong)} places, such as the {most} (relative difference {size:.1e}). "
        f"{_REASONS[kind]}. Use batched=False"
    )


# The likely reason for a difference, by where it appears first.
_REASONS = {
    "tokens": "The model does something to the tokens between its blocks, or passes its blocks "
    "something that differs from cycle to cycle",
    "tensor": "What follows the blocks mixes the samples of a batch, or uses other outputs of the "
    "blocks than their tokens, or tensors of the plain batch",
    "gradient": "The model runs some blocks without gradients, or what follows mixes the samples "
    "of a batch only in its gradients",
}


@contextlib.contextmanager
def _deterministic(plain: nn.Module, rng: RngState) -> Iterator[None]:
    """Disable randomness, and restore buffers and generators afterwards."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in plain.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    with _NoRandomness():
        try:
            yield
        finally:
            rng.restore()
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    module._buffers[name] = buffer
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


class _NoRandomness(TorchFunctionMode):
    """Disables dropout and makes random tensors constant."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if "dropout" in name and "dropout_p" not in name:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            if len(args) > 4:
                args = (*args[:4], 0.0, *args[5:])
            else:
                kwargs["dropout_p"] = 0.0
        elif func is F.multi_head_attention_forward:
            kwargs["training"] = False
        made = func(*args, **kwargs)
        constant = _CONSTANTS.get(name)
        if constant is not None and isinstance(made, Tensor):
            with torch.no_grad():
                made.fill_(constant)
        return made


_CONSTANTS = {
    "bernoulli": 1,
    "bernoulli_": 1,
    "rand": 0.5,
    "rand_like": 0.5,
    "randn": 0,
    "randn_like": 0,
    "normal_": 0,
    "uniform_": 0.5,
    "exponential_": 1,
}

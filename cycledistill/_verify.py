"""Whether batched cycles equal the ordinary calls: one comparison, and what it says."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cycledistill._batched import BatchedPass
from cycledistill._call import call_plain
from cycledistill._calls import OrdinaryCalls
from cycledistill._chance import Chance
from cycledistill._output import CycleOutput
from cycledistill._setup import Setup
from cycledistill._teacher import TeacherOnly
from cycledistill._tree import iter_tensors


class Verification(NamedTuple):
    """What `CycleWrapper.verify` compared.

    Attributes:
        tensors: Tensors of predictions and tokens that were compared, over all cycles.
        gradients: Parameters whose gradients were compared.
        largest: The largest difference, relative to the largest value of its tensor.
        unchecked: Why nothing (or no gradient) was compared; "" where everything was.
    """

    tensors: int
    gradients: int
    largest: float
    unchecked: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        if not self.tensors:
            return self.unchecked
        compared = f"{self.tensors} tensors and {self.gradients} gradients"
        equal = f"batched cycles equal ordinary calls in {compared}, to {self.largest:.0e}"
        return f"{equal} ({self.unchecked})" if self.unchecked else equal


class _Run(NamedTuple):
    tensors: dict[str, Tensor]
    gradients: dict[str, Tensor]


class _Difference(NamedTuple):
    name: str
    relative: float


def compare(
    setup: Setup,
    plain: nn.Module,
    teacher: TeacherOnly | None,
    num_cycles: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Verification:
    """Run both ways on the same inputs, without chance, and compare all that comes of them.

    Raises:
        ValueError: They differ; the text says in what, why, and what to do.
    """

    def ordinary() -> CycleOutput:
        return OrdinaryCalls(setup, plain, teacher, num_cycles).run(args, kwargs).output

    batched = BatchedPass(setup, plain, teacher, num_cycles)
    parameters: dict[str, Tensor] = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    sharded = dist.is_available() and dist.is_initialized()
    unchecked = ""
    if sharded or not torch.is_grad_enabled():
        parameters = {}
        unchecked = "gradients were not compared: " + (
            "several processes may share the parameters" if sharded else "they are switched off"
        )
    with _undisturbed(plain) as chance:
        try:
            got = _run(lambda: batched.run(args, kwargs).output, parameters)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            call_plain(plain, args, kwargs)  # its own error comes through as it is
            text = str(error).rstrip(". ")
            advice = "" if "batched=False" in text else ". Use batched=False"
            raise ValueError(
                f"{setup.model} cannot run its cycles in one batch: {text}{advice}"
            ) from error
        if batched.pruned:
            why = "the blocks prune tokens, which every ordinary call would do again"
            return Verification(0, 0, 0.0, f"nothing was compared: {why}")
        chance.restore()
        expected = _run(ordinary, parameters)
        differences = _differences(expected, got)
        wrong = [found for found in differences if not found.relative <= _tolerance(expected)]
        if wrong and _differs(expected, _run(ordinary, {})):
            why = f"{setup.model} draws random numbers that could not be held still"
            return Verification(0, 0, 0.0, f"nothing was compared: {why}")
    if wrong:
        raise ValueError(_words(setup, wrong))
    largest = max((found.relative for found in differences), default=0.0)
    return Verification(len(expected.tensors), len(expected.gradients), largest, unchecked)


def _run(function: Callable[[], CycleOutput], parameters: dict[str, Tensor]) -> _Run:
    predictions, tokens = function()
    tensors = {}
    for cycle, (prediction, left) in enumerate(zip(predictions, tokens, strict=True), 1):
        tensors[f"tokens of cycle {cycle}"] = left
        for number, tensor in enumerate(iter_tensors(prediction), 1):
            tensors[f"tensor {number} of the prediction of cycle {cycle}"] = tensor
    gradients: dict[str, Tensor] = {}
    outputs = [t for t in tensors.values() if t.requires_grad]
    if parameters and outputs:
        # Weights that no symmetry cancels: a softmax sums to one, a mean serves all cycles alike.
        weights = [
            (torch.arange(t.numel(), device=t.device) + number).cos().view(t.shape).to(t.dtype)
            for number, t in enumerate(outputs)
        ]
        made = torch.autograd.grad(outputs, [*parameters.values()], weights, allow_unused=True)
        gradients = {
            f"gradient of {name}": torch.zeros_like(parameter) if grad is None else grad
            for (name, parameter), grad in zip(parameters.items(), made, strict=True)
        }
    return _Run({name: tensor.detach() for name, tensor in tensors.items()}, gradients)


def _differences(expected: _Run, got: _Run) -> list[_Difference]:
    if expected.tensors.keys() != got.tensors.keys():
        names = expected.tensors.keys() ^ got.tensors.keys()
        return [_Difference(name, math.inf) for name in sorted(names)]
    found = [
        _Difference(name, _relative(tensor, got.tensors[name], 0.0))
        for name, tensor in expected.tensors.items()
    ]
    scale = max((float(g.abs().max()) for g in expected.gradients.values() if g.numel()), default=0)
    return found + [
        _Difference(name, _relative(gradient, got.gradients[name], 1e-3 * scale))
        for name, gradient in expected.gradients.items()
    ]


def _differs(one: _Run, other: _Run) -> bool:
    found = _differences(_Run(one.tensors, {}), _Run(other.tensors, {}))
    return any(not each.relative <= _tolerance(one) for each in found)


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


def _tolerance(run: _Run) -> float:
    """Square root of the coarsest number type's precision, 3e-4 in float32, and 1e-5 at least."""
    kinds = {t.dtype for t in run.tensors.values() if t.is_floating_point()}
    return max([1e-5, *(math.sqrt(torch.finfo(kind).eps) for kind in kinds)])


def _words(setup: Setup, wrong: list[_Difference]) -> str:
    tokens = [found for found in wrong if found.name.startswith("tokens")]
    outputs = [found for found in wrong if found.name.startswith("tensor")]
    if tokens:
        why = (
            "The model does something to the tokens between its blocks, or hands its blocks "
            "something that differs from cycle to cycle"
        )
    elif outputs:
        why = (
            "What follows the blocks mixes the samples of a batch, or uses something that the "
            "blocks gave beside their tokens or that is of the plain batch"
        )
    else:
        why = (
            "The model runs some blocks without gradients, or what follows mixes the samples of a "
            "batch only in its gradients"
        )
    most = max(tokens or outputs or wrong, key=lambda found: found.relative)
    return (
        f"batched cycles of {setup.model} ({setup.stack.path!r}) differ from its ordinary calls in "
        f"{len(wrong)} places, such as the {most.name} (relative difference "
        f"{most.relative:.1e}). {why}. Use batched=False"
    )


@contextlib.contextmanager
def _undisturbed(plain: nn.Module) -> Iterator[Chance]:
    """Chance held still; buffers and generators are afterwards as they were."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in plain.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    chance = Chance()
    with _WithoutChance():
        try:
            yield chance
        finally:
            chance.restore()
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    module._buffers[name] = buffer
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


class _WithoutChance(TorchFunctionMode):
    """Dropout passes everything, and random tensors are constant."""

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

"""The wrapper's options, each against cycles fed by hand."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cycledistill import CycleDistillLoss, CycleOutput, CycleWrapper
from tests.core.models import BatchNormHead, Block, OwnCheckpoints
from tests.core.reference import (
    HandFed,
    assert_same,
    assert_same_gradients,
    equation_4,
    gradients,
    hand_fed,
    stack_of,
    task_loss,
)
from tests.core.zoo import ZOO, Case

SOME = ["vit", "beit-shared-bias", "hf-bert", "encoder", "tuple-blocks", "sequential"]
some = pytest.mark.parametrize("case", [ZOO[name] for name in SOME], ids=SOME)


def loss_of(out: CycleOutput) -> Tensor:
    return CycleDistillLoss(task_loss, 0.7)(out).total


def sequential(depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(depth))).double()


def tokens(size: int = 2) -> Tensor:
    return torch.randn(size, 6, 16, dtype=torch.float64)


def saved_bytes(function: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a function returns, and the bytes that its graph keeps, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        made = function()
    return made, sum(storages.values())


# Activation checkpointing


@some
@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_gives_the_same_gradients(case: Case, kind: str) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    args, kwargs = case.batch()
    cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
    out = cycled(*args, **kwargs)
    fed = hand_fed(plain, cycled.stack_path, 3, args, kwargs)
    assert_same(out.tokens, tuple(fed.tokens))
    loss_of(out).backward()
    equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))


def test_checkpointing_keeps_less() -> None:
    x = tokens(8)
    kept = {}
    for kind in (None, "block", "cycle"):
        cycled = CycleWrapper(sequential(4), 3, activation_checkpointing=kind)
        loss, kept[kind] = saved_bytes(lambda wrapped=cycled: wrapped(x).tokens[-1].sum())
        loss.backward()
    one = x.numel() * x.element_size()
    assert kept["block"] < kept[None] / 5
    assert kept["cycle"] < kept["block"]
    # Inputs of 3 x 4 blocks; and of 4 blocks and 2 cycles; and what stands around them.
    assert kept["block"] <= (12 + 4) * one
    assert kept["cycle"] <= (4 + 2 + 4) * one


@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_runs_dropout_the_same_again(kind: str) -> None:
    def build(activation_checkpointing: str | None) -> tuple[CycleWrapper, nn.Module]:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True)
        model = nn.TransformerEncoder(layer, 2).double()
        return CycleWrapper(model, 3, activation_checkpointing=activation_checkpointing), model

    x = tokens()
    results = []
    for option in (None, kind):
        cycled, model = build(option)
        torch.manual_seed(5)
        loss = loss_of(cycled(x))
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_with_all_other_options(kind: str) -> None:
    options: dict[str, Any] = {
        "grad_cycles": 2,
        "input_injection": 0.5,
        "cycle_embedding": True,
        "adapter_rank": 2,
        "check_finite": True,
    }
    results = []
    for option in (None, kind):
        cycled = CycleWrapper(
            sequential(), 3, token_dim=16, activation_checkpointing=option, **options
        )
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in cycled.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        torch.manual_seed(4)
        loss = loss_of(cycled(tokens()))
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in cycled.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# Models that checkpoint on their own


SEGMENTS = {
    "each": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "last": [(3, 4)],
    "pairs": [(0, 2), (2, 4)],
    "stem-and-all": [(-1, 4)],
    "stem-and-head": [(-1, 5)],
    "first-half": [(-1, 2)],
    "last-and-head": [(2, 5)],
}


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS.keys())
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("kind", [None, "block", "cycle"])
@pytest.mark.parametrize("order", ["once", "together", "first-first", "last-first"])
def test_models_that_checkpoint_on_their_own(
    segments: list[tuple[int, int]], reentrant: bool, kind: str | None, order: str
) -> None:
    torch.manual_seed(0)
    model = OwnCheckpoints(segments, reentrant).double()
    plain = OwnCheckpoints([], False).double()
    plain.load_state_dict(model.state_dict())
    cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
    inputs = [
        (tokens().requires_grad_(), torch.randn(6, 6, dtype=torch.float64))
        for _ in range(1 if order == "once" else 2)
    ]
    counts = (3, 2)
    if reentrant and segments[-1][1] == 5:
        with pytest.raises(RuntimeError, match=r"no gradient.*use_reentrant=False"):
            cycled(*inputs[0])
        return
    outs = [cycled(*pair, num_cycles=n) for pair, n in zip(inputs, counts, strict=False)]
    losses = [loss_of(out) for out in outs]
    if order == "last-first":
        losses.reverse()
    for loss in [sum(losses)] if order == "together" else losses:
        loss.backward()  # type: ignore[union-attr]
    for pair, count, out in zip(inputs, counts, outs, strict=False):
        fed = hand_fed(plain, "blocks", count, pair, {})
        assert_same(out.tokens, tuple(fed.tokens))
        equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))
    assert len(cycled(*inputs[0]).tokens) == 3


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_arguments_made_inside_of_a_checkpoint_get_their_gradient(reentrant: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(6, 6))
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def part(self, x: Tensor) -> Tensor:
            for index, block in enumerate(self.blocks):
                x = block(x, self.bias * (index + 1))
            return x

        def forward(self, x: Tensor, plain: bool = False) -> Tensor:
            if plain:
                return self.part(x)
            return torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=reentrant)

    torch.manual_seed(0)
    model = Model().double()
    plain = copy.deepcopy(model)
    x = tokens().requires_grad_()
    loss_of(CycleWrapper(model, 3)(x)).backward()
    equation_4(hand_fed(plain, "blocks", 3, (x,), {"plain": True})).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize("segments", [SEGMENTS["each"], SEGMENTS["stem-and-all"]])
def test_plain_calls_between_and_after_checkpointed_passes(segments: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    model = OwnCheckpoints(segments, False).double()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    x, bias = tokens(), torch.zeros(6, 6, dtype=torch.float64)
    out = cycled(x, bias)
    between = cycled.model(x, bias)
    assert_same(between, plain(x, bias), tolerance=0)
    loss_of(out).backward(retain_graph=True)
    after = model(x, bias)
    assert_same(after, between, tolerance=0)
    before = {name: value.clone() for name, value in gradients(model).items()}  # type: ignore[union-attr]
    model.zero_grad()
    loss_of(out).backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, before[name]), name  # type: ignore[arg-type]
    model.zero_grad()
    (between.sum() + after.sum()).backward()
    (2 * plain(x, bias).sum()).backward()
    assert_same_gradients(model, gradients(plain))


def test_checkpoints_without_an_early_stop() -> None:
    case = ZOO["eva02"]
    args, kwargs = case.batch()
    for own in (False, True):
        for kind in ("block", "cycle"):
            model, plain = case.build(), case.build()
            cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
            cycled.set_grad_checkpointing(own)
            with torch.utils.checkpoint.set_checkpoint_early_stop(False):
                loss_of(cycled(*args)).backward()
            equation_4(hand_fed(plain, "blocks", 3, args, kwargs)).backward()
            assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize("name", ["vit", "eva02", "beit-shared-bias", "xcit", "cait"])
def test_timms_checkpointing(name: str) -> None:
    case = ZOO[name]
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    cycled.set_grad_checkpointing(True)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    loss_of(out).backward()
    fed = hand_fed(plain, "blocks", 2, args, kwargs)
    assert_same(out.predictions, tuple(fed.predictions))
    equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))
    checkpointed = saved_bytes(lambda: cycled(*args, **kwargs).tokens[0])[1]
    cycled.set_grad_checkpointing(False)
    assert checkpointed < saved_bytes(lambda: cycled(*args, **kwargs).tokens[0])[1]


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("kind", [None, "block", "cycle"])
def test_hugging_faces_checkpointing(reentrant: bool, kind: str | None) -> None:
    case = ZOO["hf-vit"]
    model = case.build()
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
    _, kwargs = case.batch()
    kwargs["pixel_values"].requires_grad_()
    loss_of(cycled(**kwargs)).backward()
    equation_4(hand_fed(plain, cycled.stack_path, 3, (), kwargs)).backward()
    assert_same_gradients(model, gradients(plain))


# Truncated gradients


@some
@pytest.mark.parametrize("grad_cycles", [1, 2, 3])
def test_gradients_through_at_most_k_cycles(case: Case, grad_cycles: int) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 4, grad_cycles=grad_cycles)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    loss_of(out).backward()

    by_hand = truncated(plain, cycled.stack_path, 4, grad_cycles, args, kwargs)
    equation_4(by_hand).backward()
    assert_same(out.tokens, tuple(by_hand.tokens))
    assert_same_gradients(model, gradients(plain))


def truncated(
    model: nn.Module,
    path: str,
    num_cycles: int,
    grad_cycles: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Cycles by hand; the tokens handed from cycle k to k + 1, 2k to 2k + 1, ... are constants."""
    blocks = stack_of(model, path)
    cycle = 1
    original = blocks[0].forward

    def cut(x: Tensor, *rest: Any, **named: Any) -> Any:
        nonlocal cycle
        if torch.is_grad_enabled() and by_hand_calls[0]:
            cycle += 1
            if (cycle - 1) % grad_cycles == 0:
                x = x.detach()
        return original(x, *rest, **named)

    # The plain model's own calls come through here too, each of them cycle 1.
    by_hand_calls = [True]

    def entering(*_: Any) -> None:
        by_hand_calls[0] = False

    def leaving(*_: Any) -> None:
        by_hand_calls[0] = True

    handles = []
    if model is not blocks[0]:
        handles = [
            model.register_forward_pre_hook(entering),
            model.register_forward_hook(leaving),
        ]
    blocks[0].forward = cut  # type: ignore[method-assign]
    try:
        return hand_fed(model, path, num_cycles, args, kwargs)
    finally:
        del blocks[0].forward
        for handle in handles:
            handle.remove()


def test_one_grad_cycle_cuts_every_cycle_off() -> None:
    cycled = CycleWrapper(sequential(), 3, grad_cycles=1)
    x = tokens().requires_grad_()
    out = cycled(x)
    out.tokens[2].sum().backward(retain_graph=True)
    assert x.grad is None or not x.grad.any()
    out.tokens[0].sum().backward()
    assert x.grad is not None and x.grad.any()


# Random numbers of cycles


def test_random_numbers_of_cycles() -> None:
    cycled = CycleWrapper(sequential(1), 4, min_cycles=2, blocks=":")
    x = tokens()

    def draw() -> list[int]:
        torch.manual_seed(7)
        return [len(cycled(x).tokens) for _ in range(90)]

    counts = draw()
    assert counts == draw(), "reproducible under torch.manual_seed"
    assert set(counts) == {2, 3, 4}
    assert min(Counter(counts).values()) >= 15
    assert cycled.cycles_run == counts[-1]
    assert len(cycled(x, num_cycles=1).tokens) == 1
    assert len(cycled.forward_cycles(x).tokens) == 4
    cycled.eval()
    assert isinstance(cycled(x), Tensor)
    cycled.train()
    cycled.num_cycles = 2
    assert {len(cycled(x).tokens) for _ in range(10)} == {2}


def test_random_cycles_leave_the_models_dropout_alone() -> None:
    """The number is drawn before the model runs, once."""
    cycled = CycleWrapper(sequential(), 3, min_cycles=1)
    state = torch.get_rng_state()
    torch.randint(1, 4, ())
    after_draw = torch.get_rng_state()
    torch.set_rng_state(state)
    cycled(torch.ones(1, 6, 16, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), after_draw)


# Input injection


def test_input_injection() -> None:
    model = sequential()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, input_injection=0.25)
    x = tokens()
    out = cycled(x)
    first = plain(x)
    second = plain(first + 0.25 * x)
    third = plain(second + 0.25 * x)
    assert_same(out.tokens, (first, second, third))
    loss_of(out).backward()
    equation_4(HandFed([first, second, third], [first, second, third])).backward()
    assert_same_gradients(model, gradients(plain))
    cycled.eval()
    assert_same(cycled(x), first, tolerance=0)
    assert_same(cycled(x, num_cycles=3), third)


@pytest.mark.parametrize("name", ["vit", "hf-vit", "encoder-batch-second"])
def test_input_injection_under_a_models_own_checkpoints(name: str) -> None:
    case = ZOO[name]
    args, kwargs = case.batch()
    results = []
    for checkpointing in (False, True):
        model = case.build()
        cycled = CycleWrapper(model, 3, input_injection=0.5)
        if checkpointing and name == "vit":
            cycled.set_grad_checkpointing(True)
        elif checkpointing and name == "hf-vit":
            cycled.gradient_checkpointing_enable()
        loss_of(cycled(*args, **kwargs)).backward()
        results.append(gradients(model))
    for key, gradient in results[0].items():
        torch.testing.assert_close(results[1][key], gradient, rtol=0, atol=1e-12)


# Teacher-only parameters


@some
def test_teacher_only_parameters(case: Case) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, cycle_embedding=True, adapter_rank=2, token_dim=16)
    args, kwargs = case.batch()
    fed = hand_fed(plain, cycled.stack_path, 3, args, kwargs)
    out = cycled(*args, **kwargs)
    assert_same(out.tokens, tuple(fed.tokens), tolerance=1e-12)
    shapes = {name: tuple(value.shape) for name, value in cycled.teacher_state_dict().items()}
    assert shapes == {"embedding": (2, 16), "down": (2, 3, 16, 2), "up": (2, 3, 2, 16)}
    own = {n: p for n, p in cycled.named_parameters() if n.startswith("cycle_teacher.")}
    assert len(own) == 3
    assert sum(p.numel() for p in cycled.parameters()) == sum(
        p.numel() for p in (*plain.parameters(), *own.values())
    )
    cycled.double()
    optimizer = torch.optim.SGD(cycled.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves "up" from zero, the second then moves "down"
        start = {name: parameter.detach().clone() for name, parameter in own.items()}
        optimizer.zero_grad()
        loss_of(cycled(*args, **kwargs)).backward()
        optimizer.step()
    for name, parameter in own.items():
        assert not torch.equal(parameter, start[name]), f"{name} trains"
    assert not any("teacher" in key for key in cycled.state_dict())

    changed = cycled(*args, **kwargs)
    trained = hand_fed(copy.deepcopy(cycled).unwrap(), cycled.stack_path, 2, args, kwargs)
    assert_same(changed.tokens[0], trained.tokens[0])
    assert float((changed.tokens[1] - trained.tokens[1]).detach().abs().max()) > 1e-4

    saved = {name: value.clone() for name, value in cycled.teacher_state_dict().items()}
    other = CycleWrapper(case.build(), 3, cycle_embedding=True, adapter_rank=2, token_dim=16)
    other.double()
    other.load_state_dict(cycled.state_dict())
    other.load_teacher_state_dict(saved)
    assert_same(other(*args, **kwargs), changed, tolerance=0)
    assert cycled.unwrap() is model
    assert set(dict(model.named_parameters())) == set(dict(plain.named_parameters()))


def test_teacher_only_parameters_by_hand() -> None:
    model = sequential(2)
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, cycle_embedding=True, adapter_rank=4).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for value in cycled.teacher_state_dict().values():
            value.copy_(torch.randn_like(value))
    teacher = cycled.teacher_state_dict()
    x = tokens()
    out = cycled.forward_cycles(x, num_cycles=5)
    expected = [plain(x)]
    for cycle in range(2, 6):
        row = min(cycle, 3) - 2  # cycles beyond the trained number use the last one's
        t = expected[-1] + teacher["embedding"][row]
        for index, block in enumerate(plain):
            t = block(t) + t @ teacher["down"][row, index] @ teacher["up"][row, index]
        expected.append(t)
    for got, wanted in zip(out.tokens, expected, strict=True):
        scale = float(wanted.detach().abs().max())
        assert float((got - wanted).detach().abs().max()) < 1e-12 * scale
    cycled.eval()
    assert_same(cycled(x), plain(x), tolerance=0)


@pytest.mark.parametrize("num_cycles", [1, 2, 3])
def test_every_teacher_parameter_gets_a_gradient_whatever_ran(num_cycles: int) -> None:
    cycled = CycleWrapper(sequential(2), 3, cycle_embedding=True, adapter_rank=2).double()
    cycled(tokens(), num_cycles=num_cycles).tokens[-1].sum().backward()
    own = [p for name, p in cycled.named_parameters() if "cycle_teacher" in name]
    assert all(parameter.grad is not None for parameter in own)
    if num_cycles == 1:
        assert not any(parameter.grad.any() for parameter in own)  # type: ignore[union-attr]


def test_one_cycle_needs_no_teacher_parameters() -> None:
    cycled = CycleWrapper(sequential(2), 1, cycle_embedding=True, adapter_rank=2)
    assert cycled.teacher_state_dict() == {}
    assert len(cycled(tokens()).tokens) == 1


def test_teacher_parameters_on_tokens_with_the_batch_second() -> None:
    case = ZOO["encoder-batch-second"]
    args, kwargs = case.batch()
    cycled = CycleWrapper(case.build(), 2, cycle_embedding=True, adapter_rank=2)
    assert cycled.teacher_state_dict()["embedding"].shape == (1, 16)
    fed = hand_fed(case.build(), "layers", 2, args, kwargs)
    assert_same(cycled(*args, **kwargs).tokens, tuple(fed.tokens))


# Early exit


class Contraction(nn.Module):
    """Halves the distance to a fixed point, a sample's own rate times."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, rate: float = 0.5) -> Tensor:
        return self.point + rate * (x - self.point)


def test_early_exit() -> None:
    model = nn.Sequential(Contraction()).double().eval()
    cycled = CycleWrapper(model, 2, blocks=":")
    x = 1 + torch.ones(2, 3, 4, dtype=torch.float64)
    # After i cycles x is 1 + 2^-i, so cycle i + 1 changes it by 2^-(i+1) / (1 + 2^-i).
    changes = [2.0 ** -(i + 1) / (1 + 2.0**-i) for i in range(1, 30)]
    for tolerance in (0.5, 0.05, 1e-3, 1e-6):
        expected = next(i for i, change in enumerate(changes, 2) if change < tolerance)
        out = cycled(x, num_cycles=30, exit_tolerance=tolerance)
        assert cycled.cycles_run == expected
        torch.testing.assert_close(out, x - 1 + 2.0**-expected)
    cycled(x, num_cycles=3, exit_tolerance=1e-9)
    assert cycled.cycles_run == 3, "num_cycles is the limit"
    cycled(x)
    assert cycled.cycles_run == 1


def test_early_exit_waits_for_every_sample() -> None:
    model = nn.Sequential(Contraction()).double().eval()
    cycled = CycleWrapper(model, 2, blocks=":")
    settled = torch.ones(1, 3, 4, dtype=torch.float64)
    cycled(settled, num_cycles=9, exit_tolerance=1e-3)
    assert cycled.cycles_run == 2
    far = torch.cat([settled, settled + 100])
    cycled(far, num_cycles=30, exit_tolerance=1e-3)
    assert cycled.cycles_run > 10


# Finite tokens


class BreaksAt(nn.Module):
    """Grows tokens so that they overflow in a later cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1e20))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_the_cycle_at_which_tokens_became_infinite() -> None:
    model = nn.Sequential(BreaksAt())
    x = torch.ones(2, 3, 4)
    message = r"cycle 2 of ':' gave 24 of 24 token values that are NaN or infinite"
    cycled = CycleWrapper(model, 3, ":", check_finite=True)
    with pytest.raises(FloatingPointError, match=message):
        cycled(x)
    with pytest.raises(FloatingPointError, match=r"cycle 1 of ':' gave 1 of 24"):
        bad = x.clone()
        bad[0, 0, 0] = float("nan")
        cycled(bad)
    with pytest.raises(FloatingPointError, match=r"cycle 2"):
        cycled.eval()(x, num_cycles=3)
    assert torch.isfinite(cycled(x)).all(), "one plain pass is not checked"
    unchecked = CycleWrapper(cycled.unwrap(), 3, ":")
    assert torch.isinf(unchecked.train()(x).tokens[2]).all()


# Heads that mix samples


def batch_norm_model() -> BatchNormHead:
    torch.manual_seed(0)
    model = BatchNormHead().double()
    with torch.no_grad():
        model.bn.weight.uniform_(0.5, 2.0)
        model.bn.bias.uniform_(-1.0, 1.0)
    return model


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_norm_head_runs_once_for_each_cycle(momentum: float | None) -> None:
    model = batch_norm_model()
    model.bn.momentum = momentum  # type: ignore[assignment]
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, head_per_cycle=True)
    for _ in range(2):
        x = tokens(4)
        out = cycled(x)
        t, expected = x, []
        for _ in range(3):
            t = plain.blocks(t)
            expected.append(plain.head(plain.bn(t.mean(1))))
        assert_same(out.predictions, tuple(expected))
    assert model.bn.num_batches_tracked == plain.bn.num_batches_tracked == 6
    torch.testing.assert_close(model.bn.running_mean, plain.bn.running_mean)
    torch.testing.assert_close(model.bn.running_var, plain.bn.running_var)
    x = tokens(3)
    assert_same(cycled.eval()(x), plain.eval()(x))
    third = cycled(x, num_cycles=3)
    t = plain.blocks(plain.blocks(plain.blocks(x)))
    assert_same(third, plain.head(plain.bn(t.mean(1))))


def test_a_batch_norm_in_eval_mode_may_stay() -> None:
    model = batch_norm_model()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    cycled.bn.eval()
    plain.bn.eval()
    x = tokens(4)
    first = plain.blocks(x)
    expected = tuple(plain.head(plain.bn(t.mean(1))) for t in (first, plain.blocks(first)))
    assert_same(cycled(x).predictions, expected)


def test_a_batch_norm_without_running_statistics_mixes_in_eval_too() -> None:
    model = batch_norm_model()
    model.bn = nn.BatchNorm1d(16, track_running_stats=False).double()
    model.eval()
    plain = copy.deepcopy(model)
    x = tokens(4)
    with pytest.raises(ValueError, match=r"head_per_cycle=True"):
        CycleWrapper(copy.deepcopy(model), 2).forward_cycles(x)
    out = CycleWrapper(model, 2, head_per_cycle=True).forward_cycles(x)
    first = plain.blocks(x)
    expected = tuple(plain.head(plain.bn(t.mean(1))) for t in (first, plain.blocks(first)))
    assert_same(out.predictions, expected)


def test_batch_norms_before_and_inside_of_the_stack_are_no_obstacle() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.BatchNorm1d(6)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(6)) for _ in range(2)
            )
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + 0.0 if False else block(x)
            return self.head(x)

    torch.manual_seed(0)
    model = Model().double()
    plain = copy.deepcopy(model)
    x = tokens(4)
    out = CycleWrapper(model, 2)(x)
    t = plain.stem(x)
    expected = []
    for _ in range(2):
        for block in plain.blocks:
            t = block(t)
        expected.append(plain.head(t))
    assert_same(out.predictions, tuple(expected))
    for (name, one), other in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


# Dropout and modes


def test_dropout_differs_from_cycle_to_cycle() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Dropout(0.5) for _ in range(2)), nn.Identity())
    cycled = CycleWrapper(model, 3, blocks="0:2")
    out = cycled(torch.ones(1, 1, 1000))
    zeros = [int((t == 0).sum()) for t in out.tokens]
    assert 700 < zeros[0] < 800 and zeros[0] < zeros[1] < zeros[2], zeros


def test_dropout_draws_in_the_order_of_the_cycles() -> None:
    torch.manual_seed(0)
    layers = (nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True),) * 2
    model = nn.Sequential(*map(copy.deepcopy, layers)).double()
    plain = copy.deepcopy(model)
    x = tokens()
    torch.manual_seed(3)
    out = CycleWrapper(model, 3)(x)
    torch.manual_seed(3)
    first = plain(x)
    second = plain(first)
    assert_same(out.tokens, (first, second, plain(second)), tolerance=0)


def test_cycles_in_training_without_gradients() -> None:
    model = sequential()
    cycled = CycleWrapper(model, 2)
    x = tokens()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            out = cycled(x)
            assert not any(t.requires_grad for t in (*out.tokens, *out.predictions))
            assert_same(out.tokens[1], model(model(x)))


def test_autocast_on_the_cpu() -> None:
    case = ZOO["vit"]
    model = case.build().float()
    cycled = CycleWrapper(model, 2)
    x = case.batch()[0][0].float()
    with torch.autocast("cpu", torch.bfloat16):
        out = cycled(x)
        fed = hand_fed(copy.deepcopy(model), "blocks", 2, (x,), {})
        losses = CycleDistillLoss(nn.CrossEntropyLoss(), 1.0)(out, torch.tensor([1, 2]))
    assert out.predictions[0].dtype == torch.bfloat16
    assert_same(out.tokens, tuple(fed.tokens), tolerance=0)
    assert_same(out.predictions, tuple(fed.predictions), tolerance=0.02)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_empty_and_single_batches() -> None:
    cycled = CycleWrapper(sequential(), 2)
    assert cycled(tokens(1)).tokens[1].shape == (1, 6, 16)
    assert cycled(torch.zeros(2, 0, 16, dtype=torch.float64)).tokens[1].shape == (2, 0, 16)
    out = CycleWrapper(ZOO["vit"].build(), 3)(torch.zeros(0, 3, 32, 32, dtype=torch.float64))
    assert [tuple(prediction.shape) for prediction in out.predictions] == [(0, 5)] * 3
    assert [tuple(t.shape) for t in out.tokens] == [(0, 17, 16)] * 3

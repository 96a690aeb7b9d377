"""The wrapper's options, each against cycles fed by hand."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.models import Block, sequential, tokens
from tests.core.reference import (
    HandFed,
    assert_same,
    assert_same_gradients,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
)
from tests.core.zoo import ZOO, Case, some_cases

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
            cycled.gradient_checkpointing_enable({"use_reentrant": False})
        loss_of(cycled(*args, **kwargs)).backward()
        results.append(gradients(model))
    for key, gradient in results[0].items():
        torch.testing.assert_close(results[1][key], gradient, rtol=0, atol=1e-12)


# Teacher-only parameters


@some_cases
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
    assert {key for key in cycled.state_dict() if "teacher" in key} == set(own)

    changed = cycled(*args, **kwargs)
    trained = hand_fed(copy.deepcopy(cycled).unwrap(), cycled.stack_path, 2, args, kwargs)
    assert_same(changed.tokens[0], trained.tokens[0])
    assert float((changed.tokens[1] - trained.tokens[1]).detach().abs().max()) > 1e-4

    other = CycleWrapper(case.build(), 3, cycle_embedding=True, adapter_rank=2, token_dim=16)
    other.double()
    other.load_state_dict(cycled.state_dict())
    assert_same(other(*args, **kwargs), changed, tolerance=0)
    assert cycled.unwrap() is model
    assert set(dict(model.named_parameters())) == set(dict(plain.named_parameters()))


def test_the_width_is_that_of_a_blocks_own_norm() -> None:
    """Attention may have narrower norms, of queries and keys, and come first (Qwen3, Gemma 3)."""

    class WithQueryNorm(Block):
        def __init__(self) -> None:
            super().__init__()
            own = dict(self._modules)
            self._modules.clear()
            self.attention = nn.ModuleDict({"query_norm": nn.LayerNorm(8)})
            self._modules.update(own)

    model = nn.Sequential(*(WithQueryNorm() for _ in range(2))).double()
    cycled = CycleWrapper(model, 2, gate="channel", cycle_embedding=True, adapter_rank=2).double()
    assert cycled.teacher_state_dict()["alpha"].shape == (1, 16)
    assert len(cycled(tokens()).tokens) == 2


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


def test_teacher_parameters_are_where_the_model_is() -> None:
    model = sequential().to("meta")
    cycled = CycleWrapper(model, 2, cycle_embedding=True, adapter_rank=2, gate="channel")
    assert {parameter.device.type for parameter in cycled.parameters()} == {"meta"}


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

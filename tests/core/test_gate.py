"""Starting from a pretrained model: gates, norms between cycles, a slice and its input."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.models import LoopModel, sequential, tokens
from tests.core.reference import assert_same, gradients, loss_of
from tests.core.zoo import ZOO

CASES = ["vit", "hf-vit", "encoder-batch-second", "sequential"]
BOTH_WAYS = pytest.mark.parametrize("batched", [False, True])
GATES = pytest.mark.parametrize("gate", [True, "channel"])


@BOTH_WAYS
@GATES
@pytest.mark.parametrize("name", CASES)
def test_at_first_every_cycle_is_the_plain_model(name: str, gate: Any, batched: bool) -> None:
    case = ZOO[name]
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(
        model, 3, case.blocks, gate=gate, batched=batched, input_injection=0.5, cycle_norm="rms"
    )
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    expected = plain(*args, **kwargs)
    for prediction in out.predictions:
        assert_same(prediction, expected, tolerance=0 if not batched else 1e-12)
    keys = set(cycled.state_dict()) - set(plain.state_dict())
    assert keys == {"cycle_teacher.alpha"}
    assert cycled.unwrap() is model
    assert set(model.state_dict()) == set(plain.state_dict())


@BOTH_WAYS
@GATES
@pytest.mark.parametrize("checkpointing", [None, "block", "cycle"])
def test_gated_cycles_by_hand(gate: Any, batched: bool, checkpointing: str | None) -> None:
    model = sequential()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(
        model, 3, gate=gate, batched=batched, token_dim=16, activation_checkpointing=checkpointing
    )
    alpha = cycled.get_parameter("cycle_teacher.alpha")
    assert alpha.shape == ((2,) if gate is True else (2, 16))
    cycled.double()
    with torch.no_grad():
        alpha.copy_(torch.linspace(-0.5, 1.5, alpha.numel()).view(alpha.shape))
    hand = alpha.detach().clone().requires_grad_()
    x = tokens()
    first = plain(x)
    second = first + hand[0] * (plain(first) - first)
    third = second + hand[1] * (plain(second) - second)
    out = cycled(x)
    assert_same(out.tokens, (first, second, third))
    loss_of(out).backward()
    weights = [first, second, third]
    loss_of(type(out)(tuple(weights), tuple(weights))).backward()
    assert alpha.grad is not None
    assert hand.grad is not None
    torch.testing.assert_close(alpha.grad, hand.grad, atol=1e-10, rtol=0)
    for key, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[key], gradient, atol=1e-10, rtol=0)
    assert_same(cycled.eval()(x, num_cycles=2), second)


def test_no_gradient_passes_a_gate_between_truncated_cycles() -> None:
    cycled = CycleWrapper(sequential(), 3, gate=True, grad_cycles=1)
    with torch.no_grad():
        cycled.get_parameter("cycle_teacher.alpha").fill_(0.5)
    x = tokens().requires_grad_()
    out = cycled(x)
    for later in out.tokens[1:]:
        (gradient,) = torch.autograd.grad(later.sum(), x, allow_unused=True, retain_graph=True)
        assert gradient is None


def test_a_closed_gate_learns() -> None:
    cycled = CycleWrapper(sequential(), 2, gate=True)
    criterion = CycleDistillLoss(lambda prediction, target: (prediction - target).square().mean())
    x, target = tokens(), torch.zeros_like(tokens())
    criterion(cycled(x), target).total.backward()
    alpha = cycled.get_parameter("cycle_teacher.alpha")
    assert alpha.grad is not None
    assert alpha.grad.abs() > 1e-6


def rms(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True).sqrt()


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["rms", "input"])
def test_norms_between_cycles(kind: str, batched: bool) -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(2))).double()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, cycle_norm=kind, input_injection=0.5, batched=batched)
    x = 3 * tokens()

    def entering(left: Tensor) -> Tensor:
        scale = 1 / rms(left) if kind == "rms" else rms(x) / rms(left)
        return scale * left + 0.5 * x

    first = plain(x)
    second = plain(entering(first))
    third = plain(entering(second))
    out = cycled(x)
    for got, expected in zip(out.tokens, (first, second, third), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


def test_feature_maps_have_no_channels_to_norm_in_the_last_dimension() -> None:
    class Convolutions(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))

    model = nn.Sequential(Convolutions(), Convolutions())
    maps = torch.randn(2, 4, 3, 3)
    with pytest.raises(
        ValueError, match=r"cycle_norm='rms': .* 4 channels last, got \[2, 4, 3, 3\]"
    ):
        CycleWrapper(model, 2, cycle_norm="rms")(maps)
    assert len(CycleWrapper(model, 2, cycle_norm="rms", token_dim=3)(maps).tokens) == 2


def test_half_precision_tokens_are_normed_in_float32() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).half()
    cycled = CycleWrapper(model, 2, cycle_norm="rms")
    large = 1000 * torch.ones(2, 3, 16, dtype=torch.float16)  # its square is not finite in float16
    assert cycled(large).tokens[1].isfinite().all()


def test_a_slice_is_injected_with_its_own_input() -> None:
    model = LoopModel().double()
    plain = copy.deepcopy(model)
    block = plain.blocks[1]
    cycled = CycleWrapper(model, 2, "blocks.1:2", input_injection=0.5)
    seen: list[Tensor] = []
    model.blocks[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    output = cycled(tokens())
    entered, again = seen
    expected = block(entered, plain.bias[1]) + 0.5 * entered
    torch.testing.assert_close(output.tokens[0], block(entered, plain.bias[1]))
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("option", [{"gate": True}, {"cycle_embedding": True, "token_dim": 16}])
def test_cycles_that_were_wrapped_without_their_parameters(option: dict[str, Any]) -> None:
    cycled = CycleWrapper(sequential(), num_cycles=1, **option)
    assert len(cycled(tokens()).tokens) == 1
    cycled.num_cycles = 2
    with pytest.raises(ValueError, match=r"(gate|cycle_embedding): .* wrapped with num_cycles=1"):
        cycled(tokens())
    with pytest.raises(ValueError, match=r"this call has 3"):
        cycled.eval()(tokens(), num_cycles=3)


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"gate: expected False, True or 'channel', got 'token'"):
        CycleWrapper(sequential(), 2, gate="token")
    with pytest.raises(ValueError, match=r"cycle_norm: .* 'rms' or 'input', got 'layer'"):
        CycleWrapper(sequential(), 2, cycle_norm="layer")
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    with (
        pytest.warns(UserWarning, match="skips blocks at random"),
        pytest.raises(ValueError, match=r"gate=True acts after the last block.*layerdrop=0.1"),
    ):
        CycleWrapper(transformers.Wav2Vec2Model(config), 2, "encoder.layers", gate=True)

"""Batched cycles equal the ordinary calls, or it is said that they do not."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from cycledistill import CycleWrapper
from tests.core.models import BatchNormHead, Block, LoopModel, OwnCheckpoints
from tests.core.reference import (
    assert_same,
    assert_same_gradients,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
)
from tests.core.zoo import ZOO, Case

BATCHED = {name: case for name, case in ZOO.items() if name != "batch-norm-head"}


def tokens(size: int = 2) -> Tensor:
    return torch.randn(size, 6, 16)


@pytest.mark.parametrize("case", BATCHED.values(), ids=BATCHED.keys())
def test_batched_cycles_are_those_fed_by_hand(case: Case) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, case.blocks, batched=True)
    args, kwargs = case.batch()
    found = cycled.verify(*args, **kwargs)
    assert found.tensors >= 6 and found.gradients > 10 and found.largest < 1e-5
    assert not found.unchecked and str(found).startswith("batched cycles equal ordinary calls")
    assert_same_gradients(model, dict.fromkeys(gradients(model)))
    out = cycled(*args, **kwargs)
    fed = hand_fed(plain, cycled.stack_path, 3, args, kwargs)
    assert_same(out.tokens, tuple(fed.tokens))
    assert_same(out.predictions, tuple(fed.predictions))
    loss_of(out).backward()
    equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))
    plain.load_state_dict(model.state_dict())
    plain.eval()
    with torch.no_grad():
        fed = hand_fed(plain, cycled.stack_path, 2, args, kwargs)
        assert_same(cycled.eval()(*args, num_cycles=2, **kwargs), fed.predictions[1])
        assert cycled.cycles_run == 2


@pytest.mark.parametrize("kind", ["block", "cycle"])
@pytest.mark.parametrize("name", ["vit", "hf-bert", "encoder", "tuple-blocks", "sequential"])
def test_options_of_batched_cycles(name: str, kind: str) -> None:
    """Against ordinary calls with the same options, which are tested by hand elsewhere."""
    case = ZOO[name]
    args, kwargs = case.batch()
    results = []
    for batched in (False, True):
        torch.manual_seed(0)
        cycled = CycleWrapper(
            case.build(),
            4,
            batched=batched,
            activation_checkpointing=kind,
            grad_cycles=2,
            input_injection=0.5,
            cycle_embedding=True,
            adapter_rank=2,
            token_dim=16,
            check_finite=True,
        ).double()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in cycled.get_submodule("cycle_teacher").parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        out = cycled(*args, **kwargs)
        loss_of(out).backward()
        results.append((out, {n: p.grad for n, p in cycled.named_parameters()}))
    assert_same(results[1][0].tokens, results[0][0].tokens)
    assert_same(results[1][0].predictions, results[0][0].predictions)
    for key, expected in results[0][1].items():
        if expected is not None:
            torch.testing.assert_close(results[1][1][key], expected, rtol=0, atol=1e-10, msg=key)


def test_the_stem_and_the_tail_run_once() -> None:
    for batched, times in ((False, 3), (True, 1)):
        model = LoopModel()
        cycled = CycleWrapper(model, 3, batched=batched)
        cycled.verify(tokens())
        calls: list[nn.Module] = []
        parts = (model.stem, model.head, model.blocks[0])
        for part in parts:
            part.register_forward_hook(lambda module, *_, calls=calls: calls.append(module))
        cycled(tokens())
        assert [calls.count(part) for part in parts] == [times, times, 3]


def test_a_model_declares_that_it_can_be_batched() -> None:
    class Declares(LoopModel):
        batched_cycles = True

    assert CycleWrapper(Declares(), 2).batched
    assert not CycleWrapper(Declares(), 2, batched=False).batched
    assert not CycleWrapper(LoopModel(), 2).batched


MIXING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "centred": lambda y, x: y - y.mean(0),
    "softmax": lambda y, x: y.softmax(0),
    "scaled": lambda y, x: y / y.norm(),
    "scalar-beside": lambda y, x: {"logits": y, "penalty": y.square().mean()},
    "similarities": lambda y, x: (y, x[:, 0] @ y.new_ones(16, 7), (y @ y.T)[0]),
    "transposed-beside": lambda y, x: (x, y.T),
    "first-samples": lambda y, x: (x, y[:3]),
    "shifted": lambda y, x: y.roll(1, 0),
    "mean": lambda y, x: y.mean((0, 1)),
    "loss": lambda y, x: {"loss": y.square().mean()},
}


@pytest.mark.parametrize("head", MIXING.values(), ids=MIXING.keys())
def test_a_tail_that_mixes_samples(head: Callable[[Tensor, Tensor], Any]) -> None:
    text = r"mixes the samples of a batch|no tensor that LoopModel returned|in one batch"
    for use in (
        lambda cycled: cycled(tokens(3)),
        lambda cycled: cycled.eval().forward_cycles(tokens(3)),
        lambda cycled: cycled.verify(tokens(3)),
    ):
        for context in (torch.enable_grad, torch.no_grad):
            with context(), pytest.raises(ValueError, match=text) as error:
                use(CycleWrapper(LoopModel(head), 2, batched=True))
            assert str(error.value).count("batched=False") == 1
    assert len(CycleWrapper(LoopModel(head), 2)(tokens(3)).tokens) == 2


class Loops(nn.Module):
    def __init__(self, step: Callable[..., Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 5)
        self.gate = nn.Parameter(torch.zeros(()))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = self.step(index, block, x)
        y = self.head(x.mean(1))
        return y - self.gate * y.mean(0)


def without_gradients(index: int, block: nn.Module, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(index > 0 and torch.is_grad_enabled()):
        return block(x)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda i, block, x: block(x + 0.1 * i), r"tokens of cycle [12].*to the tokens between"),
        (lambda i, block, x: block(x).mul(1.1), r"tokens of cycle [12].*to the tokens between"),
        (without_gradients, r"gradient of .*blocks without gradients"),
        (lambda i, block, x: block(x), r"gradient of gate.*only in its gradients"),
    ],
    ids=["added", "scaled", "no-grad", "mixing-begins-later"],
)
def test_what_differs_is_said(step: Callable[..., Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CycleWrapper(Loops(step), 2, batched=True)(tokens(3))


def test_dropout_and_other_chance_are_held_still() -> None:
    class Random(LoopModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.5, batch_first=True)
            self.blocks = nn.ModuleList(copy.deepcopy(self.layer) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            x = nn.functional.dropout(x, 0.3, self.training)
            keep = x.new_empty(x.shape[0], 1).bernoulli_(0.8)
            return self.head(x.mean(1)) * keep + 0.1 * torch.rand(x.shape[0], 1)

    model = Random()
    state = torch.get_rng_state()
    cycled = CycleWrapper(model, 2, batched=True)
    found = cycled.verify(tokens(3))
    assert found.largest < 1e-5 and not found.unchecked
    torch.set_rng_state(state)
    before = torch.get_rng_state()
    cycled.verify(torch.ones(3, 6, 16))
    assert torch.equal(torch.get_rng_state(), before)


def test_chance_of_other_libraries_is_held_still_before_the_blocks() -> None:
    class Masks(LoopModel):
        def __init__(self) -> None:
            super().__init__()
            self.generator = np.random.default_rng(1)

        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            drawn = random.random() + self.generator.random()
            return super().forward(x * drawn + np.random.rand())

    model = Masks()
    states = random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    assert not CycleWrapper(model, 2, batched=True).verify(tokens()).unchecked
    assert model.generator.random() == np.random.default_rng(1).random()
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]


def test_chance_that_cannot_be_held_still_is_said() -> None:
    model = LoopModel(lambda y, x: y * random.SystemRandom().random())
    with pytest.warns(UserWarning, match=r"were not verified \(nothing was compared.*random"):
        CycleWrapper(model, 2, batched=True)(tokens())


def test_verifying_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = BatchNormHead()
    model.bn.eval()
    state = copy.deepcopy(model.state_dict())
    x = tokens(3).requires_grad_()
    model.blocks[0].proj.weight.grad = torch.ones(16, 16)
    cycled = CycleWrapper(model, 2, batched=True)
    cycled.verify(x)
    assert x.grad is None
    assert torch.equal(model.blocks[0].proj.weight.grad, torch.ones(16, 16))
    assert model.head.weight.grad is None
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model.bn.train()
    with pytest.raises(ValueError, match=r"mixes"):
        cycled.verify(x)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_first_batch_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    verify = CycleWrapper.verify
    monkeypatch.setattr(CycleWrapper, "verify", lambda *a, **k: seen.append(1) or verify(*a, **k))
    cycled = CycleWrapper(LoopModel(), 2, batched=True)
    for _ in range(3):
        cycled(tokens())
    assert len(seen) == 1
    CycleWrapper(LoopModel(), 2)(tokens())
    assert len(seen) == 1


def test_what_cannot_be_verified_is_said() -> None:
    model = LoopModel(lambda y, x: y - y.mean(0))
    torch._dynamo.reset()
    with pytest.warns(UserWarning, match=r"compiled before they were verified"):
        torch.compile(CycleWrapper(model, 2, batched=True), backend="aot_eager")(tokens(3))
    torch._dynamo.reset()

    cycled = CycleWrapper(LoopModel(), 2, batched=True)
    parameters = dict(cycled.named_parameters())
    with pytest.warns(UserWarning, match=r"not verified.*functional transform"):
        vmap(lambda x: functional_call(cycled, parameters, (x[None],)).tokens[1])(tokens(3))


def test_a_verified_wrapper_compiles_in_one_graph_without_a_word() -> None:
    torch._dynamo.reset()
    cycled = CycleWrapper(LoopModel(), 2, batched=True)
    cycled.verify(tokens())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fast = torch.compile(cycled, backend="aot_eager", fullgraph=True)
        x = tokens()
        torch.testing.assert_close(fast(x).predictions[1], cycled(x).predictions[1])
    torch._dynamo.reset()


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_a_model_that_checkpoints_its_last_block(reentrant: bool) -> None:
    model = OwnCheckpoints([(0, 2), (2, 4)], reentrant)
    x = tokens().requires_grad_()
    with pytest.raises(ValueError, match=r"checkpoints the last block.*Use batched=False"):
        CycleWrapper(model, 2, batched=True)(x, torch.zeros(6, 6))
    model = OwnCheckpoints([(0, 2)], False)
    assert not CycleWrapper(model, 2, batched=True).verify(x, torch.zeros(6, 6)).unchecked


def test_a_models_own_error_comes_through_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^(addmm: )?mat1 and mat2 shapes"):
        CycleWrapper(LoopModel(), 2, batched=True)(torch.randn(2, 6, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": "block"},
        {"activation_checkpointing": "cycle"},
        {"grad_cycles": 1, "input_injection": 0.5, "cycle_embedding": True, "adapter_rank": 2},
    ],
    ids=["block", "cycle", "all-others"],
)
def test_batched_cycles_compile_with_options(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    cycled = CycleWrapper(LoopModel(), 3, batched=True, **options).double()
    cycled.verify(tokens().double())
    eager = copy.deepcopy(cycled)
    fast = torch.compile(cycled, backend="aot_eager", fullgraph=True)
    x = tokens().double()
    got, expected = fast(x), eager(x)
    assert_same(got.tokens, expected.tokens)
    loss_of(got).backward()
    loss_of(expected).backward()
    assert_same_gradients(cycled, gradients(eager))
    torch._dynamo.reset()

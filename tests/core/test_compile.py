"""torch.compile, torch.export and what they must not break."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleOutput, CycleWrapper
from tests.core.models import LoopModel, sequential, tokens
from tests.core.reference import assert_same, assert_same_gradients, gradients, loss_of
from tests.core.zoo import ZOO, Case


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compilable(name: str) -> Case:
    """A case of the zoo whose plain model this version of torch can compile."""
    if name.startswith("hf-") and torch.__version__ < "2.9":
        pytest.skip("torch before 2.9 does not compile the models of transformers 5")
    return ZOO[name]


def compiled(module: nn.Module, **kwargs: Any) -> Any:
    return torch.compile(module, backend="aot_eager", fullgraph=True, **kwargs)


@pytest.mark.parametrize(
    ("name", "num_cycles"), [("vit", 3), ("eva02", 2), ("hf-vit", 2), ("hf-bert", 2)]
)
def test_training_is_one_graph(name: str, num_cycles: int) -> None:
    case = compilable(name)
    model, plain = case.build(), case.build()
    eager = CycleWrapper(plain, num_cycles)
    fast = compiled(CycleWrapper(model, num_cycles))
    args, kwargs = case.batch()
    for _ in range(2):
        got, expected = fast(*args, **kwargs), eager(*args, **kwargs)
        assert type(got) is CycleOutput
        assert_same(got.tokens, expected.tokens)
        assert_same(got.predictions, expected.predictions)
        loss_of(got).backward()
        loss_of(expected).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize(("name", "start"), [("sequential", True), ("torchvision", False)])
def test_modes_change_under_compilation(name: str, start: bool) -> None:
    """Hooks come and go with the mode; a compiled model must notice every time."""
    case = compilable(name)
    model = case.build()
    plain = copy.deepcopy(model).eval()
    cycled = CycleWrapper(model, 2)
    fast = compiled(cycled)
    eager = CycleWrapper(case.build(), 2)
    args, kwargs = case.batch()
    training = start
    for _ in range(4):
        fast.train(training)
        assert cycled.training is model.training is training
        if training:
            assert_same(fast(*args, **kwargs).tokens, eager(*args, **kwargs).tokens)
        else:
            with torch.no_grad():
                assert_same(fast(*args, **kwargs), plain(*args, **kwargs))
        training = not training


def test_eval_with_more_cycles() -> None:
    eager = CycleWrapper(sequential(2), 2).eval()
    fast = torch.compile(CycleWrapper(sequential(2), 2).eval(), backend="aot_eager")
    x = tokens()
    with torch.no_grad():
        for num_cycles in (1, 3, 1):
            assert_same(fast(x, num_cycles=num_cycles), eager(x, num_cycles=num_cycles))
        assert_same(fast(x), eager(x))


def test_compiled_in_place() -> None:
    cycled, eager = CycleWrapper(sequential(2), 2), CycleWrapper(sequential(2), 2)
    cycled.compile(backend="aot_eager", fullgraph=True)
    x = tokens()
    assert_same(cycled(x).predictions, eager(x).predictions)
    again = copy.deepcopy(cycled)
    assert_same(again(x).predictions, eager(x).predictions)


def test_an_error_of_the_model_stays_its_own() -> None:
    """Torch then runs the calls as they are, and compiles our functions one by one."""

    class Fails(LoopModel):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            raise KeyError("of the model")

    with pytest.raises(KeyError, match="of the model"):
        torch.compile(CycleWrapper(Fails(), 2), backend="eager")(tokens())


class ChangesTensors(nn.Module):
    """Changes its input, the tokens that enter its blocks, and those that leave them, in place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(in_place), nn.Linear(16, 16)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(2) if self.in_place else x * 2
        made = x + 1
        for block in self.blocks:
            made = block(made)
        return x.sum() + (made.add_(1) if self.in_place else made + 1).square()


@pytest.mark.parametrize("way", ["compiled", "inference"])
@pytest.mark.parametrize(
    "options",
    [{}, {"input_injection": 0.5}, {"cycle_norm": "input"}, {"adapter_rank": 2, "token_dim": 16}],
)
def test_changes_in_place_that_torch_does_not_count(way: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    wrappers = [
        CycleWrapper(ChangesTensors(in_place).double(), 3, **options) for in_place in (True, False)
    ]
    for parameter in wrappers[1].teacher_state_dict().values():
        nn.init.normal_(parameter)
    wrappers[0].load_state_dict(wrappers[1].state_dict())
    found, expected = wrappers
    x = tokens()
    if way == "compiled":
        got, known = compiled(found)(x.clone()), expected(x)
        loss_of(got).backward()
        loss_of(known).backward()
        assert_same_gradients(found, gradients(expected))
    else:
        with torch.inference_mode():
            got, known = (w.eval().forward_cycles(x.clone()) for w in wrappers)
    assert_same(got.tokens, known.tokens)
    assert_same(got.predictions, known.predictions)


def test_a_compiled_model_inside_of_the_wrapper() -> None:
    """The blocks alone compiled in place, as is usual for large models."""
    model, plain = sequential(2), sequential(2)
    for block in model:
        block.compile(backend="aot_eager", fullgraph=True)
    x = tokens()
    got, expected = CycleWrapper(model, 2)(x), CycleWrapper(plain, 2)(x)
    assert_same(got.tokens, expected.tokens)
    loss_of(got).backward()
    loss_of(expected).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": "block"},
        {"activation_checkpointing": "cycle"},
        {"grad_cycles": 1, "input_injection": 0.5, "cycle_embedding": True, "adapter_rank": 2},
        {"batched": False},
    ],
    ids=lambda options: next(iter(options)) + str(next(iter(options.values()))),
)
def test_options_compile(options: dict[str, Any]) -> None:
    model, plain = sequential(2), sequential(2)
    torch.manual_seed(0)
    cycled = CycleWrapper(model, 2, **options).double()
    torch.manual_seed(0)
    eager = CycleWrapper(plain, 2, **options).double()
    x = tokens()
    got, expected = compiled(cycled)(x), eager(x)
    assert_same(got.tokens, expected.tokens)
    loss_of(got).backward()
    loss_of(expected).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "skip_fwd_side_effects_in_bwd_under_checkpoint"),
    reason="this PyTorch cannot compile hooks inside of a model's own checkpoints",
)
def test_a_model_that_checkpoints_its_blocks() -> None:
    case = ZOO["vit"]
    model, plain = case.build(), case.build()
    cycled = CycleWrapper(model, 2)
    cycled.set_grad_checkpointing(True)
    args, _ = case.batch()
    with torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True):
        loss_of(compiled(cycled)(*args)).backward()
    loss_of(CycleWrapper(plain, 2)(*args)).backward()
    assert_same_gradients(model, gradients(plain))


def test_random_cycles_under_compilation() -> None:
    cycled = CycleWrapper(sequential(1), 2, ":", min_cycles=1)
    fast = torch.compile(cycled, backend="aot_eager")
    counts = [len(fast(tokens()).tokens) for _ in range(12)]
    assert set(counts) == {1, 2}


def test_the_loss_compiles_along() -> None:
    case = ZOO["vit"]
    model, plain = case.build(), case.build()
    criterion = CycleDistillLoss(
        nn.CrossEntropyLoss(),
        {"class": 0.3, "patch": 0.1},
        {"class": slice(0, 1), "patch": slice(1, None)},
        prediction_weight=0.2,
    )
    args, _ = case.batch()
    target = torch.tensor([0, 3])

    def step(module: nn.Module, x: Tensor) -> Tensor:
        return criterion(module(x), target).total

    fast = torch.compile(step, backend="aot_eager", fullgraph=True)
    fast(CycleWrapper(model, 2), *args).backward()
    step(CycleWrapper(plain, 2), *args).backward()
    assert_same_gradients(model, gradients(plain))


def test_other_batch_sizes_under_compilation() -> None:
    fast = compiled(CycleWrapper(sequential(1), 2, ":"), dynamic=True)
    eager = CycleWrapper(sequential(1), 2, ":")
    for size in (2, 5):
        x = tokens(size)
        assert_same(fast(x).predictions, eager(x).predictions)


@pytest.mark.parametrize(("name", "kind"), [("vit", "block"), ("hf-vit", None)])
def test_the_unwrapped_model_is_exported(name: str, kind: str | None) -> None:
    case = ZOO[name]
    cycled = CycleWrapper(case.build(), 2, activation_checkpointing=kind)
    args, kwargs = case.batch()
    loss_of(cycled(*args, **kwargs)).backward()
    expected = cycled.eval()(*args, **kwargs)
    plain = cycled.unwrap().eval()
    program = torch.export.export(plain, args, kwargs, strict=False)
    assert_same(program.module()(*args, **kwargs), expected, tolerance=1e-12)
    assert {name for name in program.state_dict} >= set(dict(plain.named_parameters()))


def test_the_wrapper_in_eval_mode_is_exported() -> None:
    case = ZOO["vit"]
    cycled = CycleWrapper(case.build(), 2).eval()
    args, _ = case.batch()
    program = torch.export.export(cycled, args, strict=False)
    assert_same(program.module()(*args), cycled(*args), tolerance=1e-12)

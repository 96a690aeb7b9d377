"""The wrapper looks like the model: its attributes, names and signature, for others' tools too."""

from __future__ import annotations

import copy
import inspect
import sys
import threading

import pytest
import torch
from torch import nn
from torch.func import functional_call

from cycledistill import CycleWrapper
from tests.core.reference import assert_same
from tests.core.wrapped import through_file
from tests.core.zoo import ZOO

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY


def test_attributes_and_submodules_are_the_models() -> None:
    model = ZOO["vit"].build()
    cycled = CycleWrapper(model, 2)
    assert cycled.blocks is model.blocks
    assert cycled.num_classes == model.num_classes
    assert cycled.no_weight_decay() == model.no_weight_decay()
    assert cycled.get_submodule("blocks.1.attn.qkv") is model.blocks[1].attn.qkv
    assert cycled.get_parameter("blocks.1.attn.qkv.weight") is model.blocks[1].attn.qkv.weight
    assert not hasattr(cycled, "no_such_thing")
    with pytest.raises(AttributeError, match=r"no_such_thing"):
        cycled.no_such_thing  # noqa: B018
    names = [name for name, _ in cycled.named_modules()]
    assert "blocks.0.attn" in names and not any(name.startswith("plain") for name in names)
    assert "num_cycles=2" in repr(cycled) and "'blocks'" in repr(cycled)


def test_setting_an_attribute_reaches_the_model() -> None:
    case = ZOO["vit"]
    model = case.build()
    cycled = CycleWrapper(model, 2, cycle_embedding=True).double()
    cycled.head = nn.Linear(16, 7, dtype=torch.float64)
    assert model.head is cycled.head
    args, _ = case.batch()
    assert cycled(*args).predictions[1].shape == (2, 7)
    cycled.pos_embed = nn.Parameter(torch.zeros_like(model.pos_embed))
    assert not model.pos_embed.any()
    ours = {"cycle_teacher.embedding"}
    assert set(cycled.state_dict()) == set(model.state_dict()) | ours
    cycled.projection = nn.Linear(16, 2)
    assert model.projection is cycled.projection
    assert "projection.weight" in cycled.state_dict()
    assert "projection.weight" in dict(cycled.named_parameters())
    cycled.num_cycles = 3
    assert len(cycled(*args).tokens) == 3
    cycled.of_my_own = 4
    assert not hasattr(model, "of_my_own")
    del cycled.of_my_own
    del cycled.pos_embed
    assert not hasattr(model, "pos_embed")


@pytest.mark.parametrize("name", ["num_cycles", "batched", "min_cycles", "cycles_run"])
def test_attributes_of_the_wrapper_are_its_own(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    setattr(model, name, "the model's")
    cycled = copy.deepcopy(CycleWrapper(model, 2))
    cycled.num_cycles = 3
    assert len(cycled(torch.randn(2, 5, 4)).tokens) == cycled.cycles_run == 3
    assert getattr(cycled, name) != "the model's"
    assert getattr(model, name) == getattr(cycled.unwrap(), name) == "the model's"


def test_modes_that_are_assigned_reach_the_model() -> None:
    """Some trainers do not call train(), but put each module that they find back by itself."""
    model = ZOO["vit"].build()
    parent = nn.Sequential(CycleWrapper(model, 2))
    modes = {module: module.training for module in parent.modules()}
    for mode in (False, True):
        parent.eval() if mode else parent.train()
        for module in modes:
            module.training = mode
        assert {module.training for module in model.modules()} == {mode}
        assert len(model.blocks[0]._forward_hooks) == int(mode)


def test_a_model_with_a_child_called_model() -> None:
    """As most causal language models have one."""

    class Outer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.model = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) * 2

    case = ZOO["vit"]
    inner = case.build()
    outer = Outer(inner)
    cycled = CycleWrapper(outer, 2)
    assert cycled.model is inner and cycled.plain is outer
    assert cycled.get_parameter("model.head.weight") is inner.head.weight
    assert cycled.get_submodule("model.blocks.1") is inner.blocks[1]
    names = [name for name, _ in outer.named_parameters()]
    assert [name for name, _ in cycled.named_parameters()] == names == list(cycled.state_dict())
    assert [name for name, _ in cycled.named_children()] == ["model"]
    args, _ = case.batch()
    cycled.eval()
    zeros = {"model.head.weight": torch.zeros_like(inner.head.weight)}
    assert_same(functional_call(cycled, zeros, args)[0], 2 * inner.head.bias, tolerance=0)


def test_the_signature_is_the_plain_models() -> None:
    def signature(module: nn.Module) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(module.forward).parameters)

    for name in ("vit", "hf-bert", "encoder", "loop"):
        model = ZOO[name].build()
        cycled = CycleWrapper(model, 2)
        got, plain = signature(cycled), signature(model)
        for own in ("num_cycles", "exit_tolerance", "exit_confidence"):
            assert got.pop(own).kind is KEYWORD_ONLY
        assert got == plain
        for again in (copy.deepcopy(cycled), through_file(cycled), copy.copy(cycled)):
            assert inspect.signature(again.forward) == inspect.signature(cycled.forward)
            assert again.forward.__self__ is again


def test_moving_and_casting_the_wrapper() -> None:
    case = ZOO["vit"]
    cycled = CycleWrapper(case.build(), 2, cycle_embedding=True)
    args, _ = case.batch()
    cycled.to(torch.float32)
    out = cycled(args[0].float())
    assert {tensor.dtype for tensor in (*out.tokens, *out.predictions)} == {torch.float32}
    assert {parameter.dtype for parameter in cycled.parameters()} == {torch.float32}
    cycled.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in cycled.parameters())


def test_replicas_of_data_parallel() -> None:
    """`torch.nn.DataParallel` copies every module and swaps the children; it needs GPUs."""
    case = ZOO["vit"]
    cycled = CycleWrapper(case.build(), 2, cycle_embedding=True).double()
    args, _ = case.batch()
    expected = cycled(*args)
    modules = list(cycled.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}  # type: ignore[operator]
    for module, replica in copies.items():
        for key, child in module._modules.items():
            setattr(replica, key, copies[child])  # type: ignore[index]
        for key, parameter in module._parameters.items():
            setattr(replica, key, None if parameter is None else parameter * 1.0)
    got = copies[cycled](*args)
    assert_same(got, expected, tolerance=0)
    assert got.tokens[0].grad_fn is not None


def test_children_that_a_tool_replaces_beside_the_model_are_an_error() -> None:
    cycled = CycleWrapper(ZOO["vit"].build(), 2).double()
    args, _ = ZOO["vit"].batch()
    cycled._modules["head"] = nn.Identity()  # as torch.ao.quantization does
    for use in (cycled.eval(), cycled.forward_cycles, lambda *_: cycled.unwrap(), cycled.train()):
        with pytest.raises(RuntimeError, match=r"replaced head in the _modules of the CycleWrapp"):
            use(*args)
    cycled.plain.head = cycled._modules.pop("head")
    cycled(*args)


def test_compiled_regions_of_accelerate() -> None:
    from accelerate.utils import compile_regions

    case = ZOO["loop"]
    cycled = CycleWrapper(case.build(), 2, cycle_embedding=True).double()
    args, kwargs = case.batch()
    expected = cycled(*args, **kwargs)
    regions = compile_regions(cycled, backend="eager")
    assert type(regions.blocks[0]).__name__ == "OptimizedModule"
    assert type(cycled.blocks[0]).__name__ == "Block"
    assert_same(regions(*args, **kwargs), expected, tolerance=1e-12)
    assert_same(cycled(*args, **kwargs), expected, tolerance=0)


def test_threads_do_not_meet() -> None:
    """Plain calls in one thread, cycles in another, on one wrapper in eval mode."""
    case = ZOO["sequential"]
    cycled = CycleWrapper(case.build(), 2).eval()
    inputs = [case.batch(seed=seed)[0][0] for seed in range(4)]
    counts = (1, 3, 2, 1)
    with torch.no_grad():
        expected = [cycled(x, num_cycles=n) for x, n in zip(inputs, counts, strict=True)]
    wrong: list[str] = []

    def use(index: int) -> None:
        with torch.no_grad():
            for _ in range(50):
                try:
                    got = cycled(inputs[index], num_cycles=counts[index])
                    if not torch.equal(got, expected[index]):
                        wrong.append(f"thread {index}")
                except Exception as error:
                    wrong.append(repr(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=use, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert not cycled.plain[0]._forward_hooks

"""State, copies, pickles, EMA, and what is left after unwrapping."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.reference import assert_same, call, task_loss
from tests.core.zoo import ZOO, Case

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
SOME = ["vit", "deit-distilled", "beit-shared-bias", "hf-bert", "encoder", "sequential"]
some = pytest.mark.parametrize("case", [ZOO[name] for name in SOME], ids=SOME)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "block": {"activation_checkpointing": "block"},
    "teacher": {"cycle_embedding": True, "adapter_rank": 2, "token_dim": 16},
}
options = pytest.mark.parametrize("kwargs", OPTIONS.values(), ids=OPTIONS.keys())


def train_step(cycled: CycleWrapper, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    CycleDistillLoss(task_loss)(cycled(*args, **kwargs)).total.backward()
    torch.optim.SGD(cycled.parameters(), lr=0.05).step()
    cycled.zero_grad()


def through_file(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


copiers = pytest.mark.parametrize("copier", [copy.deepcopy, through_file], ids=["deepcopy", "save"])


def skip_unpicklable(model: nn.Module, copier: Callable[[Any], Any]) -> None:
    if copier is not copy.deepcopy:
        try:
            pickle.dumps(model)
        except (AttributeError, pickle.PicklingError) as error:
            pytest.skip(f"the plain model cannot be pickled: {error}")


@some
@options
@copiers
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_copies_of_the_wrapper_go_on_cycling(
    case: Case, kwargs: dict[str, Any], copier: Callable[[Any], Any], training: bool
) -> None:
    model = case.build()
    cycled = CycleWrapper(model, 2, **kwargs)
    batch, named = case.batch()
    train_step(cycled, batch, named)
    cycled.train(training)
    skip_unpicklable(copy.deepcopy(model), copier)
    again = copier(cycled)
    assert type(again) is CycleWrapper
    assert again.training is training
    again.train()
    cycled.train()
    assert_same(again(*batch, **named), cycled(*batch, **named), tolerance=0)
    before = [parameter.clone() for parameter in cycled.parameters()]
    train_step(again, batch, named)
    assert all(map(torch.equal, before, cycled.parameters())), "the copy shares no storage"
    assert not all(map(torch.equal, before, again.parameters()))
    expected = call(model.eval(), batch, named)
    again.load_state_dict(cycled.state_dict())
    assert_same(again.eval()(*batch, **named), expected, tolerance=0)
    plain = again.unwrap()
    assert plain is not model
    assert_nothing_is_left(plain)


@some
@options
@copiers
def test_a_copy_of_the_inner_model_alone_is_plain(
    case: Case, kwargs: dict[str, Any], copier: Callable[[Any], Any]
) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    skip_unpicklable(plain, copier)
    cycled = CycleWrapper(model, 2, **kwargs)
    args, named = case.batch()
    cycled(*args, **named)
    again = copier(cycled.plain)
    assert_same(call(again, args, named), call(plain, args, named), tolerance=0)
    with torch.no_grad():  # where nn.TransformerEncoder has a fast path, but not with hooks
        expected = call(plain.eval(), args, named)
        assert_same(call(again.eval(), args, named), expected, tolerance=0)
        unused = copier(cycled.plain).eval()
        assert_same(call(unused, args, named), expected, tolerance=1e-12)
        assert_same(call(unused, args, named), expected, tolerance=0)
    del cycled, model
    gc.collect()
    wrapped = CycleWrapper(again.train(), 3)
    assert len(wrapped(*args, **named).tokens) == 3
    assert_nothing_is_left(wrapped.unwrap())


def assert_nothing_is_left(model: nn.Module) -> None:
    for name, module in model.named_modules():
        assert not type(module).__module__.startswith("cycledistill"), name
        assert "forward" not in vars(module), name
        for hooks in (key for key in vars(module) if "hooks" in key):
            held = vars(module)[hooks] or {}
            of_ours = [
                value
                for value in (held.values() if isinstance(held, dict) else ())
                if type(value).__module__.startswith("cycledistill")
                or getattr(value, "__module__", "").startswith("cycledistill")
            ]
            assert not of_ours, (name, hooks)
            assert not (isinstance(held, dict) and hooks.endswith("with_kwargs") and held), name


@some
@options
def test_unwrap_leaves_the_plain_object(case: Case, kwargs: dict[str, Any]) -> None:
    model = case.build()
    args, named = case.batch()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2, **kwargs)
    cycled(*args, **named)
    cycled.eval()
    cycled(*args, num_cycles=3, **named)
    cycled.train()
    assert cycled.unwrap() is model
    assert_nothing_is_left(model)
    assert_same(call(model, args, named), call(plain, args, named), tolerance=0)
    again = CycleWrapper(model, 2)
    assert len(again(*args, **named).tokens) == 2


def test_a_forward_on_the_instance_survives() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    own = model[1].forward
    calls = []

    def logged(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return own(x)

    model[1].forward = logged  # type: ignore[method-assign]
    cycled = CycleWrapper(model, 2, activation_checkpointing="block")
    cycled(torch.randn(2, 3, 4, dtype=torch.float64))
    assert len(calls) == 2
    cycled.unwrap()
    assert model[1].forward is logged
    assert "forward" not in vars(model[0])


@some
def test_state_loads_strictly_both_ways(case: Case) -> None:
    plain = case.build(seed=3)
    cycled = CycleWrapper(case.build(), 2)
    args, named = case.batch()
    train_step(cycled, args, named)
    assert set(cycled.state_dict()) == set(plain.state_dict())
    keys = plain.load_state_dict(cycled.state_dict(), strict=True)
    assert not keys.missing_keys and not keys.unexpected_keys
    cycled.eval()
    assert_same(call(plain.eval(), args, named), cycled(*args, **named), tolerance=0)
    other = case.build(seed=4)
    keys = cycled.load_state_dict(other.state_dict(), strict=True)
    assert not keys.missing_keys and not keys.unexpected_keys
    assert_same(call(other.eval(), args, named), cycled(*args, **named), tolerance=0)
    with pytest.raises(RuntimeError, match=r"Unexpected key"):
        cycled.load_state_dict({**other.state_dict(), "surplus": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key"):
        cycled.load_state_dict({})
    state = other.state_dict()
    cycled.load_state_dict(state, assign=True)
    assert all(map(torch.equal, state.values(), cycled.state_dict().values()))


@some
def test_state_holds_the_teacher_only_parameters(case: Case) -> None:
    """So that foreign checkpoints and averages carry them."""
    plain = case.build(seed=3)
    cycled = CycleWrapper(case.build(), 2, **OPTIONS["teacher"]).double()
    ours = {f"cycle_teacher.{name}" for name in ("embedding", "down", "up")}
    assert set(cycled.state_dict()) == set(plain.state_dict()) | ours
    args, named = case.batch()
    for _ in range(2):
        train_step(cycled, args, named)
    other = CycleWrapper(case.build(seed=4), 2, **OPTIONS["teacher"]).double()
    other.load_state_dict(cycled.state_dict(), strict=True)
    assert_same(other(*args, **named), cycled(*args, **named), tolerance=0)
    first = next(iter(plain.state_dict()))
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"cycle_teacher.embedding"') as error:
        cycled.load_state_dict(plain.state_dict())
    assert "plain." not in str(error.value)
    keys = cycled.load_state_dict({first: plain.state_dict()[first], "x.y": 1}, strict=False)
    assert set(keys.missing_keys) == set(cycled.state_dict()) - {first}
    assert keys.unexpected_keys == ["x.y"]
    unwrapped = cycled.unwrap()
    assert set(unwrapped.state_dict()) == set(plain.state_dict())


def test_teacher_only_parameters_can_be_reset() -> None:
    """As after `to_empty` of a model that was made on the meta device."""
    case = ZOO["vit"]
    with torch.device("meta"):
        cycled = CycleWrapper(case.make(), 2, cycle_embedding=True, adapter_rank=2)
    cycled.to_empty(device="cpu")
    teacher = cycled.get_submodule("cycle_teacher")
    for parameter in teacher.parameters():
        parameter.data.fill_(float("nan"))
    teacher.reset_parameters()  # type: ignore[operator]
    state = cycled.teacher_state_dict()
    assert not state["embedding"].any() and not state["up"].any()
    assert 0.1 < float(state["down"].std()) < 0.5


class Parent(nn.Module):
    """Has the model as a part of itself, wrapped or not."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.scale = nn.Parameter(torch.ones(1))
        self.many = nn.ModuleList([nn.Linear(2, 2)])


@pytest.mark.parametrize("kwargs", [{}, OPTIONS["teacher"]], ids=["plain", "teacher"])
def test_state_inside_of_a_parent_module(kwargs: dict[str, Any]) -> None:
    case = ZOO["vit"]
    plain = Parent(case.build(seed=3))
    parent = Parent(CycleWrapper(case.build(), 2, **kwargs))
    other = Parent(CycleWrapper(case.build(seed=5), 2, **kwargs))
    ours = [key for key in parent.state_dict() if "cycle_teacher" in key]
    assert len(ours) == (3 if kwargs else 0)
    assert set(parent.state_dict()) == {*plain.state_dict(), *ours}
    for tensor in parent.part.teacher_state_dict().values():  # type: ignore[union-attr, operator]
        tensor.fill_(0.25)
    state = {key: value.clone() for key, value in parent.state_dict().items()}
    keys = other.load_state_dict(state, strict=True)
    assert not keys.missing_keys and not keys.unexpected_keys
    assert list(state) == list(parent.state_dict()), "the caller's dict is left alone"
    assert all(map(torch.equal, parent.state_dict().values(), other.state_dict().values()))
    assert parent.part.state_dict(prefix="a.").keys() == {
        f"a.{key}" for key in parent.part.state_dict()
    }
    broken = {**state, "part.surplus": torch.zeros(1)}
    del broken["part.pos_embed"]
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*\"part.pos_embed.*\"part.surplus"):
        parent.load_state_dict(broken, strict=True)
    names = [name for name, _ in parent.named_parameters() if "cycle_teacher" not in name]
    assert names == [name for name, _ in plain.named_parameters()]


def test_state_behind_data_parallel(tmp_path: Any) -> None:
    case = ZOO["vit"]
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(CycleWrapper(case.build(), 2))
        plain = DistributedDataParallel(case.build(seed=3))
        assert list(parallel.state_dict()) == list(plain.state_dict())
        parallel.load_state_dict(plain.state_dict(), strict=True)
        assert all(map(torch.equal, parallel.state_dict().values(), plain.state_dict().values()))
    finally:
        torch.distributed.destroy_process_group()


def test_distributed_checkpoint_state_has_plain_names() -> None:
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    case = ZOO["vit"]
    cycled, plain = CycleWrapper(case.build(), 2), case.build(seed=3)
    state = get_model_state_dict(cycled)
    assert set(state) == set(plain.state_dict())
    set_model_state_dict(cycled, get_model_state_dict(plain))
    assert all(map(torch.equal, cycled.state_dict().values(), plain.state_dict().values()))


def test_distributed_checkpoints_hold_the_optimiser_of_what_the_model_itself_holds() -> None:
    """Parameters of no child, such as a class token, are found by those who go child by child."""
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    case = ZOO["vit"]
    cycled = CycleWrapper(case.build(), 2)
    direct = dict(cycled.plain.named_parameters(recurse=False))
    assert direct and dict(cycled.named_parameters(recurse=False)) == direct
    assert len(dict(cycled.named_parameters())) == len(dict(cycled.plain.named_parameters()))
    optimizer = torch.optim.Adam(cycled.parameters())
    args, named = case.batch()
    cycled(*args, **named).predictions[-1].sum().backward()
    optimizer.step()
    state = get_optimizer_state_dict(cycled, optimizer)
    assert set(state["state"]) == set(dict(cycled.plain.named_parameters()))
    set_optimizer_state_dict(cycled, optimizer, state)
    assert all("exp_avg" in optimizer.state[parameter] for parameter in direct.values())


@some
@options
def test_timm_ema_after_a_step(case: Case, kwargs: dict[str, Any]) -> None:
    model = case.build()
    start = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2, **kwargs)
    ema = ModelEmaV3(cycled, decay=0.75)
    args, named = case.batch()
    train_step(cycled, args, named)
    ema.update(cycled)
    train_step(cycled, args, named)
    expected = copy.deepcopy(start)
    with torch.no_grad():
        for mean, old, new in zip(
            expected.state_dict().values(),
            start.state_dict().values(),
            ema.module.plain.state_dict().values(),
            strict=True,
        ):
            mean.copy_(new)
            assert not mean.is_floating_point() or not torch.equal(old, new) or old.numel() < 100
    cycled.eval()
    got = ema.module(*args, **named)
    assert_same(got, call(expected.eval(), args, named), tolerance=0)
    first = next(iter(start.parameters()))
    averaged = next(iter(ema.module.parameters()))
    assert not torch.equal(first, averaged)
    assert len(ema.module.train()(*args, **named).tokens) == 2


@some
def test_torch_average_after_a_step(case: Case) -> None:
    cycled = CycleWrapper(case.build(), 2)
    averaged = AveragedModel(cycled, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    args, named = case.batch()
    averaged.update_parameters(cycled)
    first = [parameter.detach().clone() for parameter in cycled.parameters()]
    train_step(cycled, args, named)
    averaged.update_parameters(cycled)
    second = [parameter.detach().clone() for parameter in cycled.parameters()]
    for one, other, mean in zip(first, second, averaged.parameters(), strict=True):
        assert float((mean - (one + other) / 2).detach().abs().max()) < 1e-12
    plain = case.build()
    plain.load_state_dict(averaged.module.state_dict())
    got = averaged.eval()(*args, **named)
    assert_same(got, call(plain.eval(), args, named), tolerance=0)
    assert len(averaged.train()(*args, **named).tokens) == 2


def test_a_dropped_wrapper_is_no_obstacle() -> None:
    case = ZOO["vit"]
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    args, _ = case.batch()
    cycled(*args)
    del cycled
    gc.collect()
    assert_same(model(*args), plain(*args), tolerance=0)
    assert len(CycleWrapper(model, 2)(*args).tokens) == 2


def test_nothing_of_a_pass_is_kept() -> None:
    """Tokens and graphs of a step are freed with its output."""
    import weakref

    case = ZOO["vit"]
    cycled = CycleWrapper(case.build(), 2)
    args, _ = case.batch()
    out = cycled(*args)
    gone = [weakref.ref(tensor) for tensor in (*out.tokens, *out.predictions)]
    gc.disable()
    try:
        del out
        assert all(reference() is None for reference in gone)
    finally:
        gc.enable()


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
    cycled.num_cycles = 3
    assert len(cycled(*args).tokens) == 3
    cycled.of_my_own = 4
    assert not hasattr(model, "of_my_own")
    del cycled.of_my_own
    del cycled.pos_embed
    assert not hasattr(model, "pos_embed")


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
        assert got.pop("num_cycles").kind is got.pop("exit_tolerance").kind is KEYWORD_ONLY
        assert got == plain
        for again in (copy.deepcopy(cycled), through_file(cycled), copy.copy(cycled)):
            assert inspect.signature(again.forward) == inspect.signature(cycled.forward)
            assert again.forward.__self__ is again


def test_a_shallow_copy_goes_on_and_leaves_the_first_alone() -> None:
    case = ZOO["vit"]
    cycled = CycleWrapper(case.build(), 2)
    args, _ = case.batch()
    expected = cycled(*args)
    again = copy.copy(cycled)
    assert again.plain is cycled.plain
    assert_same(again(*args), expected, tolerance=0)
    del again
    gc.collect()
    assert_same(cycled(*args), expected, tolerance=0)


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


def test_a_sharding_plan_goes_by_plain_names(tmp_path: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    case = ZOO["loop"]
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        cycled = CycleWrapper(case.build(), 2)
        mesh = init_device_mesh("cpu", (1,))
        parallelize_module(cycled, mesh, {"blocks.*.mlp.0": ColwiseParallel()})
        assert all(isinstance(block.mlp[0].weight, DTensor) for block in cycled.blocks)
        assert not isinstance(cycled.head.weight, DTensor)
    finally:
        torch.distributed.destroy_process_group()


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


def test_functional_call_takes_plain_names() -> None:
    case = ZOO["vit"]
    cycled, other = CycleWrapper(case.build(), 2), case.build(seed=3)
    args, _ = case.batch()
    before = cycled(*args)
    got = functional_call(cycled, dict(other.named_parameters()), args)
    assert_same(cycled(*args), before, tolerance=0)
    cycled.load_state_dict(other.state_dict())
    assert_same(got, cycled(*args), tolerance=0)

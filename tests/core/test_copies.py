"""State, copies, pickles, EMA, and what is left after unwrapping."""

from __future__ import annotations

import copy
import gc
import io
import pickle
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
    again = copier(cycled.model)
    assert_same(call(again, args, named), call(plain, args, named), tolerance=0)
    with torch.no_grad():  # where nn.TransformerEncoder has a fast path, but not with hooks
        expected = call(plain.eval(), args, named)
        assert_same(call(again.eval(), args, named), expected, tolerance=0)
        unused = copier(cycled.model).eval()
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
    cycled = CycleWrapper(case.build(), 2, cycle_embedding=True, token_dim=16)
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
    assert list(parent.state_dict()) == list(plain.state_dict())
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    keys = parent.load_state_dict(state, strict=True)
    assert not keys.missing_keys and not keys.unexpected_keys
    assert list(state) == list(plain.state_dict()), "the caller's dict is left alone"
    assert all(map(torch.equal, parent.state_dict().values(), plain.state_dict().values()))
    assert parent.part.state_dict(prefix="a.").keys() == {  # type: ignore[union-attr]
        f"a.{key}" for key in plain.part.state_dict()
    }
    broken = {**state, "part.surplus": torch.zeros(1)}
    del broken["part.pos_embed"]
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*pos_embed.*Unexpected.*surplus"):
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
            ema.module.state_dict().values(),
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
    assert "blocks.0.attn" in names and not any(name.startswith("model") for name in names)
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
    assert set(cycled.state_dict()) == set(model.state_dict())
    cycled.num_cycles = 3
    assert len(cycled(*args).tokens) == 3
    cycled.of_my_own = 4
    assert not hasattr(model, "of_my_own")
    del cycled.of_my_own
    del cycled.pos_embed
    assert not hasattr(model, "pos_embed")


def test_functional_call_takes_plain_names() -> None:
    case = ZOO["vit"]
    cycled, other = CycleWrapper(case.build(), 2), case.build(seed=3)
    args, _ = case.batch()
    before = cycled(*args)
    got = functional_call(cycled, dict(other.named_parameters()), args)
    assert_same(cycled(*args), before, tolerance=0)
    cycled.load_state_dict(other.state_dict())
    assert_same(got, cycled(*args), tolerance=0)

"""What the wrapper's state holds, and that it has the plain model's names everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from cycledistill import CycleWrapper
from tests.core.reference import assert_same, call
from tests.core.wrapped import OPTIONS, some, train_step
from tests.core.zoo import ZOO, Case


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


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


@pytest.mark.parametrize("options", [{}, {"cycle_embedding": True, "token_dim": 4}])
def test_hooks_of_the_state_that_the_wrapper_got(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    cycled, seen = CycleWrapper(model, 2, ":", **options), []
    cycled.register_state_dict_pre_hook(lambda *_: seen.append("before"))
    cycled.register_state_dict_post_hook(lambda *_: seen.append("after"))
    cycled.register_load_state_dict_pre_hook(lambda *_: seen.append("load"))
    cycled.load_state_dict(cycled.state_dict())
    assert seen == ["before", "after", "load"]
    parent = nn.ModuleDict({"part": cycled})
    parent.load_state_dict(parent.state_dict())
    assert seen == 2 * ["before", "after", "load"]


@pytest.mark.parametrize("options", [{}, {"cycle_embedding": True, "token_dim": 4}])
@pytest.mark.parametrize("registered_on", ["plain", "wrapper"])
def test_hooks_after_loading_see_and_change_the_models_names(
    options: dict[str, Any], registered_on: str
) -> None:
    """As one that allows checkpoints without a parameter, under strict loading."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    cycled = CycleWrapper(model, 2, ":", **options)
    module, seen = {"plain": model, "wrapper": cycled}[registered_on], []

    def allow(loaded: nn.Module, keys: Any) -> None:
        seen.append((loaded, [*keys.missing_keys], [*keys.unexpected_keys]))
        keys.missing_keys.remove("1.bias")

    handle = module.register_load_state_dict_post_hook(allow)
    state = {name: torch.full_like(value, 0.5) for name, value in cycled.state_dict().items()}
    del state["1.bias"]
    keys = cycled.load_state_dict(state)
    assert not keys.missing_keys
    assert seen == [(module, ["1.bias"], [])]
    assert all(torch.equal(cycled.state_dict()[name], value) for name, value in state.items())
    with pytest.raises(RuntimeError, match=r"for Sequential:\n\tUnexpected.*\"plain.x\""):
        cycled.load_state_dict({**state, "plain.x": torch.zeros(1)})
    handle.remove()
    with pytest.raises(RuntimeError, match=r"Missing.*1.bias"):
        cycled.load_state_dict(state)
    assert len(seen) == 2
    assert list(model.named_children()) == [("0", model[0]), ("1", model[1])]


def test_state_behind_data_parallel(one_process: None) -> None:
    case = ZOO["vit"]
    parallel = DistributedDataParallel(CycleWrapper(case.build(), 2))
    plain = DistributedDataParallel(case.build(seed=3))
    assert list(parallel.state_dict()) == list(plain.state_dict())
    parallel.load_state_dict(plain.state_dict(), strict=True)
    assert all(map(torch.equal, parallel.state_dict().values(), plain.state_dict().values()))


def test_distributed_checkpoint_state_has_plain_names() -> None:
    case = ZOO["vit"]
    cycled, plain = CycleWrapper(case.build(), 2), case.build(seed=3)
    state = get_model_state_dict(cycled)
    assert set(state) == set(plain.state_dict())
    set_model_state_dict(cycled, get_model_state_dict(plain))
    assert all(map(torch.equal, cycled.state_dict().values(), plain.state_dict().values()))


def test_distributed_checkpoints_hold_the_optimiser_of_what_the_model_itself_holds() -> None:
    """Parameters of no child, such as a class token, are found by those who go child by child."""
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


@pytest.mark.skipif(
    torch.__version__ < "2.7", reason="torch 2.6 misreads plans of nested names, of any model"
)
def test_a_sharding_plan_goes_by_plain_names(one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    cycled = CycleWrapper(ZOO["loop"].build(), 2)
    mesh = init_device_mesh("cpu", (1,))
    parallelize_module(cycled, mesh, {"blocks.*.mlp.0": ColwiseParallel()})
    assert all(isinstance(block.mlp[0].weight, DTensor) for block in cycled.blocks)
    assert not isinstance(cycled.head.weight, DTensor)


def test_functional_call_takes_plain_names() -> None:
    case = ZOO["vit"]
    cycled, other = CycleWrapper(case.build(), 2), case.build(seed=3)
    args, _ = case.batch()
    before = cycled(*args)
    got = functional_call(cycled, dict(other.named_parameters()), args)
    assert_same(cycled(*args), before, tolerance=0)
    cycled.load_state_dict(other.state_dict())
    assert_same(got, cycled(*args), tolerance=0)

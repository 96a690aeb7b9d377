"""Copies, pickles and averages of the wrapper, and what is left after unwrapping."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cycledistill import CycleWrapper
from tests.core.models import BatchNormHead
from tests.core.reference import assert_same, call
from tests.core.wrapped import options, some, through_file, train_step
from tests.core.zoo import ZOO, Case

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


def test_a_dropped_wrapper_leaves_no_hooks_to_the_next() -> None:
    model = BatchNormHead()
    cycled = CycleWrapper(model, 2)
    del cycled
    gc.collect()
    assert CycleWrapper(model, 2).unwrap() is model
    assert_nothing_is_left(model)


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

"""Every model of the zoo, cycled, against the same model fed by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from cycledistill import CycleDistillLoss, CycleOutput, CycleWrapper
from tests.core.reference import (
    assert_same,
    assert_same_gradients,
    call,
    equation_4,
    gradients,
    hand_fed,
    leaves,
    task_loss,
)
from tests.core.zoo import ZOO, Case

every = pytest.mark.parametrize("case", ZOO.values(), ids=ZOO.keys())


def wrap(
    case: Case, model: torch.nn.Module, num_cycles: int = 2, **options: object
) -> CycleWrapper:
    return CycleWrapper(model, num_cycles, case.blocks, **{**case.options, **options})


@every
def test_eval_is_the_plain_model_to_the_last_bit(case: Case) -> None:
    model = case.build()
    plain = copy.deepcopy(model).eval()
    cycled = wrap(case, model)
    for size in (1, 3):
        args, kwargs = case.batch(size)
        if size == 3:
            cycled.train()(*args, **kwargs)  # must leave no trace, batch norms' counts aside
            plain.load_state_dict(cycled.state_dict())
        cycled.eval()
        for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with context():
                expected = call(plain, args, kwargs)
                assert_same(cycled(*args, **kwargs), expected, tolerance=0)
                assert_same(cycled(*args, num_cycles=1, **kwargs), expected, tolerance=0)
    assert cycled.unwrap() is model


@every
def test_cycles_are_those_fed_by_hand(case: Case) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = wrap(case, model, num_cycles=3)
    assert case.path in (cycled.stack_path, None)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    fed = hand_fed(plain, cycled.stack_path, 3, args, kwargs)
    assert isinstance(out, CycleOutput)
    assert cycled.cycles_run == 3
    assert_same(out.tokens, tuple(fed.tokens))
    assert_same(out.predictions, tuple(fed.predictions))
    for tokens in (fed.tokens[:2], fed.tokens[1:]):
        assert float((tokens[0] - tokens[1]).detach().abs().max()) > 1e-3, "cycles must differ"


@every
def test_eval_with_more_cycles_is_the_last_one_fed_by_hand(case: Case) -> None:
    model = case.build().eval()
    plain = copy.deepcopy(model)
    cycled = wrap(case, model)
    args, kwargs = case.batch()
    with torch.no_grad():
        fed = hand_fed(plain, cycled.stack_path, 3, args, kwargs)
        assert_same(cycled(*args, num_cycles=3, **kwargs), fed.predictions[2])
        out = cycled.forward_cycles(*args, num_cycles=3, **kwargs)
        assert_same(out.predictions, tuple(fed.predictions))
        assert_same(out.tokens, tuple(fed.tokens))
        assert_same(cycled(*args, **kwargs), call(plain, args, kwargs), tolerance=0)


@every
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "both-ways"])
def test_gradient_of_equation_4_and_a_step(case: Case, detach: bool) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = wrap(case, model)
    args, kwargs = case.batch()
    criterion = CycleDistillLoss(task_loss, token_weight=0.7, detach_teacher=detach)
    losses = criterion(cycled(*args, **kwargs))
    losses.total.backward()
    fed = hand_fed(plain, cycled.stack_path, 2, args, kwargs)
    by_hand = equation_4(fed, detach=detach)
    by_hand.backward()
    assert abs(float(losses.total.detach()) - float(by_hand.detach())) < 1e-10
    expected = gradients(plain)
    assert any(value is not None and float(value.abs().max()) > 1e-6 for value in expected.values())
    assert_same_gradients(model, expected)

    for one in (model, plain):
        torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01).step()
    for (name, got), wanted in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert float((got - wanted).detach().abs().max()) < 1e-9, name


@every
def test_names_are_the_plain_models_and_nothing_stays(case: Case) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = wrap(case, model, activation_checkpointing="block")
    assert list(cycled.state_dict()) == list(plain.state_dict())
    assert cycled.state_dict()._metadata == plain.state_dict()._metadata  # type: ignore[attr-defined]
    args, kwargs = case.batch()
    cycled(*args, **kwargs)
    cycled.eval()(*args, num_cycles=2, **kwargs)
    assert cycled.train().unwrap() is model
    plain.load_state_dict(model.state_dict())
    assert_same(call(model, args, kwargs), call(plain, args, kwargs), tolerance=0)
    cycled = wrap(case, model, activation_checkpointing="block", cycle_embedding=True, token_dim=16)
    own = {"cycle_teacher.embedding"}
    assert set(cycled.state_dict()) == set(plain.state_dict()) | own
    assert {name for name, _ in cycled.named_parameters()} - own == {
        name for name, _ in plain.named_parameters()
    }
    assert cycled.unwrap() is model
    for (name, got), (other, wanted) in zip(
        model.named_modules(), plain.named_modules(), strict=True
    ):
        assert name == other
        assert type(got) is type(wanted)
        assert set(vars(got)) == set(vars(wanted)), name
        for key, value in vars(wanted).items():
            if "hooks" in key:
                assert len(getattr(got, key) or ()) == len(value or ()), (name, key)
    for module in model.modules():
        for thing in (module, *leaves(list(vars(module).values()))):
            assert not type(thing).__module__.startswith("cycledistill"), name


def test_blocks_given_as_modules() -> None:
    case = ZOO["vit"]
    args, kwargs = case.batch()
    expected = CycleWrapper(case.build(), 2)(*args, **kwargs)
    for choose in (
        lambda model: model.blocks,
        lambda model: list(model.blocks),
        lambda model: torch.nn.ModuleList(model.blocks),
        lambda model: "blocks.0:3",
        lambda model: "blocks.:",
    ):
        model = case.build()
        cycled = CycleWrapper(model, 2, choose(model))
        assert_same(cycled(*args, **kwargs), expected, tolerance=0)
    model = case.build()
    part = CycleWrapper(model, 2, model.blocks[1:])(*args, **kwargs)
    fed = hand_fed(case.build(), "blocks.1:3", 2, args, kwargs)
    assert_same(part.tokens, tuple(fed.tokens))

"""The tools that people use on a model, used on a wrapped one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.reference import assert_same, gradients, hand_fed, task_loss
from tests.core.zoo import TIMM, ZOO

FAMILIES = ["vit", "deit3", "eva02", "beit", "cait", "xcit", "mixer", "relpos"]
families = pytest.mark.parametrize("name", FAMILIES)


def named_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        (
            *sorted((k, v) for k, v in group.items() if k not in ("params", "param_names")),
            [names[id(parameter)] for parameter in group["params"]],
        )
        for group in groups
    ]


@families
def test_layer_decay_groups(name: str) -> None:
    model, plain = TIMM[name].build(), TIMM[name].build()
    cycled = CycleWrapper(model, 2)
    kwargs = {"weight_decay": 0.05, "layer_decay": 0.75}
    got = timm.optim.param_groups_layer_decay(cycled, **kwargs)
    expected = timm.optim.param_groups_layer_decay(plain, **kwargs)
    assert named_groups(cycled, got) == named_groups(plain, expected)
    assert len({group["lr_scale"] for group in got}) > 2


@families
@pytest.mark.parametrize("layer_decay", [None, 0.8])
def test_optimizer_groups(name: str, layer_decay: float | None) -> None:
    model, plain = TIMM[name].build(), TIMM[name].build()
    cycled = CycleWrapper(model, 2)
    made = [
        timm.optim.create_optimizer_v2(
            one, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay
        )
        for one in (cycled, plain)
    ]
    groups = [
        named_groups(one, optimizer.param_groups)
        for one, optimizer in zip((cycled, plain), made, strict=True)
    ]
    assert groups[0] == groups[1]
    # One more step: the state is interchangeable, so a run can go on without the wrapper.
    made[1].load_state_dict(made[0].state_dict())


def test_teacher_parameters_are_the_optimizers_too() -> None:
    cycled = CycleWrapper(TIMM["vit"].build(), 2, cycle_embedding=True, adapter_rank=2)
    for layer_decay in (None, 0.8):
        optimizer = timm.optim.create_optimizer_v2(
            cycled, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay
        )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(parameter) for parameter in cycled.parameters()}


@families
def test_forward_intermediates(name: str) -> None:
    case = TIMM[name]
    model, plain = case.build(), case.build()
    cycled = CycleWrapper(model, 2)
    (x,), _ = case.batch()
    for kwargs in ({}, {"indices": 2}, {"intermediates_only": True}):
        got = cycled.forward_intermediates(x, **kwargs)
        assert_same(got, plain.forward_intermediates(x, **kwargs), tolerance=0)
    assert_same(cycled.forward_features(x), plain.forward_features(x), tolerance=0)
    features = cycled.forward_features(x)
    assert_same(cycled.forward_head(features), plain.forward_head(features), tolerance=0)
    assert len(cycled(x).tokens) == 2, "and cycles go on"


def test_forward_intermediates_with_checkpointed_blocks() -> None:
    case = TIMM["vit"]
    model, plain = case.build(), case.build()
    cycled = CycleWrapper(model, 2)
    cycled.set_grad_checkpointing(True)
    (x,), _ = case.batch()
    out = cycled(x)
    cycled.forward_intermediates(x)[0].sum().backward()
    plain.forward_intermediates(x)[0].sum().backward()
    for key, gradient in gradients(plain).items():
        assert_same(gradients(model)[key], gradient)
    CycleDistillLoss(task_loss)(out).total.backward()


@families
def test_reset_classifier(name: str) -> None:
    case = TIMM[name]
    model = case.build()
    cycled = CycleWrapper(model, 2)
    args, _ = case.batch()
    cycled(*args)
    cycled.reset_classifier(9)
    assert cycled.num_classes == model.num_classes == 9
    model.double()
    assert cycled.get_classifier() is model.get_classifier()
    out = cycled(*args)
    assert [tuple(prediction.shape) for prediction in out.predictions] == [(2, 9)] * 2
    fed = hand_fed(copy.deepcopy(model), "blocks", 2, args, {})
    assert_same(out.predictions, tuple(fed.predictions))
    cycled.reset_classifier(0)
    assert cycled(*args).predictions[0].shape == (2, model.num_features)


def test_hooks_of_users_see_every_cycle() -> None:
    case = TIMM["vit"]
    model = case.build()
    cycled = CycleWrapper(model, 3)
    seen: list[int] = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=index: seen.append(i))
    cycled(*case.batch()[0])
    assert sorted(seen) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    seen.clear()
    cycled.eval()
    cycled(*case.batch()[0])
    assert seen == [0, 1, 2]


def test_hugging_faces_flags_and_saving(tmp_path: Any) -> None:
    case = ZOO["hf-vit"]
    model = case.build()
    cycled = CycleWrapper(model, 2)
    _, kwargs = case.batch()
    out = cycled(return_dict=False, **kwargs)
    assert isinstance(out.predictions[0], tuple)
    fed = hand_fed(case.build(), cycled.stack_path, 2, (), {"return_dict": False, **kwargs})
    assert_same(out.predictions, tuple(fed.predictions))
    cycled.eval()
    for flag in ({"output_hidden_states": True}, {"return_dict": False}):
        expected = case.build().eval()(**flag, **kwargs)
        assert_same(cycled(**flag, **kwargs), expected, tolerance=0)
    cycled.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, torch_dtype=torch.float64).eval()
    assert_same(again(**kwargs).logits, cycled(**kwargs).logits, tolerance=0)


def test_parameters_can_be_frozen() -> None:
    case = TIMM["vit"]
    model = case.build()
    cycled = CycleWrapper(model, 2)
    for parameter in model.blocks.parameters():
        parameter.requires_grad_(False)
    args, _ = case.batch()
    CycleDistillLoss(task_loss)(cycled(*args)).total.backward()
    assert all(parameter.grad is None for parameter in model.blocks.parameters())
    assert model.head.weight.grad is not None and model.pos_embed.grad is not None


def test_second_derivatives() -> None:
    case = ZOO["sequential"]
    model = case.build()
    (x,), _ = case.batch()
    x.requires_grad_()
    grads = torch.autograd.grad(
        CycleDistillLoss(task_loss, 0.5)(CycleWrapper(model, 2)(x)).total, x, create_graph=True
    )
    grads[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_graphs_of_several_batches_stand_side_by_side() -> None:
    case = TIMM["vit"]
    model = case.build()
    cycled = CycleWrapper(model, 2)
    criterion = CycleDistillLoss(task_loss, 0.5)
    batches = [case.batch(seed=seed)[0] for seed in (1, 2)]
    losses = [criterion(cycled(*args)).total / 2 for args in batches]
    for loss in losses:
        loss.backward()
    accumulated = gradients(model)
    whole = CycleWrapper(case.build(), 2)
    for args in batches:
        (criterion(whole(*args)).total / 2).backward()
    for name, gradient in gradients(whole.plain).items():
        assert torch.equal(accumulated[name], gradient)  # type: ignore[arg-type]

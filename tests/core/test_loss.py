"""CycleDistillLoss against the equations written out."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cycledistill import CycleDistillLoss, CycleLosses, CycleOutput, Ramp


def output(num_cycles: int = 3, seed: int = 0, grad: bool = True, length: int = 6) -> CycleOutput:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        made = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return made.requires_grad_(grad)

    return CycleOutput(
        tuple(random(4, 5) for _ in range(num_cycles)),
        tuple(random(4, length, 3) for _ in range(num_cycles)),
    )


TARGETS = torch.tensor([0, 3, 2, 4])


def squared(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student - teacher) ** 2).sum() / student.numel()


def smooth(student: Tensor, teacher: Tensor) -> Tensor:
    gap = (student - teacher).abs()
    return torch.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    dots = (student * teacher).sum(-1)
    return (1 - dots / (student.norm(dim=-1) * teacher.norm(dim=-1))).mean()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = (teacher / temperature).softmax(-1)
    q = (student / temperature).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean() * temperature**2


BY_HAND = {"mse": squared, "smooth_l1": smooth, "cosine": angle}


@pytest.mark.parametrize("distance", ["mse", "smooth_l1", "cosine"])
@pytest.mark.parametrize("teacher", ["next", "last"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("num_cycles", [2, 4])
def test_values_and_gradients_by_hand(
    distance: str, teacher: str, detach: bool, num_cycles: int
) -> None:
    got, wanted = output(num_cycles), output(num_cycles)
    groups = {"head": slice(0, 2), "rest": slice(2, None)}
    weights = {"head": 0.3, "rest": 1.7}
    criterion = CycleDistillLoss(
        nn.CrossEntropyLoss(),
        weights,
        groups,
        distance,
        teacher,
        detach,
        prediction_weight=0.9,
        temperature=3.0,
    )
    losses = criterion(got, TARGETS)
    assert isinstance(losses, CycleLosses)
    losses.total.backward()

    task = [
        -prediction.log_softmax(-1)[range(4), TARGETS].mean() for prediction in wanted.predictions
    ]

    def pair(tensors: tuple[Tensor, ...], cycle: int) -> tuple[Tensor, Tensor]:
        target = tensors[cycle + 1] if teacher == "next" else tensors[-1]
        return tensors[cycle], target.detach() if detach else target

    tokens: dict[str, list[Tensor]] = {"head": [], "rest": []}
    predictions = []
    for cycle in range(num_cycles - 1):
        student, target = pair(wanted.tokens, cycle)
        tokens["head"].append(BY_HAND[distance](student[:, :2], target[:, :2]))
        tokens["rest"].append(BY_HAND[distance](student[:, 2:], target[:, 2:]))
        predictions.append(divergence(*pair(wanted.predictions, cycle), temperature=3.0))
    total = sum(task) + 0.3 * sum(tokens["head"]) + 1.7 * sum(tokens["rest"])
    total = total + 0.9 * sum(predictions)
    total.backward()

    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(losses.total, total, **close)
    torch.testing.assert_close(losses.task, torch.stack(task), **close)
    torch.testing.assert_close(losses.predictions, torch.stack(predictions), **close)
    for name, values in tokens.items():
        torch.testing.assert_close(losses.tokens[name], torch.stack(values), **close)
    for one, other in zip(
        (*got.tokens, *got.predictions), (*wanted.tokens, *wanted.predictions), strict=True
    ):
        if other.grad is None:
            assert one.grad is None or not one.grad.any()
        else:
            torch.testing.assert_close(one.grad, other.grad, **close)


def test_defaults_are_the_papers() -> None:
    out = output(3)
    losses = CycleDistillLoss(nn.CrossEntropyLoss())(out, TARGETS)
    task = sum(F.cross_entropy(prediction, TARGETS) for prediction in out.predictions)
    mse = [F.mse_loss(out.tokens[i], out.tokens[i + 1]) for i in range(2)]
    torch.testing.assert_close(losses.total, task + 5e-6 * sum(mse), rtol=1e-14, atol=0)
    assert list(losses.tokens) == ["all"]
    torch.testing.assert_close(losses.tokens["all"], torch.stack(mse))
    assert losses.predictions.shape == (0,)
    losses.total.backward()
    assert out.tokens[2].grad is None, "the last cycle is only a teacher"
    scale = 5e-6 * 2 / out.tokens[0].numel()
    torch.testing.assert_close(
        out.tokens[0].grad, scale * (out.tokens[0] - out.tokens[1]).detach(), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize(
    ("distance", "teacher"), [("mse", "next"), ("smooth_l1", "last"), ("cosine", "next")]
)
def test_gradcheck(distance: str, teacher: str) -> None:
    out = output(3)
    criterion = CycleDistillLoss(
        nn.CrossEntropyLoss(),
        0.7,
        {"a": slice(1, 3), "b": slice(4, 6)},
        distance,
        teacher,
        detach_teacher=False,
        prediction_weight=0.3,
        temperature=2.0,
    )

    def total(*tensors: Tensor) -> Tensor:
        return criterion(CycleOutput(tensors[:3], tensors[3:]), TARGETS).total

    assert torch.autograd.gradcheck(total, (*out.predictions, *out.tokens))


@pytest.mark.parametrize(
    ("task_cycles", "weights"),
    [("all", (1, 1, 1)), ("mean", (1 / 3,) * 3), ("last", (0, 0, 1)), ((0.5, 0.0, 2), (0.5, 0, 2))],
)
def test_task_cycles(task_cycles: Any, weights: tuple[float, ...]) -> None:
    out = output(3)
    losses = CycleDistillLoss(nn.CrossEntropyLoss(), 0.0, task_cycles=task_cycles)(out, TARGETS)
    task = torch.stack([F.cross_entropy(prediction, TARGETS) for prediction in out.predictions])
    torch.testing.assert_close(losses.task, task)
    torch.testing.assert_close(losses.total, task @ torch.tensor(weights, dtype=torch.float64))
    losses.total.backward()
    for prediction, weight in zip(out.predictions, weights, strict=True):
        assert (prediction.grad is not None and bool(prediction.grad.any())) == (weight != 0)


def test_one_cycle_is_the_task_loss_alone() -> None:
    out = output(1)
    losses = CycleDistillLoss(nn.CrossEntropyLoss(), 1.0, prediction_weight=1.0)(out, TARGETS)
    torch.testing.assert_close(losses.total, F.cross_entropy(out.predictions[0], TARGETS))
    assert losses.tokens["all"].shape == losses.predictions.shape == (0,)
    assert set(losses.scalars()) == {"loss", "task/1", "scale/1"}


def test_scalars_name_every_term() -> None:
    groups = {"keypoint": slice(0, 2), "visual": slice(2, None)}
    criterion = CycleDistillLoss(
        nn.CrossEntropyLoss(), 0.5, groups, prediction_weight=1.0, prediction_distance="mse"
    )
    losses = criterion(output(3), TARGETS)
    scalars = losses.scalars()
    assert list(scalars) == [
        "loss",
        *(f"task/{i}" for i in (1, 2, 3)),
        *(f"predictions/{i}" for i in (1, 2)),
        *(f"tokens/keypoint/{i}" for i in (1, 2)),
        *(f"tokens/visual/{i}" for i in (1, 2)),
        *(f"scale/{i}" for i in (1, 2, 3)),
    ]
    assert all(type(value) is float for value in scalars.values())
    assert scalars["tokens/visual/2"] == float(losses.tokens["visual"][1])
    parts = sum(v for k, v in scalars.items() if k.startswith(("task", "predictions")))
    tokens = sum(v for k, v in scalars.items() if k.startswith("tokens"))
    assert scalars["loss"] == pytest.approx(parts + 0.5 * tokens, rel=1e-12)


def test_targets_of_any_number_and_a_task_loss_with_parameters() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            return (
                self.scale * F.cross_entropy(prediction, target, reduction="none") * weight
            ).sum()

    weight = torch.rand(4, dtype=torch.float64)
    task = Weighted()
    criterion = CycleDistillLoss(task, 0.0)
    assert [name for name, _ in criterion.named_parameters()] == ["task_loss.scale"]
    out = output(2)
    losses = criterion(out, TARGETS, weight)
    losses.total.backward()
    expected = sum(
        (F.cross_entropy(p, TARGETS, reduction="none") * weight).sum() for p in out.predictions
    )
    torch.testing.assert_close(task.scale.grad, expected)


def test_half_precision_distances_are_taken_in_float32() -> None:
    tokens = tuple(torch.full((2, 3, 4), value, dtype=torch.float16) for value in (300.0, -300.0))
    out = CycleOutput((torch.zeros(2, 3), torch.zeros(2, 3)), tokens)
    losses = CycleDistillLoss(nn.CrossEntropyLoss())(out, torch.tensor([0, 1]))
    assert losses.tokens["all"].dtype == torch.float32
    assert losses.tokens["all"].item() == 360_000.0


def test_zero_weight_terms_are_still_reported() -> None:
    out = output(2)
    losses = CycleDistillLoss(nn.CrossEntropyLoss(), token_weight=0.0)(out, TARGETS)
    torch.testing.assert_close(losses.tokens["all"][0], F.mse_loss(*out.tokens))
    assert not losses.tokens["all"].requires_grad


def test_predictions_of_any_type_with_a_distance_of_ones_own() -> None:
    out = output(2)
    wrapped = CycleOutput(tuple({"logits": p, "note": "x"} for p in out.predictions), out.tokens)

    def distance(student: dict[str, Any], teacher: dict[str, Any]) -> Tensor:
        assert teacher["note"] == "x"
        assert not teacher["logits"].requires_grad
        return (student["logits"] - teacher["logits"]).abs().sum()

    criterion = CycleDistillLoss(
        lambda p, y: F.cross_entropy(p["logits"], y),
        prediction_weight=1.0,
        prediction_distance=distance,
    )
    losses = criterion(wrapped, TARGETS)
    torch.testing.assert_close(
        losses.predictions[0], (out.predictions[0] - out.predictions[1]).abs().sum()
    )


def test_kl_of_maps_of_logits_is_a_mean_over_positions() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 7, 5).double(), torch.randn(2, 7, 5).double()
    tokens = (torch.zeros(2, 3, 1).double(),) * 2
    criterion = CycleDistillLoss(lambda p: p.sum(), prediction_weight=1.0)
    losses = criterion(CycleOutput((student, teacher), tokens))
    torch.testing.assert_close(losses.predictions[0], divergence(student, teacher, 1.0))


def test_kl_of_masked_classes_is_that_of_the_others() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5).double().requires_grad_()
    student, teacher = logits
    masked = tuple(F.pad(one, (0, 2), value=-math.inf) for one in (student, teacher))
    criterion = CycleDistillLoss(
        lambda p: p.sum() * 0, prediction_weight=1.0, temperature=2.0, detach_teacher=False
    )
    tokens = (torch.zeros(2, 3, 1).double(),) * 2
    found = [
        criterion(CycleOutput(pair, tokens)).predictions[0] for pair in ((student, teacher), masked)
    ]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in found))


@given(
    initial=st.floats(-5, 5),
    final=st.floats(-5, 5),
    points=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    progress=st.floats(0, 1),
    shape=st.sampled_from(["linear", "cosine"]),
)
def test_ramps_stay_between_their_ends(
    initial: float, final: float, points: tuple[float, float], progress: float, shape: str
) -> None:
    ramp = Ramp(initial, final, min(points), max(points), shape)
    low, high = sorted((initial, final))
    assert low - 1e-9 <= ramp(progress) <= high + 1e-9
    if progress <= min(points):
        assert ramp(progress) == initial
    if progress >= max(points) > min(points):
        assert ramp(progress) == pytest.approx(final)


def test_weights_follow_the_progress() -> None:
    criterion = CycleDistillLoss(
        nn.CrossEntropyLoss(),
        {"a": Ramp(0.0, 4.0), "b": lambda progress: 1 - progress},
        {"a": slice(0, 3), "b": slice(3, 6)},
        prediction_weight=Ramp(2.0, 0.0, shape="cosine"),
    )
    out = output(2)
    for progress in (0.0, 0.25, 1.0):
        criterion.set_progress(progress)
        losses = criterion(out, TARGETS)
        cosine = 2 * (1 + torch.cos(torch.tensor(torch.pi * progress))) / 2
        expected = (
            losses.task.sum()
            + 4 * progress * losses.tokens["a"].sum()
            + (1 - progress) * losses.tokens["b"].sum()
            + float(cosine) * losses.predictions.sum()
        )
        torch.testing.assert_close(losses.total, expected, rtol=1e-6, atol=0)


def test_a_ramp_and_the_loss_can_be_pickled() -> None:
    criterion = CycleDistillLoss(nn.CrossEntropyLoss(), Ramp(0.0, 1.0), prediction_weight=1.0)
    criterion.set_progress(0.5)
    again = copy.deepcopy(criterion)
    assert float(again(output(2), TARGETS).total) == float(criterion(output(2), TARGETS).total)


@given(
    length=st.integers(1, 12),
    start=st.one_of(st.none(), st.integers(-15, 15)),
    stop=st.one_of(st.none(), st.integers(-15, 15)),
    step=st.one_of(st.none(), st.integers(1, 3)),
)
def test_groups_are_pythons_slices_or_an_error(
    length: int, start: int | None, stop: int | None, step: int | None
) -> None:
    part = slice(start, stop, step)
    out = output(2, grad=False, length=length)
    criterion = CycleDistillLoss(nn.CrossEntropyLoss(), 1.0, {"part": part})
    members = list(range(length))[part]
    inside = all(end is None or -length <= end <= length for end in (start, stop))
    if members and inside:
        losses = criterion(out, TARGETS)
        expected = squared(out.tokens[0][:, members], out.tokens[1][:, members])
        torch.testing.assert_close(losses.tokens["part"][0], expected)
    else:
        with pytest.raises(ValueError, match=f"'part'.*{length} tokens"):
            criterion(out, TARGETS)


def test_groups_along_another_dimension() -> None:
    out = output(2, grad=False)
    second = CycleOutput(out.predictions, tuple(t.transpose(0, 1) for t in out.tokens))
    first = CycleDistillLoss(nn.CrossEntropyLoss(), 1.0, {"a": slice(0, 2)})
    other = CycleDistillLoss(nn.CrossEntropyLoss(), 1.0, {"a": slice(0, 2)}, token_dim=0)
    torch.testing.assert_close(first(out, TARGETS).total, other(second, TARGETS).total)


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "teacher": ({"teacher": "first"}, "teacher: expected 'next' or 'last', got 'first'"),
    "task_cycles": ({"task_cycles": "first"}, "task_cycles: expected .* got 'first'"),
    "temperature": ({"temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
    "distance": ({"distance": "l7"}, r"distance: expected 'mse', .* got 'l7'"),
    "prediction": ({"prediction_distance": "l7"}, r"prediction_distance: expected .* got 'l7'"),
    "empty": ({"token_groups": {}}, "token_groups is empty"),
    "index": ({"token_groups": {"a": 3}}, "token group 'a': expected a slice .* got 3"),
    "step": ({"token_groups": {"a": slice(5, 0, -1)}}, "token group 'a': expected a slice"),
    "weights": (
        {"token_groups": {"a": slice(1)}, "token_weight": {"b": 1.0}},
        r"token_weight names the groups \['b'\], token_groups names \['a'\]",
    ),
}


@pytest.mark.parametrize(("kwargs", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_bad_arguments(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CycleDistillLoss(nn.CrossEntropyLoss(), **kwargs)


GROUP_ERRORS: dict[str, tuple[dict[str, slice], str]] = {
    "beyond": (
        {"a": slice(0, 7)},
        r"token group 'a' = slice\(0, 7, None\).*6 tokens of \[4, 6, 3\]",
    ),
    "starts-beyond": ({"a": slice(6, None)}, "'a' = .* does not lie within the 6 tokens"),
    "starts-before": ({"a": slice(-7, None)}, "'a' = .* does not lie within the 6 tokens"),
    "nothing": ({"a": slice(2, 2)}, "'a' = .* does not lie within the 6 tokens"),
    "overlap": (
        {"a": slice(0, 4), "b": slice(3, None)},
        "token groups 'a' and 'b' overlap at token 3",
    ),
}


@pytest.mark.parametrize(("groups", "text"), GROUP_ERRORS.values(), ids=GROUP_ERRORS.keys())
def test_groups_that_do_not_fit(groups: dict[str, slice], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CycleDistillLoss(nn.CrossEntropyLoss(), token_groups=groups)(output(2), TARGETS)


def test_other_errors() -> None:
    cross_entropy = nn.CrossEntropyLoss()
    with pytest.raises(TypeError, match=r"task_loss: expected a callable, got str"):
        CycleDistillLoss("cross_entropy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"teacher='last' needs two cycles.*has one"):
        CycleDistillLoss(cross_entropy, teacher="last")(output(1), TARGETS)
    with pytest.raises(ValueError, match=r"task_cycles: .* of 3 cycles, got 2: \(1.0, 1.0\)"):
        CycleDistillLoss(cross_entropy, task_cycles=(1.0, 1.0))(output(3), TARGETS)
    with pytest.raises(ValueError, match=r"leaves no cycle with a task loss"):
        CycleDistillLoss(cross_entropy, task_cycles=(0.0, 0.0))(output(2), TARGETS)
    with pytest.raises(ValueError, match=r"task_loss: .* return a scalar.*\[4\]"):
        CycleDistillLoss(nn.CrossEntropyLoss(reduction="none"))(output(2), TARGETS)
    with pytest.raises(ValueError, match=r"task_loss: .* return a scalar.*got float"):
        CycleDistillLoss(lambda p, y: 1.0)(output(2), TARGETS)  # type: ignore[arg-type,return-value]
    each = nn.MSELoss(reduction="none")
    with pytest.raises(ValueError, match=r"^distance: .* return a scalar.*got shape \[4, 6, 3\]"):
        CycleDistillLoss(cross_entropy, distance=each)(output(2), TARGETS)
    with pytest.raises(ValueError, match=r"prediction_distance: .* return a scalar.*\[4, 5\]"):
        CycleDistillLoss(cross_entropy, prediction_weight=1.0, prediction_distance=each)(
            output(2), TARGETS
        )
    with pytest.raises(TypeError, match=r"CycleOutput.*got Tensor: in eval mode use"):
        CycleDistillLoss(cross_entropy)(torch.zeros(4, 5), TARGETS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"progress: expected a number from 0 to 1, got 1.5"):
        CycleDistillLoss(cross_entropy).set_progress(1.5)
    with pytest.raises(ValueError, match=r"begin=0.5, end=0.2"):
        Ramp(0.0, 1.0, begin=0.5, end=0.2)
    with pytest.raises(ValueError, match=r"'linear' or 'cosine', got 'step'"):
        Ramp(0.0, 1.0, shape="step")

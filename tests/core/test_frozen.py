"""FoldLoss: value, gradient, and teachers that stay as and where they are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleOutput, CycleWrapper, FoldLoss


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.Dropout(0.5)) for _ in range(2)]
    return nn.Sequential(*blocks)


def divergence(student: Tensor, targets: list[Tensor], temperature: float) -> Tensor:
    """Mean over teachers and samples of sum q (log q - log p), times the squared temperature."""
    log_p = (student / temperature).log_softmax(-1)
    values = [
        (q * (q.log() - log_p)).sum(-1).mean()
        for q in ((target / temperature).softmax(-1) for target in targets)
    ]
    return torch.stack(values).mean() * temperature**2


def test_value_and_gradient_with_a_grown_and_a_deeper_teacher() -> None:
    grown, deeper = CycleWrapper(network(0), num_cycles=3), network(1)
    student = network(2).eval()
    inputs, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    criterion = FoldLoss(nn.CrossEntropyLoss(), [grown, deeper], truth_weight=0.25, temperature=3.0)
    losses = criterion(student(inputs), labels, inputs=inputs)
    targets = [grown.eval()(inputs, num_cycles=3), deeper.eval()(inputs)]
    logits = student(inputs)
    task = nn.functional.cross_entropy(logits, labels)
    distance = divergence(logits, [target.detach() for target in targets], 3.0)
    torch.testing.assert_close(losses.total, 0.25 * task + 0.75 * distance)
    torch.testing.assert_close(losses.task, task.reshape(1))
    torch.testing.assert_close(losses.predictions, distance.reshape(1))
    listed = FoldLoss(nn.CrossEntropyLoss(), nn.ModuleList([grown, deeper]), 0.25, temperature=3.0)
    assert torch.equal(listed(student(inputs), labels, inputs=inputs).total, losses.total)
    assert losses.scalars().keys() == {"loss", "task/1", "predictions/1"}
    losses.total.backward()
    found = [parameter.grad for parameter in student.parameters()]
    mean = (targets[0] / 3).softmax(-1) / 2 + (targets[1] / 3).softmax(-1) / 2
    own = (logits / 3).log_softmax(-1)
    of_mean = 0.25 * task - 0.75 * 9 * (mean.detach() * own).sum(-1).mean()
    for ours, expected in zip(
        found, torch.autograd.grad(of_mean, list(student.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    for teacher in (grown, deeper):
        assert all(parameter.grad is None for parameter in teacher.parameters())


def test_every_cycle_of_a_cycled_student_is_taught() -> None:
    teacher = network(0)
    student = CycleWrapper(network(1), num_cycles=2)
    inputs, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    criterion = FoldLoss(nn.CrossEntropyLoss(), teacher)
    output = student(inputs)
    losses = criterion(output, labels, inputs=inputs)
    alone = [criterion(one, labels, inputs=inputs) for one in output.predictions]
    torch.testing.assert_close(losses.total, (alone[0].total + alone[1].total) / 2)
    assert len(losses.task) == len(losses.predictions) == 2
    one = criterion(CycleOutput(output.predictions[:1], output.tokens[:1]), labels, inputs=inputs)
    torch.testing.assert_close(one.total, alone[0].total)


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping"])
def test_heatmaps_by_mean_squares_and_other_predictions_by_a_function(form: str) -> None:
    class Scaled(nn.Module):
        def forward(self, maps: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return {"maps": maps * scale}

    class Maps(Scaled):
        def forward(self, maps: Tensor, scale: float = 1.0) -> Any:
            return maps * scale

    maps, truth = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    inputs = {"tensor": maps, "tuple": (maps, 3.0), "mapping": {"maps": maps, "scale": 3.0}}[form]
    scale = 1.0 if form == "tensor" else 3.0
    student = torch.randn(3, 2, 4, 4)
    expected = 0.5 * (student - truth).square().mean()
    expected = expected + 0.5 * (student - scale * maps).square().mean()
    squares = FoldLoss(nn.MSELoss(), Maps(), truth_weight=0.5, prediction_distance="mse")
    torch.testing.assert_close(squares(student, truth, inputs=inputs).total, expected)

    def distance(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        return (student["maps"] - teacher["maps"]).square().mean()

    named = FoldLoss(
        lambda own, truth: (own["maps"] - truth).square().mean(),
        Scaled(),
        truth_weight=0.5,
        prediction_distance=distance,
    )
    torch.testing.assert_close(named({"maps": student}, truth, inputs=inputs).total, expected)


def test_teachers_are_frozen_in_eval_mode_and_no_part_of_the_loss() -> None:
    teacher = CycleWrapper(network(0), num_cycles=2).train()
    before = copy.deepcopy(teacher.state_dict())
    task = nn.CrossEntropyLoss(weight=torch.ones(5))
    criterion = FoldLoss(task, teacher)
    student, inputs = network(1), torch.randn(7, 5)
    labels = torch.randint(0, 5, (7,))
    criterion.train()
    next(module for module in teacher.modules() if isinstance(module, nn.Dropout)).train()
    first = criterion(torch.zeros(7, 5), labels, inputs=inputs).total
    assert torch.equal(first, criterion(torch.zeros(7, 5), labels, inputs=inputs).total)
    assert not any(module.training for module in teacher.modules())
    assert list(criterion.parameters()) == []
    assert list(criterion.state_dict()) == ["task_loss.weight"]
    assert not any(module is teacher for module in criterion.modules())
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    criterion(student(inputs), labels, inputs=inputs).total.backward()
    optimizer.step()
    after = teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_compiled_teacher_runs_its_cycles() -> None:
    teacher = CycleWrapper(network(0), num_cycles=2).eval()
    inputs, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    eager = FoldLoss(nn.CrossEntropyLoss(), teacher)
    compiled = FoldLoss(nn.CrossEntropyLoss(), torch.compile(teacher, backend="eager"))
    plain = FoldLoss(nn.CrossEntropyLoss(), copy.deepcopy(teacher).unwrap())
    expected = eager(torch.zeros(7, 5), labels, inputs=inputs).total
    torch.testing.assert_close(compiled(torch.zeros(7, 5), labels, inputs=inputs).total, expected)
    assert not torch.allclose(plain(torch.zeros(7, 5), labels, inputs=inputs).total, expected)


def test_a_teacher_inside_of_another_module_runs_its_cycles() -> None:
    teacher = CycleWrapper(network(0), num_cycles=3)
    inputs, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    expected = FoldLoss(nn.CrossEntropyLoss(), teacher)(torch.zeros(7, 5), labels, inputs=inputs)
    average = torch.optim.swa_utils.AveragedModel(teacher)
    for outer in (average, torch.compile(nn.Sequential(teacher), backend="eager")):
        found = FoldLoss(nn.CrossEntropyLoss(), outer)(torch.zeros(7, 5), labels, inputs=inputs)
        torch.testing.assert_close(found.total, expected.total)
    assert torch.equal(teacher(inputs), teacher.plain(inputs)), "one cycle outside of the loss"


def test_teachers_go_where_the_loss_goes() -> None:
    teacher = network(0)
    criterion = nn.ModuleDict({"loss": FoldLoss(nn.MSELoss(), teacher, prediction_distance="mse")})
    criterion.to(torch.float64)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float64}
    inputs = torch.randn(7, 5, dtype=torch.float64)
    total = criterion["loss"](inputs, inputs, inputs=inputs).total
    again = pickle.loads(pickle.dumps(criterion["loss"]))
    assert torch.equal(again(inputs, inputs, inputs=inputs).total, total)


def test_a_loss_without_weight_does_not_count() -> None:
    inputs, unlabelled = torch.randn(7, 5), torch.full((7,), -100)  # whose cross entropy is NaN
    criterion = FoldLoss(nn.CrossEntropyLoss(), network(0), truth_weight=0.0)
    student = network(1)
    losses = criterion(student(inputs), unlabelled, inputs=inputs)
    assert losses.task.isnan().all() and torch.equal(losses.total, losses.predictions[0])
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_predictions_are_compared_in_float32() -> None:
    class Constant(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return logits + 1 / 128

    logits = torch.linspace(-1, 1, 40).view(8, 5).bfloat16()
    given = torch.cat([logits[:, :1] + 1 / 128, logits[:, 1:]], 1)
    criterion = FoldLoss(lambda own, _: own.sum() * 0, Constant(), truth_weight=0.0)
    found = criterion(given, None, inputs=logits).total
    expected = criterion(given.float(), None, inputs=logits).total
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("distance", "student", "teacher", "words"),
    [
        ("kl", (4, 1), (4, 1), r"'kl': expected logits .* of two or more classes, got \[4, 1\]"),
        ("kl", (4, 5), (4, 1), r"'kl': expected a teacher's prediction \[4, 5\] .* got \[4, 1\]"),
        ("kl", (2, 3, 8, 8), (2, 3, 8, 8), r"'kl': expected .* classes last, got \[2, 3, 8, 8\]"),
        ("mse", (4, 1), (4,), r"'mse': expected a teacher's prediction \[4, 1\] .* got \[4\]"),
        ("mse", (4, 2), None, "'mse': expected predictions that are tensors, got dict"),
        ("kl", (4, 2), None, "'kl': expected predictions that are tensors, got dict"),
    ],
)
def test_predictions_that_cannot_be_compared(
    distance: str, student: tuple[int, ...], teacher: tuple[int, ...] | None, words: str
) -> None:
    class Teacher(nn.Module):
        def forward(self, _: Tensor) -> Any:
            return {} if teacher is None else torch.zeros(teacher)

    criterion = FoldLoss(lambda own: own.sum(), Teacher(), prediction_distance=distance)
    with pytest.raises((TypeError, ValueError), match=words):
        criterion(torch.zeros(student), inputs=torch.zeros(4))


def test_losses_that_are_no_scalars() -> None:
    teacher, logits, labels = nn.Linear(2, 5), torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])
    each = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ValueError, match=r"task_loss: .* return a scalar tensor, got shape \[4\]"):
        FoldLoss(each, teacher)(logits, labels, inputs=torch.zeros(4, 2))
    criterion = FoldLoss(
        nn.CrossEntropyLoss(), teacher, prediction_distance=nn.MSELoss(reduction="none")
    )
    with pytest.raises(ValueError, match=r"prediction_distance: .* got shape \[4, 5\]"):
        criterion(logits, labels, inputs=torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"teachers": []}, "teachers is empty"),
        ({"teachers": [nn.Linear(2, 2), "folder"]}, "expected modules as teachers, got str"),
        ({"task_loss": 3}, "task_loss: expected a callable, got int"),
        ({"truth_weight": 1.5}, "truth_weight: expected a number from 0 to 1, got 1.5"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
        ({"prediction_distance": "l3"}, "'kl', 'mse' or a function, got 'l3'"),
    ],
)
def test_arguments_out_of_their_range(changed: dict[str, Any], words: str) -> None:
    arguments = {"task_loss": nn.CrossEntropyLoss(), "teachers": nn.Linear(2, 2), **changed}
    with pytest.raises((TypeError, ValueError), match=words):
        FoldLoss(**arguments)

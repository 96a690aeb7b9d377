"""RLELoss and its flow: against loops over keypoints, by integration, and at the extremes."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cycledistill_pose.losses import RealNVP, RLELoss


def stirred(criterion: RLELoss, scale: float = 0.3) -> RLELoss:
    """The loss with a flow that is far from its start, as after training."""
    with torch.no_grad():
        for parameter in criterion.flow_model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return criterion


def slow_net(state: dict[str, np.ndarray], prefix: str, x: np.ndarray, tanh: bool) -> np.ndarray:
    for layer in (0, 2, 4):
        x = state[f"{prefix}.{layer}.weight"] @ x + state[f"{prefix}.{layer}.bias"]
        if layer < 4:
            x = np.where(x > 0, x, 0.01 * x)
    return np.tanh(x) if tanh else x


def slow_log_phi(state: dict[str, np.ndarray], e: np.ndarray) -> float:
    """One point through six couplings, from the last to the first."""
    z, log_jacobian = e.astype(float).copy(), 0.0
    for i in range(5, -1, -1):
        held, moved = (1, 0) if i % 2 == 0 else (0, 1)
        x = np.zeros(2)
        x[held] = z[held]
        s = slow_net(state, f"flow_model.s.{i}", x, tanh=True)[moved]
        t = slow_net(state, f"flow_model.t.{i}", x, tanh=False)[moved]
        z[moved] = (z[moved] - t) * math.exp(-s)
        log_jacobian -= s
    return -math.log(2 * math.pi) - (z**2).sum() / 2 + log_jacobian


def slow_loss(criterion: RLELoss, outputs, target, weight) -> float:
    """The sum over keypoints and axes, one after the other, divided by the batch size."""
    state = {name: value.numpy().astype(float) for name, value in criterion.state_dict().items()}
    total = 0.0
    for b, k in np.ndindex(*outputs.shape[:2]):
        sigma = 1 / (1 + np.exp(-outputs[b, k, 2:]))
        e = (outputs[b, k, :2] - target[b, k]) / (sigma + 1e-9)
        log_phi = slow_log_phi(state, e)
        for axis in range(2):
            q = {
                "laplace": math.log(2 * sigma[axis]) + abs(e[axis]),
                "gaussian": math.log(sigma[axis] * math.sqrt(2 * math.pi)) + e[axis] ** 2 / 2,
            }[criterion.distribution]
            q = q if criterion.residual else 0.0
            share = log_phi if criterion.log_phi_per_axis else log_phi / 2
            total += weight[b, k] * (math.log(sigma[axis]) - share + q)
    return total / len(outputs)


@pytest.mark.parametrize("log_phi_per_axis", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_value(distribution, residual, log_phi_per_axis):
    for stir in (0.0, 0.3):
        criterion = stirred(RLELoss(distribution, residual, log_phi_per_axis), stir)
        rng = np.random.default_rng(int(10 * stir))
        outputs = rng.normal(0.4, 0.5, (3, 5, 4)) * [1, 1, 4, 4]
        target, weight = rng.random((3, 5, 2)), rng.choice([0.0, 0.5, 1.0], (3, 5))
        expected = slow_loss(criterion, outputs, target, weight)
        loss = criterion(*(torch.tensor(a, dtype=torch.float32) for a in (outputs, target, weight)))
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-4)
        double = criterion.double()(*map(torch.from_numpy, (outputs, target, weight)))
        assert double.item() == pytest.approx(expected, rel=1e-9)


def test_default_is_the_released_form_at_a_point_that_can_be_done_by_hand():
    """A flow of zero weights is the standard normal."""
    criterion = RLELoss()
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.zero_()
    outputs = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]])  # sigma 0.5
    target = torch.tensor([[[0.25, 0.75]]])  # e = 0.5, -0.5
    log_phi = -math.log(2 * math.pi) - 0.25
    expected = 2 * (math.log(0.5) + math.log(1.0) + 0.5) - 2 * log_phi
    assert criterion(outputs, target, torch.ones(1, 1)).item() == pytest.approx(expected, abs=1e-5)


def grid(centre: float, half: float, steps: int) -> tuple[torch.Tensor, float]:
    """Midpoints `[steps^2, 2]` of square cells and the area of one."""
    side = 2 * half / steps
    axis = centre - half + side * (torch.arange(steps, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(axis, axis), side**2


def test_the_density_of_the_flow_integrates_to_one():
    for scale in (0.0, 0.1, 0.2):
        flow = stirred(RLELoss().double(), scale).flow_model
        points, area = grid(0.0, 15.0, 200)
        with torch.no_grad():
            total = flow.log_prob(points).exp().sum() * area
        assert total.item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_the_loss_is_minus_the_logarithm_of_densities_that_integrate_to_one(distribution):
    """Over all targets, for fixed outputs: of the flow, and of the base distribution."""
    flow_alone = stirred(
        RLELoss(distribution, residual=False, log_phi_per_axis=False).double(), 0.15
    )
    both = RLELoss(distribution, residual=True, log_phi_per_axis=False).double()
    both.load_state_dict(flow_alone.state_dict())
    prediction = torch.tensor([0.4, 0.6, -2.0, -1.2], dtype=torch.float64)
    targets, area = grid(0.5, 2.0, 250)
    outputs = prediction.expand(len(targets), 1, 4)
    with torch.no_grad():
        flow = flow_alone.log_prob(outputs, targets[:, None])[:, 0]
    assert (flow.exp().sum() * area).item() == pytest.approx(1.0, abs=5e-3)

    some = torch.arange(0, len(targets), 2_503)
    losses = [(c(outputs[:1], targets[i].view(1, 1, 2))) for i in some for c in (flow_alone, both)]
    losses = torch.stack(losses).detach().view(-1, 2)
    torch.testing.assert_close(losses[:, 0], -flow[some])
    # What the residual form adds is minus the logarithm of the base distribution's density.
    base = torch.tensor([1 / (1 + math.exp(2.0)), 1 / (1 + math.exp(1.2))], dtype=torch.float64)
    kind = {
        "laplace": torch.distributions.Laplace,
        "gaussian": torch.distributions.Normal,
    }[distribution]
    expected = kind(prediction[:2], base).log_prob(targets[some]).sum(-1)
    torch.testing.assert_close(losses[:, 0] - losses[:, 1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("distribution", ["laplace", "gaussian"])
def test_gradients_by_differences(distribution):
    criterion = stirred(RLELoss(distribution).double(), 0.2)
    outputs = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 3, 2, dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: criterion(x, target, weight), (outputs,))
    names = ["flow_model.s.3.2.bias", "flow_model.t.0.0.weight", "flow_model.t.5.4.bias"]
    parameters = dict(criterion.named_parameters())

    def of_parameters(*values: torch.Tensor) -> torch.Tensor:
        replaced = dict(zip(names, values, strict=True))
        return torch.func.functional_call(criterion, replaced, (outputs.detach(), target, weight))

    values = tuple(parameters[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(of_parameters, values)


@settings(max_examples=150)
@given(
    mean=st.floats(-1e6, 1e6, width=32),
    target=st.floats(-1e6, 1e6, width=32),
    raw=st.floats(-(2.0**120), 2.0**120, width=32) | st.floats(-120, 120, width=32),
    distribution=st.sampled_from(["laplace", "gaussian"]),
    half=st.booleans(),
)
def test_finite_for_any_sigma_and_outlier(mean, target, raw, distribution, half):
    criterion = RLELoss(distribution)
    outputs = torch.tensor([[[mean, mean, raw, raw], [0.5, 0.5, raw, -raw]]], requires_grad=True)
    goal = torch.tensor([[[target, target], [0.5, 0.4]]])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = criterion(outputs, goal, torch.ones(1, 2))
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert outputs.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in criterion.parameters())


def test_half_precision_outputs_are_computed_in_float32():
    criterion = stirred(RLELoss(), 0.1)
    outputs = torch.randn(2, 17, 4).to(torch.bfloat16)
    target = torch.rand(2, 17, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = criterion(outputs, target)
    assert torch.equal(inside, criterion(outputs.float(), target))


def test_weight_zero_means_absent():
    criterion = stirred(RLELoss(), 0.1)
    outputs = torch.randn(2, 3, 4, requires_grad=True)
    target = torch.rand(2, 3, 2)
    weight = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    loss = criterion(outputs, target, weight)
    target[0, 1], target[1, 0] = float("nan"), float("inf")
    again = criterion(outputs, target, weight)
    assert torch.equal(loss, again)
    again.backward()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[weight == 0] == 0).all()
    assert all(p.grad.isfinite().all() for p in criterion.parameters())


def test_state_is_that_of_the_released_layout():
    criterion = RLELoss()
    names = {
        f"flow_model.{net}.{i}.{layer}.{kind}"
        for net in "st"
        for i in range(6)
        for layer in (0, 2, 4)
        for kind in ("weight", "bias")
    }
    assert set(criterion.state_dict()) == {*names, "flow_model.mask"}
    assert criterion.flow_model.mask.tolist() == [[0, 1], [1, 0]] * 3
    state = copy.deepcopy(stirred(RLELoss()).state_dict())
    state["flow_model.loc"], state["flow_model.cov"] = torch.zeros(2), torch.eye(2)
    criterion.load_state_dict(state)
    state["flow_model.other"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="other"):
        criterion.load_state_dict(state)


def test_starts_near_the_standard_normal():
    points = torch.randn(50, 2)
    normal = torch.distributions.Normal(0, 1).log_prob(points).sum(-1)
    assert (RealNVP().log_prob(points) - normal).abs().mean() < 0.5


def test_the_flow_learns_the_shape_of_errors():
    """Errors that lie on a slanted line: the flow's density finds it, the start does not."""
    flow = RealNVP()
    optimiser = torch.optim.Adam(flow.parameters(), lr=5e-3)
    along = torch.randn(512, 1)
    errors = torch.cat((along, 0.8 * along), dim=1) + 0.1 * torch.randn(512, 2)
    first = -flow.log_prob(errors).mean()
    for _ in range(150):
        loss = -flow.log_prob(errors).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < first - 1.0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="distribution: expected 'laplace' or 'gaussian'"):
        RLELoss("cauchy")
    criterion = RLELoss()
    with pytest.raises(ValueError, match=r"outputs: expected \[B, K, 4\]"):
        criterion(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match=r"target: expected \[B, K, 2\] with B = 2, K = 3"):
        criterion(torch.zeros(2, 3, 4), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match=r"weight: expected \[B, K\] with B = 2, K = 3"):
        criterion(torch.zeros(2, 3, 4), torch.zeros(2, 3, 2), torch.zeros(2, 3, 1))

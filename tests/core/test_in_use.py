"""Several cycles in every call, for a while."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from cycledistill import CycleWrapper
from tests.core.zoo import VIT


def test_cycles_ends_and_nests() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))).double()
    cycled = CycleWrapper(model, 2).eval()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    one, two, three = (cycled(x, num_cycles=n) for n in (1, 2, 3))
    with cycled.cycles(2):
        assert torch.equal(model(x), two)
        assert torch.equal(cycled(x), two)
        assert torch.equal(cycled(x, num_cycles=1), one)
        with cycled.cycles(3):
            assert torch.equal(model(x), three)
            with cycled.cycles(1):
                assert torch.equal(model(x), one)
                assert torch.equal(cycled(x), one)
        assert torch.equal(cycled(x), two)
    assert torch.equal(model(x), one)
    assert "forward" not in vars(model)
    with pytest.raises(RuntimeError, match="eval mode"), cycled.train().cycles(2):
        pass


def test_copies_inside_of_cycles_are_of_their_own() -> None:
    """As of the best network so far; they run one cycle, like any other copy."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)))
    cycled = CycleWrapper(model, 2).eval()
    x = torch.randn(2, 3, 4)
    one, two = cycled(x), cycled(x, num_cycles=2)
    with cycled.cycles(1), cycled.cycles(2):
        copies = [copy.deepcopy(cycled), pickle.loads(pickle.dumps(cycled))]
        plain = copy.deepcopy(model)
    nn.init.zeros_(model[0][0].weight)  # type: ignore[index, arg-type]
    for each in copies:
        assert torch.equal(each(x), one)
        assert torch.equal(each(x, num_cycles=2), two)
    assert torch.equal(plain(x), one)


def test_methods_of_the_model_that_call_its_blocks() -> None:
    model = timm.models.VisionTransformer(**VIT).eval()
    cycled = CycleWrapper(model, 2).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = cycled.forward_cycles(images).tokens
        with cycled.cycles(2):
            features = cycled.forward_features(images)
        torch.testing.assert_close(features, model.norm(tokens[1]))
        torch.testing.assert_close(model.forward_features(images), model.norm(tokens[0]))

"""What the table of cycles says, against tokens and predictions that are worked out by hand."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from cycledistill import CycleWrapper
from cycledistill.inside import CycleTable, cycle_table, plot_cycle_table, token_changes

TARGET = torch.tensor([1.0, 3.0, 2.0, 0.5])


class Towards(nn.Module):
    """Moves every token half of the way to the same point."""

    def __init__(self):
        super().__init__()
        self.target = nn.Parameter(TARGET.clone())

    def forward(self, tokens):
        return tokens + 0.5 * (self.target - tokens)


class Settling(nn.Module):
    """Two such blocks; the logits are the mean token, so every sample ends in class 1."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Towards(), Towards()])

    def forward(self, tokens):
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.mean(1)


def by_hand(start, cycle):
    return TARGET.double() + 0.25**cycle * (start.double() - TARGET.double())


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    tokens = torch.randn(5, 3, 4)
    tokens[0] += torch.tensor([100.0, 0, 0, 0])  # its prediction stays 0 for three cycles
    tokens[1] += torch.tensor([0.0, 0, 9, 0])  # changes its mind in cycle 2
    return tokens


def test_changes_norms_and_angles_are_those_of_the_tokens(start):
    table = cycle_table(CycleWrapper(Settling()).eval(), start, num_cycles=4, settle=3)
    assert isinstance(table, CycleTable)
    tokens = torch.stack([by_hand(start, cycle) for cycle in range(1, 8)])
    change = (tokens[1:] - tokens[:-1]).norm(dim=-1) / tokens[:-1].norm(dim=-1)
    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(table.change.double(), change[:3], **close)
    torch.testing.assert_close(table.norm.double(), tokens[:4].norm(dim=-1).mean((1, 2)), **close)
    cosine = torch.cosine_similarity(tokens[:4], tokens[6:], dim=-1)
    expected = cosine.clamp(max=1).acos().rad2deg().mean((1, 2))
    torch.testing.assert_close(table.angle.double(), expected, rtol=1e-3, atol=1e-4)
    assert table.unsettled == pytest.approx(float(change[5].mean()), rel=1e-3)
    assert table.fixed_point == 7


def test_predictions_changes_of_mind_and_accuracy(start):
    labels = torch.tensor([0, 1, 1, 1, 2])
    table = cycle_table(CycleWrapper(Settling()).eval(), start, num_cycles=4, labels=labels)
    expected = torch.stack([by_hand(start, cycle).mean(1).argmax(-1) for cycle in range(1, 5)])
    assert expected[:, 0].tolist() == [0, 0, 1, 1] and expected[:, 1].tolist() == [2, 1, 1, 1]
    assert table.predictions.equal(expected)
    assert table.changed_mind.equal(expected[1:] != expected[:-1])
    right = (expected == labels).float().mean(1) * 100
    torch.testing.assert_close(table.accuracy, right)


def test_table_as_text(start):
    cycled = CycleWrapper(Settling()).eval()
    labels = torch.tensor([0, 1, 1, 1, 2])
    table = cycle_table(cycled, start, num_cycles=3, labels=labels)
    lines = str(table).splitlines()
    assert len(lines) == 5
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[1].split()[1:3] == ["-", "-"] and lines[1].split()[-1] == "-"
    second = lines[2].split()
    assert second[1] == f"{100 * table.change[0].mean():.2f}"
    assert second[2] == f"{100 * table.change[0].max():.2f}"
    assert second[3:5] == [f"{table.norm[1]:.3f}", f"{table.angle[1]:.3f}"]
    assert second[5:] == [f"{table.accuracy[1]:.2f}", f"{int(table.changed_mind[0].sum())}"]
    assert "degrees to cycle 19" in lines[0] and "change 0.00 % in cycle 19" in lines[4]
    without = cycle_table(cycled, start, num_cycles=3, predict=lambda logits: logits.argmin(1))
    assert "accuracy" not in str(without)
    assert without.predictions.equal(
        torch.stack([by_hand(start, n).mean(1).argmin(-1) for n in (1, 2, 3)])
    )


def test_changes_are_those_of_token_changes():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 4}
    cycled = CycleWrapper(timm.create_model("vit_tiny_patch16_224", **sizes)).eval()
    images = torch.randn(3, 3, 32, 32)
    table = cycle_table(cycled, images, num_cycles=3)
    assert table.change.equal(token_changes(cycled, images, num_cycles=3)["all tokens"])
    with torch.no_grad():
        for cycle, predicted in enumerate(table.predictions, 1):
            assert predicted.equal(cycled(images, num_cycles=cycle).argmax(1))
        settled = cycled.forward_cycles(images, num_cycles=19).tokens
    cosine = torch.cosine_similarity(settled[0], settled[-1], dim=-1)
    assert float(table.angle[0]) == pytest.approx(float(cosine.acos().rad2deg().mean()), abs=0.05)


def test_language_model_predicts_the_next_token():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=16, vocab_size=50, initializer_range=0.5
    )
    cycled = CycleWrapper(transformers.GPT2LMHeadModel(config)).eval()
    words = torch.randint(50, (4, 9))
    labels = torch.arange(4)
    table = cycle_table(cycled, input_ids=words, num_cycles=3, labels=labels, settle=2)
    with torch.no_grad():
        for cycle, predicted in enumerate(table.predictions, 1):
            logits = cycled(input_ids=words, num_cycles=cycle).logits
            assert predicted.equal(logits[:, -1].argmax(-1))
    assert table.change.shape == (2, 4, 9)


def test_tokens_with_batch_second_and_no_predictions():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16)  # tokens [T, B, D]
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    table = cycle_table(CycleWrapper(model).eval(), torch.randn(5, 3, 8), num_cycles=2)
    assert table.change.shape == (1, 3, 5)
    assert table.predictions is table.changed_mind is table.accuracy is None
    assert "prediction" not in str(table)
    assert len(plot_cycle_table(table).axes) == 2


def test_figure_marks_where_minds_change(start):
    labels = torch.tensor([0, 1, 1, 1, 2])
    table = cycle_table(CycleWrapper(Settling()).eval(), start, num_cycles=4, labels=labels)
    changes, angles, grid = plot_cycle_table(table).axes
    np.testing.assert_allclose(
        changes.lines[0].get_ydata(), 100 * table.change.mean((1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(angles.lines[0].get_ydata(), table.angle, rtol=1e-6)
    cells = grid.images[0].get_array()
    assert cells[:, 1:].astype(bool).tolist() == table.changed_mind.T.tolist()
    assert not cells[:, 0].any()
    texts = [text.get_text() for text in grid.texts]
    assert texts == [str(int(p)) for p in table.predictions.T.flatten()]
    count = int(table.changed_mind.any(0).sum())
    assert grid.get_title() == f"{count} of 5 samples change their mind"
    assert [tick.get_text() for tick in grid.get_yticklabels()] == ["0", "1", "2", "3", "4"]
    few = plot_cycle_table(table, max_samples=2).axes[2]
    undecided = table.changed_mind.any(0).nonzero().flatten()[:2].tolist()
    assert [tick.get_text() for tick in few.get_yticklabels()] == [str(i) for i in undecided]


def test_refusals(start):
    cycled = CycleWrapper(Settling()).eval()
    with pytest.raises(ValueError, match="num_cycles: found 1, expected 2 or more"):
        cycle_table(cycled, start, num_cycles=1)
    with pytest.raises(ValueError, match="settle: found 0, expected 1 or more"):
        cycle_table(cycled, start, num_cycles=2, settle=0)
    with pytest.raises(ValueError, match="found training mode"):
        cycle_table(CycleWrapper(Settling()), start, num_cycles=2)
    with pytest.raises(TypeError, match="expected a CycleWrapper"):
        cycle_table(Settling(), start, num_cycles=2)
    with pytest.raises(ValueError, match=r"labels: found shape \[2\], expected \[5\]"):
        cycle_table(cycled, start, num_cycles=2, labels=torch.zeros(2))
    with pytest.raises(ValueError, match=r"predict: found shape \[5, 4\], expected \[5\]"):
        cycle_table(cycled, start, num_cycles=2, predict=lambda logits: logits)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = CycleWrapper(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    with pytest.raises(ValueError, match=r"labels: .*expected logits .* got Tensor; .*predict="):
        cycle_table(encoder, torch.randn(2, 3, 8), num_cycles=2, labels=torch.zeros(2))
    with pytest.raises(ValueError, match="max_samples: found 0"):
        plot_cycle_table(cycle_table(cycled, start, num_cycles=2), max_samples=0)
    assert math.isfinite(cycle_table(cycled, start, num_cycles=2).unsettled)

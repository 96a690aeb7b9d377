"""The pictures show the numbers that they claim to show."""

import importlib
import importlib.util

import numpy as np
import pytest
import timm
import torch

import cycledistill.inside
from cycledistill import CycleWrapper
from cycledistill.inside import (
    AttentionMap,
    plot_attention_over_image,
    plot_token_changes,
    plot_weight_distributions,
    record_attention,
    token_changes,
)

IMAGE = np.full((32, 32, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def cycled():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=4)
    return CycleWrapper(model, num_cycles=2).eval()


@pytest.fixture(scope="module")
def maps(cycled):
    return record_attention(cycled, torch.randn(2, 3, 32, 32), num_cycles=2)


def heat(axes):
    """Which cells are covered (alpha) in the overlay of a panel."""
    return np.asarray(axes.images[1].get_array())


def test_overlay_covers_the_cells_that_the_token_attends_to(maps):
    figure = plot_attention_over_image(maps, IMAGE, 0, (2, 2), name="class", sample=1)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6
    assert [axes.get_title() for axes in panels[:3]] == ["layer 1", "layer 2", "layer 3"]
    assert [panels[row].get_ylabel() for row in (0, 3)] == ["cycle 1", "cycle 2"]
    assert figure.get_suptitle() == "Attention of the token class"
    top = max(float(found.weights[1].mean(0)[0, 1:].max()) for found in maps)
    for found, axes in zip(maps, panels, strict=True):
        expected = found.weights[1].mean(0)[0, 1:].reshape(2, 2).numpy()
        np.testing.assert_allclose(((heat(axes)[..., 3] - 0.15) / 0.7) ** 2 * top, expected, 1e-4)
        assert axes.get_xlabel() == f"{100 * expected.sum():.0f} % on the image"


def test_overlay_puts_tokens_where_they_stood_and_blackens_the_others():
    whole = AttentionMap(1, 1, torch.full((1, 1, 5, 5), 0.2))
    left = AttentionMap(1, 2, torch.tensor([0.1, 0.6, 0.3]).expand(1, 1, 3, 3))
    positions = [torch.arange(5)[None], torch.tensor([[0, 4, 2]])]
    figure = plot_attention_over_image([whole, left], IMAGE, 0, (2, 2), positions=positions)
    _, axes = (axes for axes in figure.axes if axes.images)
    shown = heat(axes)
    assert shown[1, 1, 3] > shown[0, 1, 3] > 0.15  # tokens 4 and 2: 0.6 and 0.3
    assert shown[0, 0].tolist() == shown[1, 0].tolist() == [0, 0, 0, 0.85]
    assert axes.get_xlabel() == "90 % on the image"
    with pytest.raises(ValueError, match="positions= must say which are left"):
        plot_attention_over_image([whole, left], IMAGE, 0, (2, 2))
    with pytest.raises(ValueError, match="found 1, expected a token that stays"):
        plot_attention_over_image([whole, left], IMAGE, 1, (2, 2), positions=positions)
    with pytest.raises(ValueError, match=r"positions: found 1, expected 2"):
        plot_attention_over_image([whole, left], IMAGE, 0, (2, 2), positions=positions[:1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"grid": (3, 2)}, "found 3 x 2 = 6 cells, expected at most the 5 tokens"),
        ({"sample": 2}, "sample: found 2, expected 0 to 1"),
        ({"token": 5}, "token: found 5"),
        ({"image": IMAGE[..., 0]}, r"image: found shape \[32, 32\], expected \[H, W, 3\]"),
        ({"maps": []}, "maps: found none"),
    ],
)
def test_overlay_refuses(maps, change, text):
    arguments = {"maps": maps, "image": IMAGE, "token": 0, "grid": (2, 2), **change}
    with pytest.raises(ValueError, match=text):
        plot_attention_over_image(**arguments)


def test_changes_are_those_of_the_tokens(cycled):
    images = torch.randn(2, 3, 32, 32)
    groups = {"class": slice(0, 1), "patch": slice(1, None)}
    changes = token_changes(cycled, images, num_cycles=3, groups=groups)
    with torch.no_grad():
        first, second, third = cycled.forward_cycles(images, num_cycles=3).tokens
    expected = torch.stack(
        [(second - first).norm(dim=-1) / first.norm(dim=-1),
         (third - second).norm(dim=-1) / second.norm(dim=-1)]
    )  # fmt: skip
    assert list(changes) == ["class", "patch"]
    torch.testing.assert_close(changes["class"], expected[:, :, :1])
    torch.testing.assert_close(changes["patch"], expected[:, :, 1:])
    (axes,) = plot_token_changes(changes).axes
    drawn = {bars.get_label(): bars.lines[0].get_ydata() for bars in axes.containers}
    np.testing.assert_allclose(drawn["patch"], 100 * expected[:, :, 1:].mean((1, 2)), 1e-5)
    assert axes.get_xlim() == (1.5, 3.5)


def test_changes_with_batch_second():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16)  # tokens [T, B, D]
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    changes = token_changes(CycleWrapper(model).eval(), torch.randn(5, 3, 8), num_cycles=2)
    assert {name: tuple(part.shape) for name, part in changes.items()} == {"all tokens": (1, 3, 5)}
    plot_token_changes(changes)  # one cycle alone


def test_changes_refuse(cycled):
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="num_cycles: found 1, expected 2 or more"):
        token_changes(cycled, images, num_cycles=1)
    with pytest.raises(TypeError, match="found VisionTransformer, expected a CycleWrapper"):
        token_changes(cycled.plain, images, num_cycles=2)
    with pytest.raises(ValueError, match=r"'x' is .* which is empty; the sequence has 5 tokens"):
        token_changes(cycled, images, num_cycles=2, groups={"x": slice(9, None)})
    with pytest.raises(ValueError, match="changes: found none"):
        plot_token_changes({})


def test_weights_count_the_share_near_zero():
    block = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    model = torch.nn.Sequential(block, torch.nn.Linear(2, 2))
    with torch.no_grad():
        block[0].weight.copy_(torch.tensor([[0.001, -0.002], [0.05, -0.1]]))
        block[0].bias.zero_()  # neither biases nor norms count
    figure = plot_weight_distributions({"plain": model}, layer=1, blocks=[block])
    (legend,) = figure.legends
    assert legend.get_texts()[1].get_text().startswith("plain: 50.0 % near 0, std 0.0")
    with pytest.raises(ValueError, match=r"layer: found 2, expected 1 to 1 \(the blocks of 'a'\)"):
        plot_weight_distributions({"a": model}, layer=2, blocks=[block])
    with pytest.raises(ValueError, match="near_zero: found 0"):
        plot_weight_distributions({"a": model}, layer=1, blocks=[block], near_zero=0)
    with pytest.raises(ValueError, match="models: found none"):
        plot_weight_distributions({}, layer=1)


def test_weights_of_a_wrapped_and_a_plain_model_side_by_side(cycled):
    figure = plot_weight_distributions({"plain": cycled.plain, "cycled": cycled}, layer=3)
    texts = [text.get_text() for text in figure.legends[0].get_texts()[1:]]
    assert texts[0].replace("plain", "cycled") == texts[1]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "cycledistill\[train\]"'):
        importlib.reload(cycledistill.inside)

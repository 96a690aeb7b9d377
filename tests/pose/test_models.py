"""The plain networks, their cycled forms and their sizes."""

from __future__ import annotations

import runpy

import pytest
import timm
import torch
from torch import Tensor, nn

from cycledistill_pose.losses import HeatmapMSELoss, RLELoss
from cycledistill_pose.models import (
    HRNet,
    StemNet,
    TokenPose,
    TokenPruning,
    create_model,
    create_sdpose,
    sdpose_loss,
)

CYCLES = {
    "sdpose_t": ("tokenpose_t", 3),
    "sdpose_s_v1": ("tokenpose_s_v1", 2),
    "sdpose_s_v2": ("tokenpose_s_v2", 2),
    "sdpose_b": ("tokenpose_b", 2),
    "sdpose_reg": ("tokenreg_s", 2),
    "sdpose_nano": ("tokenpose_nano", 2),
    "sdpose_reg_nano": ("tokenreg_nano", 2),
}


def small(**options: object) -> TokenPose:
    arguments: dict[str, object] = {
        "num_keypoints": 5,
        "input_size": (32, 48),
        "heatmap_size": (8, 12),
        "dim": 16,
        "depth": 3,
        "num_heads": 4,
        "patch_size": (2, 2),
        "backbone": StemNet(width=4, num_blocks=1),
    }
    return TokenPose(**{**arguments, **options})  # type: ignore[arg-type]


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# Sizes.


def test_hrnet_w32_as_published_is_the_larger_one() -> None:
    assert trainable(TokenPose(backbone=HRNet())) == 13_465_216


@pytest.mark.slow
def test_sizes_are_those_of_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters, and MACs without and with the attention's products, as the command shows them."""
    runpy.run_module("benchmarks.model_sizes", run_name="__main__")
    printed = capsys.readouterr().out
    for line in (
        "| SDPose-T | 4.4 | 4,398,528 | 1.8 | 1.78 | 1.95 |",
        "| SDPose-S-V1 | 6.6 | 6,620,736 | 2.4 | 2.38 | 2.73 |",
        "| SDPose-S-V1 + PPT | 6.6 | 6,620,736 | 2.0 | 1.99 | 2.19 |",
        "| SDPose-S-V2 | 6.2 | 6,227,520 | 4.7 | 4.65 | 7.49 |",
        "| SDPose-B | 13.2 | 13,145,984 | 5.2 | 5.13 | 5.47 |",
        "| SDPose-Reg | 5.4 | 5,363,908 | 2.4 | 2.36 | 2.70 |",
    ):
        assert line in printed


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "shape"), [("tokenpose_nano", (14, 32, 24)), ("tokenreg_nano", (14, 4))]
)
def test_heatmaps_and_coordinates(name: str, shape: tuple[int, ...]) -> None:
    predicted = create_model(name, num_keypoints=14).eval()(torch.randn(2, 3, 128, 96))
    assert predicted.shape == (2, *shape) and predicted.isfinite().all()


# The networks.


@torch.no_grad()
def test_another_size() -> None:
    model = create_model("tokenpose_t", input_size=(288, 384), heatmap_size=(72, 96), depth=1)
    assert model.eval()(torch.randn(1, 3, 384, 288)).shape == (1, 17, 96, 72)


def test_head_has_a_hidden_layer_where_it_is_twice_as_wide_as_the_tokens() -> None:
    def widths(model: TokenPose) -> list[int]:
        return [part.out_features for part in model.head if isinstance(part, nn.Linear)]

    assert widths(TokenPose(depth=1)) == [384, 3072]  # 64 * 48 / 8 = 2 * 192
    assert widths(TokenPose(depth=1, dim=200)) == [3072]
    assert widths(small(head_hidden_dim=40)) == [40, 96]
    assert [type(part) for part in small().head] == [nn.LayerNorm, nn.Linear]


def test_position_is_a_buffer_unless_learned() -> None:
    fixed, learned = small(), small(position_embedding="learnable")
    assert "position" in dict(fixed.named_buffers())
    assert "position" in dict(learned.named_parameters())
    assert learned.position.shape == (1, 29, 16)


def test_initial_weights() -> None:
    model = create_model("tokenpose_t")
    for part in model.backbone.modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 4000:
            assert part.weight.std().item() == pytest.approx(1e-3, rel=0.1)
        if isinstance(part, nn.BatchNorm2d):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert part.momentum == 0.1
    for name in (
        "keypoint_tokens",
        "patch_embed.weight",
        "blocks.5.attn.qkv.weight",
        "head.3.weight",
    ):
        value = model.state_dict()[name]
        assert value.std().item() == pytest.approx(0.02, rel=0.05)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(value, torch.zeros_like(value)), name


def test_building_a_model_leaves_the_backbone_as_it_was() -> None:
    backbone = StemNet(width=4, num_blocks=1)
    backbone.bn1.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    small(backbone=backbone)
    assert backbone.training and backbone.bn2.training and not backbone.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


# Backbones.


@torch.no_grad()
def test_timm_backbones() -> None:
    resnet = timm.create_model("resnet18", features_only=True, pretrained=False)
    images = torch.randn(1, 3, 64, 48)
    model = TokenPose(
        3, (48, 64), (12, 16), dim=16, depth=1, num_heads=2, patch_size=(4, 3), backbone=resnet
    ).eval()
    assert model(images).shape == (1, 3, 16, 12)
    assert model.patch_embed.in_features == 64 * 12  # the map of stride 4
    model = TokenPose(
        3,
        (48, 64),
        (12, 16),
        dim=16,
        depth=1,
        num_heads=2,
        patch_size=(2, 3),
        backbone=resnet,
        feature_index=-3,
    ).eval()
    assert model(images).shape == (1, 3, 16, 12)
    assert model.patch_embed.in_features == 128 * 6  # the map of stride 8
    with pytest.raises(
        ValueError, match=r"0 of the backbone's outputs are 13 wide and 16 high.*64, 16, 12"
    ):
        TokenPose(3, (48, 64), (13, 16), dim=16, depth=1, num_heads=2, backbone=resnet)
    with pytest.raises(ValueError, match="feature_index=9 is not one"):
        TokenPose(3, (48, 64), (12, 16), dim=16, depth=1, backbone=resnet, feature_index=9)


class Named(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        half = images[:, :, ::2, ::2]
        return {"half": half, "quarter": half[:, :, ::2, ::2], "flat": images.flatten(1)}


def test_backbone_with_named_outputs() -> None:
    assert small(backbone=Named()).patch_embed.in_features == 12
    assert small(backbone=Named(), feature_index="half")(torch.randn(2, 3, 48, 32)).ndim == 4
    with pytest.raises(ValueError, match=r"expected a feature map \[B, C, H, W\], got \[1, 4608\]"):
        small(backbone=Named(), feature_index="flat")
    with pytest.raises(ValueError, match="expected it to return a tensor"):
        small(backbone=Strange())
    with pytest.raises(ValueError, match="feature_index=2 is not one"):
        small(feature_index=2)


class Strange(nn.Module):
    def forward(self, images: Tensor) -> str:
        return "features"


def test_a_backbone_with_blocks_of_its_own_does_not_confuse_the_cycles() -> None:
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(48, 32),
        patch_size=4,
        depth=6,
        features_only=True,
        out_indices=[5],
        pretrained=False,
    )
    cycled = create_sdpose(
        "sdpose_nano", input_size=(32, 48), heatmap_size=(8, 12), patch_size=(2, 2), backbone=vit
    )
    out = cycled(torch.randn(2, 3, 48, 32))
    assert out.tokens[1].shape == (2, 17 + 24, 96)


@pytest.fixture(scope="module")
def hrnet_w32() -> nn.Module:
    return timm.create_model("hrnet_w32", pretrained=False).eval()


def test_imagenet_weights(hrnet_w32: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def create(name: str, **options: object) -> nn.Module:
        asked.append({"name": name, **options})
        return hrnet_w32

    monkeypatch.setattr(timm, "create_model", create)
    weights = hrnet_w32.state_dict()
    whole = HRNet(pretrained=True).state_dict()
    assert asked == [{"name": "hrnet_w32", "pretrained": True}]
    assert all(torch.equal(value, weights[name]) for name, value in whole.items())
    with pytest.warns(UserWarning, match=r"of \d+ tensors of HRNet have another shape"):
        narrow = create_model("tokenpose_b", pretrained=True).backbone.state_dict()
    fitting = [name for name, value in narrow.items() if value.shape == weights[name].shape]
    assert all(torch.equal(narrow[name], weights[name]) for name in fitting)
    others = set(narrow) - set(fitting)
    assert others and all(name.startswith(("layer1.", "transition1.")) for name in others)
    with pytest.raises(ValueError, match="no ImageNet weights for width=20"):
        HRNet(width=20, pretrained=True)


@torch.no_grad()
def test_hrnet_is_timms(hrnet_w32: nn.Module) -> None:
    """The first branch behind stage 3 of timm's own HRNet, with the same weights."""
    theirs, ours = hrnet_w32, HRNet().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    own = ours.state_dict().keys()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in own})
    seen: list[list[Tensor]] = []
    theirs.stage3.register_forward_hook(lambda _, args, out: seen.append(out))
    images = torch.randn(1, 3, 64, 96)
    theirs(images)
    torch.testing.assert_close(ours(images), seen[0][0], rtol=1e-5, atol=1e-5)


# Users' mistakes.


def test_bad_arguments() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"patch_size": (5, 2)}, r"patch_size \(height, width\) = \(5, 2\) does not divide"),
        ({"dim": 18, "num_heads": 3}, "dim divisible by 4, got dim=18"),
        ({"dim": 16, "num_heads": 3}, "dim=16 is not divisible by num_heads=3"),
        ({"position_embedding": "cosine"}, "'sine-full', 'sine' or 'learnable', got 'cosine'"),
        ({"num_keypoints": 0}, "num_keypoints: expected a whole number of 1 or more, got 0"),
        ({"depth": 0}, "depth: expected"),
        ({"input_size": 48}, "input_size: expected two integers, got 48"),
        ({"heatmap_size": (8, 12, 3)}, "heatmap_size: expected two integers"),
        ({"mlp_ratio": 0}, "mlp_ratio: expected a positive number"),
        ({"pruning": TokenPruning(blocks=(3,))}, "names block 3, but depth=3"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            small(**options)
    with pytest.raises(ValueError, match=r"images: .* H = 48, W = 32, got \[2, 3, 32, 48\]"):
        small()(torch.randn(2, 3, 32, 48))
    with pytest.raises(ValueError, match=r"got \[3, 48, 32\]"):
        small()(torch.randn(3, 48, 32))
    with pytest.raises(ValueError, match="width: expected a whole number"):
        StemNet(width=0)
    with pytest.raises(ValueError, match="stage1_width: expected a whole number"):
        HRNet(stage1_width=0)
    with pytest.raises(ValueError, match="sides are divisible by 16, got 200 x 264 px"):
        create_model("tokenpose_b", input_size=(200, 264), heatmap_size=(50, 66))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"expected 'tokenpose_t', .* or 'tokenreg_nano', got 'tokenpose_x'"
    ):
        create_model("tokenpose_x")
    with pytest.raises(
        ValueError, match=r"expected 'sdpose_t', .* or 'sdpose_reg_nano', got 'sdpose_x'"
    ):
        create_sdpose("sdpose_x")
    with pytest.raises(ValueError, match="tokenpose_t has no ImageNet weights"):
        create_model("tokenpose_t", pretrained=True)
    with pytest.raises(ValueError, match="backbone= was given"):
        create_model("tokenpose_b", pretrained=True, backbone=StemNet())


# Cycled.


@pytest.mark.parametrize("name", CYCLES)
def test_sdpose_has_the_cycles_of_the_paper(name: str) -> None:
    cycled = create_sdpose(name, num_keypoints=3)
    network, cycles = CYCLES[name]
    assert cycled.num_cycles == cycles
    wanted = create_model(network, num_keypoints=3).state_dict()
    assert {k: v.shape for k, v in cycled.state_dict().items()} == {
        k: v.shape for k, v in wanted.items()
    }


def test_loss_defaults() -> None:
    criterion = sdpose_loss(14)
    assert criterion.token_groups == {"keypoint": slice(0, 14), "visual": slice(14, None)}
    assert isinstance(criterion.task_loss, HeatmapMSELoss) and not criterion.detach_teacher
    regression = create_sdpose("sdpose_reg_nano", num_keypoints=3)
    criterion = sdpose_loss(regression)
    assert isinstance(criterion.task_loss, RLELoss)
    losses = criterion(
        regression(torch.randn(2, 3, 128, 96)), torch.rand(2, 3, 2), torch.ones(2, 3)
    )
    losses.total.backward()
    assert losses.task.shape == (2,) and losses.tokens["visual"].shape == (1,)
    weights = {"keypoint": 0.25, "visual": 4.0}
    criterion = sdpose_loss(regression, token_weight=weights, detach_teacher=True)
    assert criterion.detach_teacher
    found = criterion(regression(torch.randn(2, 3, 128, 96)), torch.rand(2, 3, 2))
    distances = sum(weight * found.tokens[name].sum() for name, weight in weights.items())
    torch.testing.assert_close(found.total, found.task.sum() + distances)
    l1 = nn.L1Loss()
    assert sdpose_loss(regression.plain, l1, task_cycles="last").task_loss is l1
    with pytest.raises(TypeError, match="got Linear"):
        sdpose_loss(nn.Linear(2, 2))


@pytest.mark.slow
def test_nano_learns() -> None:
    """Two cycles fit the heatmaps of eight pictures of one bright dot each."""
    cycled = create_sdpose("sdpose_nano", 1, input_size=(48, 64), heatmap_size=(12, 16))
    criterion = sdpose_loss(cycled)
    rows, columns = torch.randint(2, 14, (8,)), torch.randint(2, 10, (8,))
    y, x = torch.arange(16.0)[:, None], torch.arange(12.0)[None, :]
    distance = (y - rows[:, None, None]) ** 2 + (x - columns[:, None, None]) ** 2
    target = torch.exp(-distance / 2)[:, None]
    images = nn.functional.interpolate(target, scale_factor=4.0).expand(-1, 3, -1, -1) * 3
    optimizer = torch.optim.Adam(cycled.parameters(), lr=1e-3)

    def mean_error() -> float:
        cycled.eval()
        with torch.no_grad():
            peaks = cycled(images).flatten(2).argmax(2).flatten()
        cycled.train()
        return ((peaks // 12 - rows).abs() + (peaks % 12 - columns).abs()).float().mean().item()

    assert mean_error() > 4
    for _ in range(160):
        losses = criterion(cycled(images), target, torch.ones(8, 1))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert mean_error() < 1

"""Weights of the reference layouts, and parity with an independent network of those names."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill_pose.checkpoints import load_reference_checkpoint, to_reference_state_dict
from cycledistill_pose.models import HRNet, TokenPose, TokenReg, create_model, create_sdpose

# The reference network, written from its description alone: modules carry the names of the
# released checkpoints, and every step is a plain einsum, matrix product or convolution.


class Box(nn.Module):
    """Children under the given names."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def conv_bn(inner: int, outer: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outer)
    )


class RefBottleneck(nn.Module):
    def __init__(self, inner: int, planes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inner, planes, 1)
        self.conv2, self.bn2 = conv_bn(planes, planes, 3)
        self.conv3, self.bn3 = conv_bn(planes, 4 * planes, 1)
        if inner != 4 * planes:
            self.downsample = conv_bn(inner, 4 * planes, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class RefBasic(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, 3)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class RefStem(nn.Module):
    def __init__(self, planes: int = 64, first: int = 64, count: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, first, 3, 2)
        self.conv2, self.bn2 = conv_bn(first, first, 3, 2)
        blocks = [RefBottleneck(first if i == 0 else 4 * planes, planes) for i in range(count)]
        self.layer1 = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.layer1(torch.relu(self.bn2(self.conv2(x))))


class RefFusion(nn.Module):
    def __init__(self, channels: list[int], outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[RefBasic(c) for _ in range(4)]) for c in channels
        )
        self.fuse_layers = nn.ModuleList()
        for i in range(outputs):
            row = nn.ModuleList()
            for j in range(len(channels)):
                if j > i:
                    row.append(conv_bn(channels[j], channels[i], 1))
                elif j == i:
                    row.append(nn.Identity())
                else:
                    steps = [conv_bn(channels[j], channels[j], 3, 2) for _ in range(i - j - 1)]
                    row.append(nn.Sequential(*steps, conv_bn(channels[j], channels[i], 3, 2)))
            self.fuse_layers.append(row)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            total = torch.zeros_like(maps[i])
            for j, layer in enumerate(row):
                y = maps[j]
                if j > i:
                    y = (
                        layer(y)
                        .repeat_interleave(2 ** (j - i), 2)
                        .repeat_interleave(2 ** (j - i), 3)
                    )
                elif j < i:
                    for step, part in enumerate(layer):
                        y = part(y) if step == len(layer) - 1 else torch.relu(part(y))
                total = total + y
            fused.append(torch.relu(total))
        return fused


class RefHRNet(RefStem):
    def __init__(self, planes: int) -> None:
        super().__init__(planes)
        stem = 4 * planes
        self.transition1 = nn.ModuleList(
            [conv_bn(stem, 32, 3), nn.Sequential(conv_bn(stem, 64, 3, 2))]
        )
        self.stage2 = nn.Sequential(RefFusion([32, 64], 2))
        self.transition2 = nn.ModuleList(
            [nn.Identity(), nn.Identity(), nn.Sequential(conv_bn(64, 128, 3, 2))]
        )
        self.stage3 = nn.Sequential(
            *[RefFusion([32, 64, 128], 3 if i < 3 else 1) for i in range(4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        maps = self.stage2([torch.relu(t(x)) for t in self.transition1])
        maps = self.stage3([*maps, torch.relu(self.transition2[2](maps[-1]))])
        return maps[0]


def sine_table(rows: int, columns: int, dim: int) -> Tensor:
    """The position embedding, number by number."""
    half = dim // 2
    table = torch.zeros(1, rows * columns, dim, dtype=torch.float64)
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        for half_start, place, last in ((0, row + 1, rows), (half, column + 1, columns)):
            angle = place / (last + 1e-6) * 2 * math.pi
            for i in range(half):
                phase = angle / 10000 ** (2 * (i // 2) / half)
                table[0, cell, half_start + i] = math.cos(phase) if i % 2 else math.sin(phase)
    return table.float()


class RefHead(nn.Module):
    """Tokens, cycles and heatmaps (or coordinates)."""

    def __init__(
        self,
        channels: int,
        patch: tuple[int, int],
        depth: int,
        stack_name: str,
        outputs: int,
        hidden: int | None,
        grid: tuple[int, int] = (16, 16),
        dim: int = 192,
        heads: int = 8,
        num_keypoints: int = 17,
        scale: float | None = None,
        kind: str = "sine-full",
    ) -> None:
        super().__init__()
        self.patch, self.heads, self.stack_name, self.kind = patch, heads, stack_name, kind
        self.scale = (dim / heads) ** -0.5 if scale is None else scale
        num_cells = grid[0] * grid[1]
        self.keypoint_token = nn.Parameter(torch.randn(1, num_keypoints, dim))
        if kind == "learnable":
            self.pos_embedding = nn.Parameter(torch.randn(1, num_keypoints + num_cells, dim))
        else:
            self.pos_embedding = nn.Parameter(sine_table(*grid, dim), requires_grad=False)
        self.patch_to_embedding = nn.Linear(channels * patch[0] * patch[1], dim)
        layers = nn.ModuleList()
        for _ in range(depth):
            attention = Box(
                to_qkv=nn.Linear(dim, 3 * dim, bias=False),
                to_out=nn.Sequential(nn.Linear(dim, dim)),
            )
            mlp = Box(
                net=nn.Sequential(
                    nn.Linear(dim, 3 * dim), nn.GELU(), nn.Identity(), nn.Linear(3 * dim, dim)
                )
            )
            layers.append(
                nn.ModuleList(
                    [
                        Box(fn=Box(norm=nn.LayerNorm(dim), fn=attention)),
                        Box(fn=Box(norm=nn.LayerNorm(dim), fn=mlp)),
                    ]
                )
            )
        self.add_module(stack_name, Box(layers=layers))
        if hidden is None:
            self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, outputs))
        else:
            self.mlp_head = nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, hidden),
                nn.LayerNorm(hidden),
                nn.Linear(hidden, outputs),
            )

    def forward(self, features: Tensor, num_cycles: int) -> tuple[list[Tensor], list[Tensor]]:
        batch, _, height, width = features.shape
        ph, pw = self.patch
        cells = []
        for top in range(0, height, ph):
            for left in range(0, width, pw):
                cell = features[:, :, top : top + ph, left : left + pw]
                cells.append(cell.permute(0, 2, 3, 1).reshape(batch, -1))
        visual = self.patch_to_embedding(torch.stack(cells, 1))
        keypoints = self.keypoint_token.expand(batch, -1, -1)
        count = keypoints.shape[1]
        if self.kind == "learnable":
            x = torch.cat([keypoints, visual], 1) + self.pos_embedding
        else:
            x = torch.cat([keypoints, visual + self.pos_embedding], 1)
        tokens, predictions = [], []
        for _ in range(num_cycles):
            for index, (attention, mlp) in enumerate(getattr(self, self.stack_name).layers):
                if index and self.kind == "sine-full":
                    x = torch.cat([x[:, :count], x[:, count:] + self.pos_embedding], 1)
                x = x + self.attend(attention.fn.norm(x), attention.fn.fn)
                first, _, _, second = mlp.fn.fn.net
                hidden = first(mlp.fn.norm(x))
                x = x + second(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
            tokens.append(x)
            predictions.append(self.mlp_head(x[:, :count]))
        return tokens, predictions

    def attend(self, x: Tensor, layer: nn.Module) -> Tensor:
        batch, length, dim = x.shape
        qkv = torch.einsum("btd,ed->bte", x, layer.to_qkv.weight)
        q, k, v = (part.reshape(batch, length, self.heads, -1) for part in qkv.split(dim, -1))
        weights = (torch.einsum("bihd,bjhd->bhij", q, k) * self.scale).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        return layer.to_out[0](
            torch.einsum("bhij,bjhd->bihd", weights, v).reshape(batch, length, dim)
        )


class RefModel(nn.Module):
    def __init__(self, head_name: str, backbone: nn.Module, head: RefHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.keypoint_head = Box(**{head_name: head})
        self.head_name = head_name

    def forward(self, images: Tensor, num_cycles: int) -> tuple[list[Tensor], list[Tensor]]:
        return getattr(self.keypoint_head, self.head_name)(self.backbone(images), num_cycles)


def lively(model: nn.Module) -> nn.Module:
    """Weights of a size at which every term of the network tells in its output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def reference(name: str) -> RefModel:
    """The reference network of one of our model names."""
    patch = (2, 2) if name == "tokenpose_s_v2" else (4, 3)
    grid = (32, 24) if name == "tokenpose_s_v2" else (16, 16)
    depth = 6 if name == "tokenpose_t" else 12
    if name == "tokenreg_s":
        head = RefHead(256, patch, depth, "transformer", 4, None, grid)
        return lively(RefModel("tokenhead", RefStem(), head))
    channels, backbone = (32, RefHRNet(32)) if name == "tokenpose_b" else (256, RefStem())
    head = RefHead(channels, patch, depth, "transformer_layer1", 64 * 48, 64 * 48 // 8, grid)
    return lively(RefModel("tokenpose", backbone, head))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


SDPOSE = {
    "tokenpose_t": "sdpose_t",
    "tokenpose_s_v1": "sdpose_s_v1",
    "tokenpose_s_v2": "sdpose_s_v2",
    "tokenpose_b": "sdpose_b",
    "tokenreg_s": "sdpose_reg",
}


@pytest.mark.parametrize("name", SDPOSE)
def test_every_cycle_agrees_with_the_reference(name: str) -> None:
    theirs = reference(name)
    cycled = create_sdpose(SDPOSE[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the sine embedding must be the reference's
        report = load_reference_checkpoint(cycled, {"state_dict": theirs.state_dict(), "meta": {}})
    assert len(report.loaded) == len(cycled.plain.state_dict()) and not report.kept
    images = torch.randn(1, 3, 256, 192)
    cycled.eval()
    with torch.no_grad():
        tokens, predictions = theirs(images, 3)
        out = cycled.forward_cycles(images, num_cycles=3)
        plain = cycled(images)
    for cycle in range(3):
        assert relative_error(out.tokens[cycle], tokens[cycle]) < 1e-5
        prediction = out.predictions[cycle].flatten(2)
        assert relative_error(prediction, predictions[cycle]) < 1e-5
    assert relative_error(tokens[1], tokens[0]) > 0.01  # the cycles differ, so this tells something
    assert relative_error(plain.flatten(2), predictions[0]) < 1e-5


@pytest.mark.parametrize("kind", ["sine-full", "sine", "learnable"])
def test_position_embeddings_agree_with_the_reference(kind: str) -> None:
    head = RefHead(16, (2, 4), 3, "transformer", 24 * 16, None, (6, 2), 16, 4, 5, kind=kind)
    theirs = lively(RefModel("tokenpose", RefStem(4, 4, 1), head))
    ours = TokenPose(
        5,
        (32, 48),
        (16, 24),
        dim=16,
        depth=3,
        num_heads=4,
        patch_size=(2, 4),
        position_embedding=kind,
        backbone=small_stem(),
        head_hidden_dim=8,
    ).eval()
    load_reference_checkpoint(ours, theirs.state_dict())
    images = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        tokens, predictions = theirs(images, 2)
        out = CycleWrapper(ours).forward_cycles(images, num_cycles=2)
    for cycle in range(2):
        assert relative_error(out.tokens[cycle], tokens[cycle]) < 1e-5
        assert relative_error(out.predictions[cycle].flatten(2), predictions[cycle]) < 1e-5


def small_stem() -> nn.Module:
    from cycledistill_pose.models import StemNet

    return StemNet(width=4, num_blocks=1)


def test_tokenpose_s_of_its_own_authors() -> None:
    """Backbone and head stand side by side under `features`; attention scales by dim**-0.5."""
    head = RefHead(256, (4, 3), 2, "transformer", 3072, 384, scale=192**-0.5)
    stem = RefStem()
    lively(stem), lively(head)
    state = {f"features.{k}": v for part in (stem, head) for k, v in part.state_dict().items()}
    ours = TokenPose(depth=2).eval()
    load_reference_checkpoint(ours, {f"module.{k}": v for k, v in state.items()})
    images = torch.randn(1, 3, 256, 192)
    with torch.no_grad():
        _, predictions = head(stem(images), 1)
        assert relative_error(ours(images).flatten(2), predictions[0]) < 1e-5
    back = to_reference_state_dict(ours, "tokenpose-s-original")
    assert back.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(back[key], value, rtol=1e-6, atol=1e-7)


def test_tokenpose_b_of_its_own_authors() -> None:
    """HRNet with 64 channels in stage 1 under `pre_feature`, the rest under `transformer`."""
    head = RefHead(32, (4, 3), 1, "transformer", 3072, 384)
    hrnet = RefHRNet(64)
    lively(hrnet), lively(head)
    state = {f"pre_feature.{k}": v for k, v in hrnet.state_dict().items()}
    state |= {f"transformer.{k}": v for k, v in head.state_dict().items()}
    ours = TokenPose(depth=1, backbone=HRNet(stage1_width=64)).eval()
    load_reference_checkpoint(ours, state)
    images = torch.randn(1, 3, 256, 192)
    with torch.no_grad():
        _, predictions = head(hrnet(images), 1)
        assert relative_error(ours(images).flatten(2), predictions[0]) < 1e-5
    with pytest.raises(ValueError, match=r"pre_feature.layer1.0.conv1.weight \[64, 64, 1, 1\]"):
        load_reference_checkpoint(TokenPose(depth=1, backbone=HRNet(stage1_width=32)), state)


# Reading, writing and refusing.


def nano(**options: object) -> TokenPose:
    model = create_model("tokenpose_nano", **options)
    assert isinstance(model, TokenPose)
    return model


@pytest.mark.parametrize(
    "layout", ["sdpose", "tokenpose", "tokenpose-b-original", "tokenpose-s-original"]
)
def test_round_trip(layout: str) -> None:
    source, target = lively(nano()), nano()
    state = to_reference_state_dict(CycleWrapper(source), layout)
    load_reference_checkpoint(target, state)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_exported_names_are_those_of_the_reference() -> None:
    for name in ("tokenpose_t", "tokenpose_b", "tokenreg_s"):
        layout = "tokenpose" if name == "tokenreg_s" else "sdpose"
        exported = to_reference_state_dict(create_model(name), layout)
        wanted = reference(name).state_dict()
        assert {k: v.shape for k, v in exported.items()} == {k: v.shape for k, v in wanted.items()}


def test_reads_files(tmp_path: Path) -> None:
    source = lively(nano())
    state = to_reference_state_dict(source)
    torch.save({"meta": {"epoch": 300}, "state_dict": state}, tmp_path / "a.pth")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "b.safetensors")
    for path in (tmp_path / "a.pth", str(tmp_path / "b.safetensors")):
        target = nano()
        load_reference_checkpoint(target, path)
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_reads_files_with_the_best_score_in_them(tmp_path: Path, module: bytes) -> None:
    """Training tools save NumPy's numbers too; NumPy 2 renamed the module that makes them."""
    state = to_reference_state_dict(nano())
    best = {"score": np.float64(0.7), "loss": np.float32(0.1), "epoch": np.int64(290)}
    content = {"meta": {"hook_msgs": best}, "state_dict": state}
    torch.save(content, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "new.pth").read_bytes()
    name = re.search(rb"cnumpy\.(_core|core)\.multiarray\nscalar", whole)
    assert name is not None
    (tmp_path / "a.pth").write_bytes(whole.replace(name[0], b"c" + module + b"\nscalar"))
    report = load_reference_checkpoint(nano(), tmp_path / "a.pth")
    assert len(report.loaded) == len(state)


def test_bad_files(tmp_path: Path) -> None:
    model = nano()
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_reference_checkpoint(model, tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="is not a file"):
        load_reference_checkpoint(model, tmp_path)
    torch.save({"state_dict": to_reference_state_dict(model)}, tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.pth").write_bytes(b"noise" * 100)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_bytes(b"hello")  # torch.load raises a KeyError
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "pickled.pth")
    broken = ("cut.pth", "noise.pth", "empty.pth", "text.pth", "noise.safetensors", "pickled.pth")
    for name in broken:
        with pytest.raises(ValueError, match=name):
            load_reference_checkpoint(model, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no state dict, but a list"):
        load_reference_checkpoint(model, tmp_path / "list.pth")
    with pytest.raises(ValueError, match="'epoch' is a int"):
        load_reference_checkpoint(model, {"epoch": 3, **to_reference_state_dict(model)})
    with pytest.raises(ValueError, match="not a checkpoint of SDPose"):
        load_reference_checkpoint(model, nn.Linear(2, 2).state_dict())
    with pytest.raises(TypeError, match="got Linear"):
        load_reference_checkpoint(nn.Linear(2, 2), to_reference_state_dict(model))
    with pytest.raises(ValueError, match="layout: expected 'sdpose', "):
        to_reference_state_dict(model, "other")


def test_unmatched_names_are_listed_and_nothing_changes() -> None:
    model = nano()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = to_reference_state_dict(lively(nano()))
    prefix = "keypoint_head.tokenpose."
    removed = f"{prefix}transformer_layer1.layers.2.0.fn.fn.to_out.0.bias"
    del state[removed]
    state["backbone.extra.weight"] = torch.zeros(3)
    state[f"{prefix}patch_to_embedding.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as error:
        load_reference_checkpoint(model, state, allow_head_mismatch=True)
    text = str(error.value)
    assert f"1 missing in the checkpoint:\n    {removed}" in text
    assert "1 without a place in the model:\n    backbone.extra.weight" in text
    assert f"{prefix}patch_to_embedding.bias [7], wanted [96]" in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"missing in the checkpoint:\n.*layers\.4\.0"):
        load_reference_checkpoint(nano(depth=5), to_reference_state_dict(nano()))
    with pytest.raises(ValueError, match=r"without a place in the model:\n.*layers\.3\.0"):
        load_reference_checkpoint(nano(depth=3), to_reference_state_dict(nano()))


@pytest.mark.parametrize("kind", ["sine-full", "learnable"])
def test_another_number_of_keypoints(kind: str) -> None:
    source = lively(nano(position_embedding=kind))
    model = nano(num_keypoints=5, position_embedding=kind)
    state = to_reference_state_dict(source)
    with pytest.raises(ValueError, match="it has 17 keypoints, the model has 5"):
        load_reference_checkpoint(model, state)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_reference_checkpoint(model, state, allow_head_mismatch=True)
    assert report.kept == ("keypoint_tokens",)
    now, theirs = model.state_dict(), source.state_dict()
    assert torch.equal(now["keypoint_tokens"], own["keypoint_tokens"])
    assert torch.equal(now["head.1.weight"], theirs["head.1.weight"])  # shared by all keypoints
    if kind == "learnable":
        assert torch.equal(now["position"][:, :5], own["position"][:, :5])
        assert torch.equal(now["position"][:, 5:], theirs["position"][:, 17:])


def test_another_kind_of_head() -> None:
    source = lively(nano())
    model = create_model("tokenreg_nano")
    own = {name: value.clone() for name, value in model.state_dict().items()}
    state = to_reference_state_dict(source)
    with pytest.raises(ValueError, match=r"mlp_head\.1\.weight \[768, 96\], wanted \[4, 96\]"):
        load_reference_checkpoint(model, state)
    report = load_reference_checkpoint(model, state, allow_head_mismatch=True)
    heads = ("head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias")
    assert report.kept == heads
    now = model.state_dict()
    assert all(torch.equal(now[name], own[name]) for name in heads)
    assert torch.equal(
        now["blocks.3.mlp.fc2.weight"], source.state_dict()["blocks.3.mlp.fc2.weight"]
    )


def test_distilpose_has_five_outputs() -> None:
    head = RefHead(256, (4, 3), 12, "transformer", 5, None)
    theirs = lively(RefModel("tokenhead", RefStem(), head)).state_dict()
    model = create_model("tokenreg_s").eval()
    with pytest.raises(ValueError, match=r"mlp_head\.1\.bias \[5\], wanted \[4\]"):
        load_reference_checkpoint(model, theirs)
    assert isinstance(model, TokenReg)
    load_reference_checkpoint(model, theirs, allow_head_mismatch=True)
    assert torch.equal(model.keypoint_tokens, head.keypoint_token)


def test_loss_parameters_in_a_checkpoint_are_reported() -> None:
    model = create_model("tokenreg_nano")
    state = to_reference_state_dict(model, "tokenpose")
    state["keypoint_head.kpt_loss.flow_model.prior.mean"] = torch.zeros(2)
    report = load_reference_checkpoint(model, state)
    assert report.ignored == ("keypoint_head.kpt_loss.flow_model.prior.mean",)


def test_position_embedding_of_the_checkpoint_counts() -> None:
    model = nano()
    state = to_reference_state_dict(model)
    key = "keypoint_head.tokenpose.pos_embedding"
    assert state[key].shape == (1, 64, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_reference_checkpoint(model, state)
    state[key] = state[key] + 0.5
    with pytest.warns(UserWarning, match=r"differs .* by up to 0\.5; the checkpoint's is used"):
        load_reference_checkpoint(model, state)
    assert torch.equal(model.position, state[key])
    state[key] = torch.zeros(1, 60, 96)
    with pytest.raises(ValueError, match=r"pos_embedding \[1, 60, 96\], wanted \[1, 64, 96\]"):
        load_reference_checkpoint(model, state, allow_head_mismatch=True)


def test_old_checkpoints_without_batch_counts_load() -> None:
    model = nano()
    state = to_reference_state_dict(model)
    state = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    report = load_reference_checkpoint(model, state)
    assert all(name.endswith("num_batches_tracked") for name in report.kept)

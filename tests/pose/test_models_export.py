"""Models through torch.export, ONNX and torch.compile."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cycledistill import CycleWrapper
from cycledistill_pose.models import StemNet, TokenPose, TokenPruning, TokenReg
from tests.export.formats import skip_without

PRUNINGS = [None, TokenPruning(blocks=(1, 2), keep_ratio=0.6)]


def small(kind: type[TokenPose] | type[TokenReg], pruning: TokenPruning | None) -> nn.Module:
    options = {} if kind is TokenReg else {"heatmap_size": (8, 12)}
    model = kind(
        5,
        (32, 48),
        dim=16,
        depth=4,
        num_heads=4,
        patch_size=(2, 2),
        backbone=StemNet(width=4, num_blocks=1),
        pruning=pruning,
        **options,  # type: ignore[arg-type]
    )
    for parameter in [*model.blocks.parameters(), model.keypoint_tokens]:
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.mark.parametrize("pruning", PRUNINGS)
def test_torch_export_with_any_batch(pruning: TokenPruning | None) -> None:
    model = small(TokenPose, pruning)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model, (torch.randn(2, 3, 48, 32),), dynamic_shapes=({0: batch},), strict=False
    ).module()
    for size in (1, 5):
        images = torch.randn(size, 3, 48, 32)
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.slow
@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("kind", [TokenPose, TokenReg])
def test_onnx(
    kind: type[TokenPose] | type[TokenReg], pruning: TokenPruning | None, tmp_path: Path
) -> None:
    skip_without(".onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = small(kind, pruning)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 48, 32),),
        path,
        dynamo=True,
        input_names=["images"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=64)}},
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 3):
        images = torch.randn(size, 3, 48, 32)
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, model(images).detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pruning", PRUNINGS)
def test_compiled_training(pruning: TokenPruning | None) -> None:
    model = small(TokenPose, pruning)
    images = torch.randn(2, 3, 48, 32)
    wanted = CycleWrapper(copy.deepcopy(model), num_cycles=2).train()
    cycled = CycleWrapper(model, num_cycles=2).train()
    compiled = torch.compile(cycled, backend="aot_eager")
    out, right = compiled(images), wanted(images)
    for found, expected in zip(
        [*out.predictions, *out.tokens], [*right.predictions, *right.tokens], strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    sum(p.square().mean() for p in out.predictions).backward()
    sum(p.square().mean() for p in right.predictions).backward()
    for a, b in zip(cycled.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)

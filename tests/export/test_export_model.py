"""Files that compute what the model computes, for batches of any size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill.export import export_model
from cycledistill_pose.models import TokenPruning, create_sdpose
from tests.export.formats import skip_without

SMALL = {"input_size": (48, 64), "dim": 48, "num_heads": 4}
MAPS = {"heatmap_size": (12, 16)}


def classifier() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=2, num_heads=3, num_classes=7
    ).eval()


def stir(model: nn.Module) -> nn.Module:
    """Weights large enough for a second cycle, or a pruned token, to show in the output."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def run(path: Path, images: Tensor) -> Tensor:
    if path.suffix == ".pt2":
        output: Tensor = torch.export.load(path).module()(images)
        return output
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"images": images.numpy()})[0])


MODELS = {
    "tokenpose": lambda: create_sdpose("sdpose_t", 5, depth=2, **SMALL, **MAPS),
    "nano": lambda: create_sdpose("sdpose_nano", 5, depth=2, input_size=(48, 64), **MAPS),
    "tokenreg": lambda: create_sdpose("sdpose_reg_nano", 5, depth=2, input_size=(48, 64)),
    "pruned": lambda: create_sdpose(
        "sdpose_nano",
        5,
        input_size=(48, 64),
        pruning=TokenPruning(blocks=(1, 2), keep_ratio=0.6),
        **MAPS,
    ),
    "timm": lambda: CycleWrapper(classifier(), num_cycles=2),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "num_cycles", "suffix"),
    [
        ("tokenpose", 1, ".onnx"),
        ("tokenpose", 2, ".pt2"),
        ("nano", 2, ".onnx"),
        ("tokenreg", 2, ".onnx"),
        ("pruned", 2, ".onnx"),
        ("pruned", 2, ".pt2"),
        ("timm", 1, ".pt2"),
        ("timm", 2, ".onnx"),
        ("timm", 2, ".pt2"),
    ],
)
def test_agrees_with_torch(kind: str, num_cycles: int, suffix: str, tmp_path: Path) -> None:
    skip_without(suffix)
    cycled = MODELS[kind]()
    plain = stir(cycled.unwrap())
    height, width = (32, 32) if kind == "timm" else (64, 48)
    examples = torch.randn(2, 3, height, width)
    path = tmp_path / f"model{suffix}"
    report = export_model(
        plain, examples, path, num_cycles, "blocks", tolerance=1e-3, input_names=["images"]
    )
    assert report.path == path and report.max_difference <= 1e-3
    assert set(report.differences) == {"random", "given"}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    again = CycleWrapper(plain, 2, "blocks").eval()
    images = torch.randn(7, 3, height, width)
    with torch.no_grad():
        wanted, other = (again(images, num_cycles=n) for n in (num_cycles, 3 - num_cycles))
    torch.testing.assert_close(run(path, images), wanted, rtol=1e-3, atol=1e-3)
    assert (wanted - other).abs().max() > 0.01  # the number of cycles matters


def test_a_wrapper_and_its_model_are_left_alone(tmp_path: Path) -> None:
    cycled = CycleWrapper(classifier(), num_cycles=2, cycle_embedding=True).train()
    teacher = cycled.teacher_state_dict()
    nn.init.normal_(next(iter(teacher.values())))
    images = torch.randn(2, 3, 32, 32)
    export_model(cycled, images, tmp_path / "model.pt2", num_cycles=2, input_names=["images"])
    assert cycled.training and len(cycled(images).predictions) == 2
    cycled.eval()
    with torch.no_grad():  # the teacher's embedding acts in the file as in the wrapper
        wanted, plain = cycled(images, num_cycles=2), cycled(images)
    torch.testing.assert_close(run(tmp_path / "model.pt2", images), wanted)
    assert (wanted - plain).abs().max() > 0.01


def test_what_decodes_is_left_alone(tmp_path: Path) -> None:
    decode = nn.Dropout().train()
    export_model(nn.Linear(4, 3), torch.randn(2, 4), tmp_path / "model.pt2", decode=decode)
    assert decode.training


class Names(nn.Module):
    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        kept = tokens.masked_fill(mask, 0.0)
        return {"kept": kept, "count": mask.sum(dim=1)}


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_several_inputs_and_named_outputs(suffix: str, tmp_path: Path) -> None:
    skip_without(suffix)
    inputs = (torch.randn(1, 4), torch.tensor([[True, False, True, False]]))
    report = export_model(Names(), inputs, tmp_path / f"model{suffix}")
    assert report.differences["given"] == {"kept": 0.0, "count": 0.0}
    assert str(report).splitlines()[-1] == "  given inputs: kept 0, count 0"


class Untrue(nn.Module):
    """Computes something else while it is recorded."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 1e-2 if torch.compiler.is_compiling() else tokens


class Undefined(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        nothing = tokens - tokens
        return nothing / nothing if torch.compiler.is_compiling() else tokens


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("model", [Untrue(), Undefined()])
def test_a_difference_above_the_tolerance_leaves_nothing(
    suffix: str, model: nn.Module, tmp_path: Path
) -> None:
    skip_without(suffix)
    found = "nan" if isinstance(model, Undefined) else "0.01"
    with pytest.raises(ValueError, match=rf"(?s)differs .* by {found}, .*random inputs: output"):
        export_model(model, torch.randn(2, 4), tmp_path / f"model{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_stays_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("old")
    with pytest.raises(ValueError, match="is not written"):
        export_model(Untrue(), torch.randn(2, 4), path)
    assert path.read_text() == "old"
    export_model(Untrue(), torch.randn(2, 4), path, tolerance=0.02)
    assert path.stat().st_size > 100


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = nn.Linear(4, 4), torch.randn(2, 4)
    with pytest.raises(ValueError, match=r"must end in .onnx or .pt2, not in '.tflite'"):
        export_model(model, tokens, tmp_path / "model.tflite")
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent"):
        export_model(model, tokens, tmp_path / "absent" / "model.pt2")
    with pytest.raises(ValueError, match=r"num_cycles must be .* got 0"):
        export_model(model, tokens, tmp_path / "model.pt2", num_cycles=0)
    cycled = CycleWrapper(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 2)
    with pytest.raises(ValueError, match="None or the '' of the wrapper, got '0:1'"):
        export_model(cycled, torch.zeros(2, 4), tmp_path / "a.pt2", num_cycles=2, blocks="0:1")
    with pytest.raises(ValueError, match="tolerance must be 0 or more, got nan"):
        export_model(model, tokens, tmp_path / "model.pt2", tolerance=float("nan"))
    with pytest.raises(ValueError, match=r"same batch, 1 or more, got \[2, 4\], \[3, 4\]"):
        export_model(model, (tokens, torch.randn(3, 4)), tmp_path / "model.pt2")
    with pytest.raises(TypeError, match="tensor or several, got nothing"):
        export_model(model, (), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="1 inputs, but 2 input_names"):
        export_model(model, tokens, tmp_path / "model.pt2", input_names=["a", "b"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'onnxruntime: pip install "cycledistill\[export\]"'):
        export_model(model, tokens, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []

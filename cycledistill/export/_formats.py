"""Writing a graph in each format, and reading it back as a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from cycledistill import _extras
from cycledistill.export._graph import Graph, named_outputs

Runner = Callable[[tuple[Tensor, ...]], dict[str, Tensor]]
SUFFIXES = (".onnx", ".pt2")
METADATA = "metadata.json"  # the extra file of a .pt2 file


def check_path(path: Path) -> None:
    """Check that the folder exists, the suffix names a format, and its packages are installed.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The suffix is neither ``.onnx`` nor ``.pt2``.
        ImportError: A package that ONNX needs is not installed, or torch is too old for it.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(SUFFIXES)}, not in {path.suffix!r}")
    if path.suffix == ".onnx":
        _extras.require("ONNX", "export", "onnx", "onnxruntime", "onnxscript")
        if torch.__version__ < "2.7":  # compared as versions
            raise ImportError(
                f"ONNX needs torch 2.7 or newer, this is {torch.__version__}; .pt2 can be written"
            )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")


def trace(graph: Graph, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Record what the graph does, for a batch of any size.

    Args:
        graph: What to record.
        inputs: Examples with at least two samples: torch.export makes a size of 1 a constant.
    """
    batch = Dim("batch", min=1, max=2**31 - 1)
    with torch.no_grad():
        return torch.export.export(
            graph, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),), strict=False
        )


def write(
    program: ExportedProgram,
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: Mapping[str, str],
) -> None:
    """Write a recorded graph as one file, in the format of the suffix."""
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(metadata))})
        return
    torch.onnx.export(
        program,
        (),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=list(input_names),
        output_names=list(output_names),
    )
    write_metadata(path, metadata)


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Store these as the metadata properties of an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)


def read(path: Path) -> Runner:
    """Load a file as users do: with onnxruntime on the CPU, or with torch.export."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda inputs: named_outputs(module(*inputs))

    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]

    def run(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return dict(zip(outputs, map(torch.from_numpy, session.run(None, feed)), strict=True))

    return run

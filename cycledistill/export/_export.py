"""Exporting a model to a checked file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cycledistill.export._check import ExportReport, compare, take_rows
from cycledistill.export._formats import check_path, read, trace, write
from cycledistill.export._graph import Graph, named_outputs
from cycledistill.saving._files import replacing_file


def export_model(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    num_cycles: int = 1,
    blocks: str | None = None,
    decode: nn.Module | None = None,
    tolerance: float = 1e-4,
    input_names: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write a model as ONNX or as a torch.export program, for batches of any size.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    >>> model = nn.Sequential(*layers)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/model.pt2"
    ...     report = export_model(model, torch.randn(2, 5, 8), path, num_cycles=2)
    ...     exported = torch.export.load(path).module()
    >>> report.max_difference < 1e-4, exported(torch.randn(7, 5, 8)).shape
    (True, torch.Size([7, 5, 8]))

    The file is read back by onnxruntime or torch.export and compared with the model on the CPU, on
    random inputs and on the given ones, in batches of 1, 2 and 5. It appears under its name only if
    the difference is within the tolerance; otherwise nothing is left behind, and an existing file
    stays. The model is copied and not changed.

    Args:
        model: A plain model, or a `CycleWrapper` (whose teacher-only parameters, if any, act in
            the later cycles).
        example_inputs: The model's inputs: one tensor or several, each batch first. Real samples
            make a better check.
        path: Ends in ``.onnx`` or ``.pt2``.
        num_cycles: Cycles in the graph; 1 is the plain model's own graph.
        blocks: Path of the stack of blocks, as for `CycleWrapper`; for more than one cycle, if the
            stack is not found.
        decode: A module that takes the model's output; it becomes a part of the graph. If it
            returns a dict, its keys name the outputs.
        tolerance: Largest absolute difference that is accepted.
        input_names: Names of the inputs in an ONNX file; by default ``input``, or ``input_0`` etc.
        metadata: Metadata properties of an ONNX file (onnxruntime's
            ``get_modelmeta().custom_metadata_map``), ``metadata.json`` of a .pt2 file.

    Returns:
        The differences by kind of inputs and by output.

    Raises:
        ValueError: The suffix is unknown, an argument is out of range, or the file differs from
            the model by more than the tolerance.
        ImportError: ONNX is asked for, and one of its packages is missing or torch older than 2.7.
        FileNotFoundError: There is no such folder to write into.
        TypeError: The model returns something other than tensors.
    """
    path = Path(path)
    check_path(path)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    _check_inputs(inputs)
    if input_names is None:
        several = [f"input_{index}" for index in range(len(inputs))]
        input_names = ["input"] if len(inputs) == 1 else several
    if len(input_names) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs, but {len(input_names)} input_names")
    graph = Graph(model, num_cycles, blocks, decode).cpu()
    inputs = tuple(value.detach().cpu() for value in inputs)
    batch = tuple(take_rows(value, max(3, len(value))) for value in inputs)
    with torch.no_grad():
        output_names = list(named_outputs(graph(*batch)))
    program = trace(graph, batch)
    with replacing_file(path) as written:
        write(program, written, input_names, output_names, metadata or {})
        report = ExportReport(path, compare(graph, read(written), inputs))
        if not report.max_difference <= tolerance:
            raise ValueError(
                f"{path} is not written: it differs from the model by "
                f"{report.max_difference:.2g}, more than the tolerance {tolerance:g}. {report}"
            )
    return report


def _check_inputs(inputs: tuple[Tensor, ...]) -> None:
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        found = ", ".join(type(value).__name__ for value in inputs) or "nothing"
        raise TypeError(f"example_inputs must be a tensor or several, got {found}")
    sizes = {value.shape[0] if value.ndim else 0 for value in inputs}
    if len(sizes) != 1 or 0 in sizes:
        shapes = ", ".join(str(list(value.shape)) for value in inputs)
        raise ValueError(f"example_inputs must all have the same batch, 1 or more, got {shapes}")

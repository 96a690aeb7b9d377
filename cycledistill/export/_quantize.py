"""Quantizing the convolutions and matrix products of an ONNX file to int8."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cycledistill.export._formats import read, write_metadata
from cycledistill.export._loaders import Outputs

# Softmax, norms and sums stay in floating point: they cost little, and 8 bits ruin them.
_OPERATORS = ["Conv", "Gemm", "MatMul"]
_MOST_CALIBRATED = 256
_BATCH = 8


def quantize_file(
    exact: Path,
    path: Path,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    metadata: Mapping[str, str],
) -> tuple[Outputs, Outputs]:
    """Write an ONNX file in int8, calibrated on real inputs.

    Weights have 7 bits and a scale for each channel: sums of two products with 8 bits do not fit
    into the 16 that x86 processors without VNNI have for them. Activations have a scale for each
    tensor, from its smallest to its largest value on the inputs (at most 256 of them, spread
    evenly).

    Args:
        exact: The ONNX file in floating point.
        path: The file to write.
        inputs: The model's inputs, batch first.
        input_names: Their names.
        metadata: Metadata properties of the file.

    Returns:
        The outputs of ``exact`` and of the new file for all inputs, by name.

    Raises:
        ValueError: The new file's outputs are not finite.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
            self.feeds = feeds

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    count = inputs[0].shape[0]
    chosen = torch.linspace(0, count - 1, min(count, _MOST_CALIBRATED)).round().long()
    feeds = (
        {name: value[i : i + 1].numpy() for name, value in zip(input_names, inputs, strict=True)}
        for i in chosen.tolist()
    )
    quiet = logging.root.level
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=path.parent) as room:
        prepared = Path(room) / "prepared.onnx"
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        logging.root.setLevel(logging.ERROR)
        try:
            quantize_static(
                prepared,
                path,
                Reader(feeds),
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )
        finally:
            logging.root.setLevel(quiet)
    write_metadata(path, {**metadata, "quantized": '"int8"'})
    outputs, found = _run(exact, inputs), _run(path, inputs)
    strange = [name for name, value in found.items() if not value.isfinite().all()]
    if strange:
        raise ValueError(f"{path.name}: int8 makes {', '.join(strange)} not finite")
    return outputs, found


def _run(path: Path, inputs: tuple[Tensor, ...]) -> Outputs:
    runner, count = read(path), inputs[0].shape[0]
    parts = [
        runner(tuple(value[start : start + _BATCH] for value in inputs))
        for start in range(0, count, _BATCH)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

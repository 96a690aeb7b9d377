"""`cycledistill export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cycledistill.export._export import export_model
from cycledistill.export._formats import check_format
from cycledistill.export._loaders import load_exportable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, help="a saved plain model, such as RUN/plain")
    parser.add_argument("--out", type=Path, required=True, help="FILE.onnx or FILE.pt2")
    parser.add_argument("--num-cycles", type=int, default=1, help="cycles in the graph (1)")
    parser.add_argument(
        "--decode",
        action="store_true",
        help="put the decoding into the graph: keypoints in px of the input, and scores",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference from torch (1e-4; with --decode 0.01, which is px)",
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], help="images to check the file on, too"
    )


def run(options: argparse.Namespace) -> None:
    """Load, export, check, and print the differences.

    Raises:
        ValueError: See `export_model` and `load_exportable`; or there is nothing to decode.
    """
    check_format(options.out)
    loaded = load_exportable(options.folder)
    if options.decode and loaded.decode is None:
        raise ValueError(f"--decode: the model in {options.folder} has nothing to decode")
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = 1e-2 if options.decode else 1e-4
    inputs = loaded.read_images(options.images) if options.images else loaded.example_inputs
    report = export_model(
        loaded.model,
        inputs,
        options.out,
        num_cycles=options.num_cycles,
        blocks=loaded.blocks,
        decode=loaded.decode if options.decode else None,
        tolerance=tolerance,
        input_names=loaded.input_names,
    )
    print(report)
    size = options.out.stat().st_size / 1e6
    cycles = "1 cycle" if options.num_cycles == 1 else f"{options.num_cycles} cycles"
    print(f"wrote {options.out} ({cycles}, {size:.1f} MB)")

"""`cycledistill export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from cycledistill.export._export import export_model
from cycledistill.export._formats import check_format
from cycledistill.export._loaders import Exportable, Judge, load_exportable
from cycledistill.export._quantize import quantize
from cycledistill.saving._files import image_files, replacing_file


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
        "--images",
        type=Path,
        nargs="+",
        default=[],
        help="images, or a folder of them, to check the file on, too",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        help="COCO-format file of the people in the folder of --images, in place of whole images",
    )
    parser.add_argument(
        "--quantize",
        choices=["int8"],
        help="8 bits instead of 32 (.onnx), calibrated on --images; prints what it changes",
    )


def run(options: argparse.Namespace) -> None:
    """Load, export, check, and print the differences.

    Raises:
        ValueError: See `export_model` and `load_exportable`; or there is nothing to decode, or
            the options do not go together.
    """
    out: Path = options.out
    check_format(out)
    if options.quantize and (out.suffix != ".onnx" or not options.images):
        raise ValueError("--quantize: expected --out FILE.onnx, and --images to calibrate on")
    loaded = load_exportable(options.folder)
    if options.decode and loaded.decode is None:
        raise ValueError(f"--decode: the model in {options.folder} has nothing to decode")
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = 1e-2 if options.decode else 1e-4
    inputs, judge = _inputs(loaded, options)

    def export(path: Path) -> None:
        report = export_model(
            loaded.model,
            inputs,
            path,
            num_cycles=options.num_cycles,
            blocks=loaded.blocks,
            decode=loaded.decode if options.decode else None,
            tolerance=tolerance,
            input_names=loaded.input_names,
            metadata=loaded.metadata,
        )
        print(report)

    if options.quantize:
        if not out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {out.parent} to write {out.name} into")
        with replacing_file(out) as temporary:
            exact = temporary.with_name(f"exact-{out.name}")
            export(exact)
            before, after = quantize(exact, temporary, inputs, loaded.input_names, loaded.metadata)
            count = len(inputs[0])
            smaller = exact.stat().st_size / temporary.stat().st_size
            print(f"int8, on the {count:,} given: {smaller:.1f} times smaller")
            print(judge(before, after))
    else:
        export(out)
    size = out.stat().st_size / 1e6
    cycles = "1 cycle" if options.num_cycles == 1 else f"{options.num_cycles} cycles"
    print(f"wrote {out} ({cycles}, {size:.1f} MB)")


def _inputs(loaded: Exportable, options: argparse.Namespace) -> tuple[tuple[Tensor, ...], Judge]:
    images: list[Path] = options.images
    judge = loaded.judge or _largest_changes
    if options.annotations is not None:
        if loaded.read_annotated is None or len(images) != 1 or not images[0].is_dir():
            raise ValueError(
                "--annotations: expected a pose network, and the one folder of its images as "
                f"--images, got {', '.join(map(str, images)) or 'no images'}"
            )
        return loaded.read_annotated(options.annotations, images[0])
    if not images:
        return loaded.example_inputs, judge
    files = [file for path in images for file in (image_files(path) if path.is_dir() else [path])]
    return loaded.read_images(files), judge


def _largest_changes(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    return "\n".join(
        f"  {name}: changes by up to {float((after[name] - value).abs().max()):.2g}"
        for name, value in before.items()
    )

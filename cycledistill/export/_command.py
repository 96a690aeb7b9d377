"""`cycledistill export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import Tensor

from cycledistill.export._export import export_model
from cycledistill.export._formats import check_path
from cycledistill.export._loaders import Exportable, Judge, load_exportable
from cycledistill.export._quantize import quantize_file
from cycledistill.saving._files import image_files, replacing_file


def export(
    folder: Annotated[Path, tyro.conf.Positional],
    out: Path,
    num_cycles: int | None = None,
    decode: bool = False,
    tolerance: float | None = None,
    images: tuple[Path, ...] = (),
    annotations: Path | None = None,
    category: str | None = None,
    quantize: Literal["int8"] | None = None,
) -> None:
    """A saved plain model as ONNX (.onnx) or torch.export program (.pt2).

    The file is for batches of any size, and is compared with torch before it appears.

    Args:
        folder: A saved plain model, such as RUN/plain.
        out: FILE.onnx or FILE.pt2.
        num_cycles: Cycles in the graph; by default as many as the model is to be used with.
        decode: Put the decoding into the graph: keypoints in px of the input, and scores.
        tolerance: Largest difference from torch (1e-4; with --decode 0.01, which is px).
        images: Images, or a folder of them, to check the file on, too.
        annotations: COCO-format file of the people in the folder of --images, in place of whole
            images.
        category: Which of the categories of --annotations; by default the network's, or the only
            one with keypoints.
        quantize: 8 bits instead of 32 (.onnx), calibrated on --images; prints what it changes.
    """
    check_path(out)
    if quantize and (out.suffix != ".onnx" or not images):
        raise ValueError("--quantize: expected --out FILE.onnx, and --images to calibrate on")
    loaded = load_exportable(folder)
    num_cycles = loaded.num_cycles if num_cycles is None else num_cycles
    if decode and loaded.decode is None:
        raise ValueError(f"--decode: the model in {folder} has nothing to decode")
    limit = (1e-2 if decode else 1e-4) if tolerance is None else tolerance
    inputs, judge = _inputs(loaded, images, annotations, category)

    def write(path: Path) -> None:
        report = export_model(
            loaded.model,
            inputs,
            path,
            num_cycles=num_cycles,
            blocks=loaded.blocks,
            decode=loaded.decode if decode else None,
            tolerance=limit,
            input_names=loaded.input_names,
            metadata=loaded.metadata,
        )
        print(report)

    if quantize:
        with replacing_file(out) as temporary:
            exact = temporary.with_name(f"exact-{out.name}")
            write(exact)
            names, metadata = loaded.input_names, loaded.metadata
            before, after = quantize_file(exact, temporary, inputs, names, metadata)
            count = len(inputs[0])
            smaller = exact.stat().st_size / temporary.stat().st_size
            print(f"int8, on the {count:,} given: {smaller:.1f} times smaller")
            print(judge(before, after))
    else:
        write(out)
    size = out.stat().st_size / 1e6
    cycles = "1 cycle" if num_cycles == 1 else f"{num_cycles} cycles"
    print(f"wrote {out} ({cycles}, {size:.1f} MB)")


def _inputs(
    loaded: Exportable, images: Sequence[Path], annotations: Path | None, category: str | None
) -> tuple[tuple[Tensor, ...], Judge]:
    judge = loaded.judge or _largest_changes
    if annotations is not None:
        if loaded.read_annotated is None or len(images) != 1 or not images[0].is_dir():
            raise ValueError(
                "--annotations: expected a pose network, and the one folder of its images as "
                f"--images, got {', '.join(map(str, images)) or 'no images'}"
            )
        return loaded.read_annotated(annotations, images[0], category)
    if category is not None:
        raise ValueError(f"--category: expected --annotations, got {category!r} alone")
    if not images:
        return loaded.example_inputs, judge
    files = [file for path in images for file in (image_files(path) if path.is_dir() else [path])]
    return loaded.read_images(files), judge


def _largest_changes(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    return "\n".join(
        f"  {name}: changes by up to {float((after[name] - value).abs().max()):.2g}"
        for name, value in before.items()
    )

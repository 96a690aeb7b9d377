"""Pictures of the inside of a network: attention, weights and tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from cycledistill import CycleWrapper
from cycledistill._checks import check_choice, check_count
from cycledistill.inside import (
    plot_attention_matrices,
    plot_attention_over_image,
    plot_token_changes,
    plot_weight_distributions,
    token_changes,
)
from cycledistill.saving._files import replacing_folder
from cycledistill_pose.checkpoints import load_plain
from cycledistill_pose.data import normalize_images
from cycledistill_pose.data._crop import crop_image
from cycledistill_pose.data._picture import read_rgb
from cycledistill_pose.drawing import prediction_grid, save_picture
from cycledistill_pose.drawing._picture import ImageArray
from cycledistill_pose.inside import record_pose_attention
from cycledistill_pose.prediction import PosePredictor, predict_cycles

_PANEL_HEIGHT = 384


def inside(
    checkpoint: str,
    image: Path,
    out: Path,
    keypoint: str | None = None,
    num_cycles: int | None = None,
    layer: int | None = None,
    compare: str | None = None,
) -> None:
    """Draw attention, weights, token changes and predictions of a network, cycle by cycle.

    The output folder must not exist; it appears only once it is complete.

    Args:
        checkpoint: Folder of a plain network, or its name on the Hugging Face Hub.
        image: An image of one person.
        out: Folder to write the pictures to.
        keypoint: Keypoint whose attention to draw over the image; by default the first, which is
            COCO's nose.
        num_cycles: Passes through the blocks. By default 2, or more if the network was trained to
            be used with more.
        layer: Layer whose weights to draw, counted from 1; by default the last one.
        compare: Another plain network whose weights to draw next to these.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    predictor = PosePredictor.from_pretrained(checkpoint)
    num_cycles = max(2, predictor.num_cycles) if num_cycles is None else num_cycles
    check_count("num_cycles", num_cycles)
    names = predictor.skeleton.keypoint_names
    keypoint = names[0] if keypoint is None else keypoint
    check_choice("keypoint", keypoint, *names)
    models = {_label(checkpoint): predictor.plain}
    if compare is not None:
        label = _label(compare)
        models[label if label not in models else f"{label} (compared)"] = load_plain(compare).model
    factor = max(1, round(_PANEL_HEIGHT / predictor.input_size[1]))
    crop, large = _crops(predictor, image, factor)
    images = normalize_images(torch.from_numpy(crop)[None])
    cycled = CycleWrapper(predictor.plain, num_cycles, "blocks").eval()
    maps, positions, grid = record_pose_attention(cycled, images, num_cycles)
    figures = {
        f"attention_{keypoint}": plot_attention_over_image(
            maps, large, names.index(keypoint), grid, name=keypoint, positions=positions
        ),
        "attention_keypoints": plot_attention_matrices(maps, names),
        "weights": plot_weight_distributions(
            models, max(found.layer for found in maps) if layer is None else layer, blocks="blocks"
        ),
    }
    if num_cycles > 1:
        changes = token_changes(cycled, images, num_cycles=num_cycles)
        figures["token_changes"] = plot_token_changes(changes)
    cycles = predict_cycles(cycled, images, predictor.codec, num_cycles)
    labels = [f"{cycle} cycle{'s' if cycle > 1 else ''}" for cycle in range(1, num_cycles + 1)]
    picture = prediction_grid(
        large[None],
        {label: factor * points for label, (points, _) in zip(labels, cycles, strict=True)},
        scores={label: scores for label, (_, scores) in zip(labels, cycles, strict=True)},
        skeleton=predictor.skeleton,
        panel_height=_PANEL_HEIGHT,
    )
    with replacing_folder(out) as temporary:
        for name, figure in figures.items():
            figure.savefig(temporary / f"{name}.png", dpi=110)
        save_picture(temporary / "predictions.png", picture)
    for name in (*figures, "predictions"):
        print(out / f"{name}.png")


def _label(folder: str) -> str:
    """The last two names of a path: of `runs/pose-demo/plain` the first tells the run."""
    return "/".join(Path(folder).parts[-2:])


def _crops(predictor: PosePredictor, image: Path, factor: int) -> tuple[ImageArray, ImageArray]:
    """What the network gets for a whole image, RGB bytes `[h, w, 3]`, and the same in large."""
    pixels = read_rgb(image)
    crops, matrices = predictor.crop(pixels)
    columns, rows = predictor.input_size
    return crops[0], crop_image(pixels, factor * matrices[0], (factor * columns, factor * rows))

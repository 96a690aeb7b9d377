"""A saved timm classifier for `cycledistill export`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from cycledistill.export import Exportable
from cycledistill.saving._folder import check_files
from cycledistill_deit._export import load_plain
from cycledistill_deit._images import image_mode, open_image


def load_exportable(folder: Path, config: dict[str, Any]) -> Exportable | None:
    """Load a folder in timm's format; None when it is another kind of folder.

    The example inputs are uniform noise; `read_images` prepares images as timm evaluates them.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The weights are broken, or do not fit.
    """
    if not isinstance(config.get("architecture"), str):
        return None
    weights = folder / "model.safetensors"
    if (folder / "pytorch_model.bin").is_file() and not weights.is_file():
        weights = folder / "pytorch_model.bin"  # what timm writes by default
    check_files(folder, "model", weights.name)
    try:
        model = load_plain(folder)
    except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{weights} cannot be loaded: {error}") from error
    data = resolve_model_data_config(model)

    def read_images(paths: Sequence[Path]) -> tuple[Tensor, ...]:
        transform, mode = create_transform(**data), image_mode(data["input_size"][0])
        return (torch.stack([transform(open_image(path, mode)) for path in paths]),)

    noise = torch.rand(3, *data["input_size"], generator=torch.Generator().manual_seed(1))
    blocks, cycles = config.get("blocks"), config.get("num_cycles", 1)
    return Exportable(
        model,
        (noise,),
        blocks,
        read_images,
        metadata=_metadata(model, data),
        judge=_judge,
        num_cycles=cycles,
    )


def _metadata(model: Any, data: dict[str, Any]) -> dict[str, str]:
    """What a program needs to know to run the file; every value is JSON."""
    channels, height, width = data["input_size"]
    told = {name: data[name] for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    told |= {"input_size": (width, height), "color_order": image_mode(channels)}
    told["label_names"] = model.pretrained_cfg.get("label_names")
    return {name: json.dumps(value) for name, value in told.items() if value is not None}


def _judge(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    kept = (before["output"].argmax(dim=-1) == after["output"].argmax(dim=-1)).double().mean()
    return f"  {100 * float(kept):.1f} % keep their class"

"""The plain model as a folder that bare timm loads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import timm
from safetensors.torch import load_file
from timm.models._hub import save_for_hf
from torch import nn

from cycledistill._files import replacing_folder
from cycledistill_deit._card import model_card
from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._model import model_arguments

# The card is what tells our folders from timm's own.
_OURS = {"config.json": "", "model.safetensors": "", "README.md": "cycledistill"}


def save_plain(
    model: nn.Module,
    config: ClassificationConfig,
    class_names: tuple[str, ...],
    folder: Path,
    scores: Mapping[str, float] | None = None,
) -> Path:
    """Write a plain classifier in timm's own format: ``model.safetensors`` and ``config.json``.

    A model card, ``README.md``, goes with them, made from the configuration and the scores.

    The folder appears whole or not at all. One that is there is replaced if it is empty or holds a
    classifier that was written like this and nothing else.

    Args:
        model: The unwrapped model (or a wrapper's ``.plain``).
        config: What it was made with.
        class_names: Names of the K classes.
        folder: Where to.
        scores: For the card: percent by metric and number of cycles, ``{"accuracy/1": 72.0}``.

    Returns:
        The folder.

    Raises:
        FileExistsError: Something else is there.
    """
    arguments = model_arguments(config, len(class_names))
    for name in ("num_classes", "pretrained_cfg_overlay"):
        arguments.pop(name, None)
    if arguments.get("in_chans") == 3:  # timm's own; older timms take others from here alone
        del arguments["in_chans"]
    grey = {"mean": (0.5,), "std": (0.5,)} if config.in_chans == 1 else {}
    with replacing_folder(Path(folder), _OURS) as temporary:
        save_for_hf(
            model,
            temporary,
            model_config={
                "num_classes": len(class_names),
                "input_size": (config.in_chans, config.image_size, config.image_size),
                "crop_pct": config.crop_fraction,
                "interpolation": "bicubic",
                "label_names": list(class_names),
                **grey,
            },
            model_args=arguments,
            safe_serialization=True,
        )
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        card = model_card(config.model, count, class_names, dataclasses.asdict(config), scores)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return Path(folder)


def load_plain(folder: Path) -> nn.Module:
    """Load such a folder strictly, also with a timm that knows no ``local-dir:``."""
    config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    given = {"num_classes": config["num_classes"], "in_chans": config["input_size"][0]}
    arguments = {
        **given,
        **config.get("model_args", {}),
        "pretrained_cfg": config["pretrained_cfg"],
    }
    model: nn.Module = timm.create_model(config["architecture"], **arguments)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval()

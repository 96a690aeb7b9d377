"""The plain model as a folder that bare timm loads, with its card, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import timm
from timm.models._hub import save_for_hf
from torch import nn

from cycledistill import CycleWrapper
from cycledistill.saving._card import model_card
from cycledistill.saving._files import replacing_folder
from cycledistill.training import find_trained
from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._images import data_config
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

    timm's ``resolve_model_data_config`` of the loaded model says how the run prepared its images.
    A model card, ``README.md``, is made from the configuration and the scores.

    The folder appears whole or not at all. One that is there is replaced if it is empty or holds a
    classifier that was written like this and nothing else.

    Args:
        model: The unwrapped model, as ``create_classifier`` made it.
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
    with replacing_folder(Path(folder), _OURS) as temporary:
        save_for_hf(
            model,
            temporary,
            model_config={"num_classes": len(class_names), "label_names": list(class_names)},
            model_args=arguments,
            safe_serialization=True,
        )
        card = model_card(
            Path(__file__).with_name("timm_card.md"),
            scores,
            ("accuracy",),
            dataclasses.asdict(config),
            model=config.model,
            classes=class_names,
            parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            images=data_config(config),
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return Path(folder)


def load_plain(folder: Path) -> nn.Module:
    """Load such a folder, as timm alone does, in eval mode."""
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def load_trained(folder: Path) -> CycleWrapper:
    """The network of a finished run, wrapped with as many cycles as it is meant to be used with.

    Args:
        folder: See `cycledistill.training.find_trained`.

    Raises:
        FileNotFoundError: It has no network.
    """
    network, cycles, options = find_trained(folder)
    return CycleWrapper(load_plain(network), num_cycles=cycles, blocks=options.get("blocks"))

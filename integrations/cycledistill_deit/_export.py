"""The plain model as a folder that bare timm loads, with its card, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import resolve_model_data_config
from timm.models._hub import save_for_hf
from torch import nn

from cycledistill import CycleWrapper
from cycledistill.saving._card import model_card
from cycledistill.saving._files import replacing_folder
from cycledistill.saving._folder import read_config
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
        OSError: It cannot be written.
    """
    arguments = model_arguments(config, len(class_names))
    for name in ("num_classes", "pretrained_cfg_overlay"):
        arguments.pop(name, None)
    about: dict[str, Any] = {"num_classes": len(class_names), "label_names": list(class_names)}
    if config.blocks is not None:
        about["blocks"] = config.blocks  # for exports of several cycles
    if config.inference_cycles > 1:
        about["num_cycles"] = config.inference_cycles
    with replacing_folder(Path(folder), _OURS) as temporary:
        try:
            save_for_hf(
                model,
                temporary,
                model_config=about,
                model_args=arguments,
                safe_serialization=True,
            )
        except SafetensorError as error:  # a full disk
            raise OSError(f"{folder} cannot be written: {error}") from error
        card = model_card(
            Path(__file__).with_name("timm_card.md"),
            scores,
            ("accuracy",),
            dataclasses.asdict(config),
            model=config.model,
            classes=class_names,
            parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            images=data_config(config),
            cycles_in_training=config.training_cycles,
            cycles_in_use=config.inference_cycles,
            blocks=config.blocks,
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return Path(folder)


def load_plain(folder: Path) -> nn.Module:
    """Load such a folder, as timm alone does, in eval mode."""
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def load_trained(folder: Path, class_names: Sequence[str] | None = None) -> CycleWrapper:
    """The network of a finished run, wrapped with as many cycles as it is meant to be used with.

    Args:
        folder: See `cycledistill.training.find_trained`.
        class_names: The classes that it must have, in this order, if it names its own.

    Raises:
        FileNotFoundError: It has no network.
        ValueError: It has other classes.
    """
    network, cycles, options = find_trained(folder)
    model: Any = load_plain(network)
    names: Any = model.pretrained_cfg.get("label_names") or ()
    if class_names is not None and (
        model.num_classes != len(class_names) or (names and list(names) != list(class_names))
    ):
        raise ValueError(
            f"{folder} is a network for other classes: expected {len(class_names)} "
            f"({_few(class_names)}), got {model.num_classes} ({_few(names) or 'without names'})"
        )
    blocks = options.get("blocks", read_config(network, "classifier").get("blocks"))
    return CycleWrapper(model, num_cycles=cycles, blocks=blocks)


def load_teachers(config: ClassificationConfig, class_names: Sequence[str]) -> list[CycleWrapper]:
    """The teachers of mode fold. Those in ``beside`` are looked at, too: they come last.

    Raises:
        FileNotFoundError: A folder has no network.
        ValueError: It has other classes, or a teacher's images are prepared in another way.
    """
    for folder in config.beside:
        load_trained(folder, class_names)
    teachers = [load_trained(folder, class_names) for folder in config.teacher]
    expected = {name: tuple(data_config(config)[name]) for name in ("input_size", "mean", "std")}
    for folder, teacher in zip(config.teacher, teachers, strict=True):
        its_own = resolve_model_data_config(teacher.plain)
        found = {name: tuple(its_own[name]) for name in expected}
        if found != expected:
            raise ValueError(f"teacher {folder}: expected images of {expected}, got {found}")
    return teachers


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")

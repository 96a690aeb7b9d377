"""Making the plain classifier."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

from cycledistill_deit._config import ClassificationConfig


def create_classifier(config: ClassificationConfig, num_classes: int) -> nn.Module:
    """The plain timm model that a config asks for: ``[B, C, S, S]`` images to ``[B, K]`` logits.

    >>> from cycledistill_deit import PRESETS
    >>> model = create_classifier(PRESETS["digits"], num_classes=10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    86506

    Raises:
        ValueError: timm has no such model, or it does not take an option.
    """
    if not timm.is_model(config.model):
        close = difflib.get_close_matches(config.model, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"timm has no model {config.model!r}{hint}")
    try:
        return timm.create_model(
            config.model, pretrained=config.pretrained, **model_arguments(config, num_classes)
        )
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"{config.model} cannot be made with {model_arguments(config, num_classes)}: {error}"
        ) from error


def model_arguments(config: ClassificationConfig, num_classes: int) -> dict[str, Any]:
    """Keyword arguments for ``timm.create_model``; options that are None are left to the model."""
    defaults = timm.get_pretrained_cfg(config.model)
    arguments: dict[str, Any] = {"num_classes": num_classes, "drop_path_rate": config.drop_path}
    if config.in_chans != 3:
        arguments["in_chans"] = config.in_chans
        if config.in_chans == 1:
            arguments["pretrained_cfg_overlay"] = {"mean": (0.5,), "std": (0.5,)}
    if defaults is None or defaults.input_size[-1] != config.image_size:
        arguments["img_size"] = config.image_size
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        value = getattr(config, name)
        if value is not None:
            arguments[name] = value
    return arguments

"""Making the plain classifier."""

from __future__ import annotations

import difflib
import warnings
from typing import Any

import timm
from torch import nn

from cycledistill_deit._config import ClassificationConfig
from cycledistill_deit._images import data_config


def create_classifier(config: ClassificationConfig, num_classes: int) -> nn.Module:
    """The plain timm model of a config: ``[B, C, S, S]`` images to ``[B, K]`` logits.

    >>> from cycledistill_deit import PRESETS
    >>> model = create_classifier(PRESETS["digits"], num_classes=10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    86506

    Raises:
        ValueError: timm has no such model, or it does not support an option.
    """
    if not timm.is_model(config.model):
        close = difflib.get_close_matches(config.model, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"timm has no model {config.model!r}{hint}")
    try:
        model: nn.Module = timm.create_model(
            config.model, pretrained=config.pretrained, **model_arguments(config, num_classes)
        )
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"{config.model} cannot be made with {model_arguments(config, num_classes)}: {error}"
        ) from error
    _tell_of_uncovered_pixels(model, data_config(config)["input_size"][1:])
    return model


def _tell_of_uncovered_pixels(model: nn.Module, size: tuple[int, int]) -> None:
    """Timm's embedding of patches leaves out a rest at the right and lower border in silence."""
    embed = getattr(model, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if not isinstance(patch, tuple) or getattr(embed, "dynamic_img_pad", False):
        return
    rest = [side % length for side, length in zip(size, patch, strict=True)]
    if any(rest):
        warnings.warn(
            f"images of {size[0]} x {size[1]} px in patches of {patch[0]} x {patch[1]}: the last "
            f"{rest[0]} and {rest[1]} px of height and width are not seen by the model",
            stacklevel=3,
        )


def model_arguments(config: ClassificationConfig, num_classes: int) -> dict[str, Any]:
    """Keyword arguments for ``timm.create_model``; options that are None are left to the model."""
    prepared = data_config(config)
    size = prepared["input_size"][1:]
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "drop_path_rate": config.drop_path,
        # Makes the model carry how it is trained, which timm saves with the weights. timm's advice
        # for evaluating its own weights does not apply to these.
        "pretrained_cfg_overlay": {**prepared, "test_input_size": None, "test_crop_pct": None},
    }
    if config.in_chans != 3:
        arguments["in_chans"] = config.in_chans
    defaults = timm.get_pretrained_cfg(config.model)
    if defaults is None or (defaults.fixed_input_size and defaults.input_size[1:] != size):
        arguments["img_size"] = size
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        value = getattr(config, name)
        if value is not None:
            arguments[name] = value
    return arguments

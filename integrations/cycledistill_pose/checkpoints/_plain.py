"""A plain pose network as a folder: safetensors weights beside a JSON description."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cycledistill._checks import check_count
from cycledistill.saving._card import model_card
from cycledistill.saving._files import replacing_folder
from cycledistill.saving._folder import read_config
from cycledistill_pose.checkpoints._hub import FILES, find_folder
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.models import TokenPose, TokenPruning, TokenReg, create_model
from cycledistill_pose.skeletons import Skeleton

SHOWN_SCORES = ("AP", "AP50", "AP75", "APM", "APL", "AP_easy", "AP_medium", "AP_hard", "AR", "PCK")
_FORMAT = "cycledistill_pose/1"
_OURS = {name: "" for name in FILES} | {"config.json": "cycledistill_pose/"}


class PlainCheckpoint(NamedTuple):
    """A loaded network, which has ``cycles_in_use``, its keypoints and its codec's options."""

    model: TokenPose | TokenReg
    skeleton: Skeleton
    codec: dict[str, Any]


def save_plain(
    model: TokenPose | TokenReg,
    folder: str | Path,
    name: str,
    options: dict[str, Any],
    skeleton: Skeleton,
    codec: dict[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
    num_cycles: int | None = None,
) -> Path:
    """Write a network: ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

    The folder appears only once it is complete. An existing one is replaced if it is empty or
    contains such a network and nothing else.

    Args:
        model: The network, unwrapped.
        folder: The folder to write.
        name: Its name in ``create_model``.
        options: The options it was created with.
        skeleton: Its keypoints.
        codec: Options of the codec that decodes its output.
        training: For the card: options of the run that trained it, without paths.
        scores: For the card: percent by metric and number of cycles, ``{"AP/1": 65.0}``.
        num_cycles: Cycles that it was trained to be used with; commands run as many by default.
            None: those that it was loaded with, or 1.

    Returns:
        The folder.

    Raises:
        FileExistsError: Something else is there.
        OSError: It cannot be written.
        ValueError: The skeleton has another number of keypoints than the network.
    """
    if model.num_keypoints != skeleton.num_keypoints:
        raise ValueError(
            f"skeleton {skeleton.name!r} has {skeleton.num_keypoints} keypoints, "
            f"expected the network's {model.num_keypoints}"
        )
    num_cycles = model.cycles_in_use if num_cycles is None else num_cycles
    written = {
        key: dataclasses.asdict(value) if isinstance(value, TokenPruning) else value
        for key, value in options.items()
    }
    description = {
        "format": _FORMAT,
        "model": name,
        "options": written,
        "skeleton": dataclasses.asdict(skeleton),
        "codec": codec or {},
        "num_cycles": num_cycles,
    }
    with replacing_folder(Path(folder), _OURS) as temporary:
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
        try:
            save_file(tensors, temporary / "model.safetensors")
        except SafetensorError as error:  # a full disk
            raise OSError(f"{folder} cannot be written: {error}") from error
        (temporary / "config.json").write_text(json.dumps(description, indent=2) + "\n")
        card = model_card(
            Path(__file__).with_name("pose_card.md"),
            scores,
            SHOWN_SCORES,
            training,
            passes=num_cycles,
            model=name,
            options=written,
            skeleton=skeleton,
            parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return Path(folder)


def load_plain(source: str | Path) -> PlainCheckpoint:
    """Load such a folder, strictly.

    Args:
        source: The folder, or a name on the Hugging Face Hub such as ``"owner/name"``, which is
            downloaded once.

    Raises:
        FileNotFoundError: A file is missing, or there is neither folder nor model on the hub.
        ValueError: A file is broken, or of another kind.
    """
    folder = find_folder(source)
    description = read_config(folder, "pose network", "model.safetensors")
    if description.get("format") != _FORMAT:
        raise ValueError(f"{folder / 'config.json'} does not describe a pose network ({_FORMAT})")
    lacking = {"model", "options", "skeleton", "codec"} - description.keys()
    if lacking:
        raise ValueError(f"{folder / 'config.json'} lacks {', '.join(sorted(lacking))}")
    try:
        options = dict(description["options"])
        if "pruning" in options:
            options["pruning"] = TokenPruning(**options["pruning"])
        listed = {key: _tuples(value) for key, value in description["skeleton"].items()}
        skeleton = Skeleton(**listed)
        model = create_model(description["model"], skeleton.num_keypoints, **options)
        codec_for(model, **description["codec"])
        model.cycles_in_use = description.get("num_cycles", 1)
        check_count("num_cycles", model.cycles_in_use)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / 'model.safetensors'} cannot be loaded: {error}") from error
    return PlainCheckpoint(model.eval(), skeleton, description["codec"])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

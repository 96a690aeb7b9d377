"""Reading and writing weights in the layouts of the reference implementations."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill._checks import check_choice
from cycledistill_pose.checkpoints._layout import (
    LAYOUTS,
    LOSS_PREFIXES,
    REGRESSION_HEAD,
    detect_layout,
)
from cycledistill_pose.checkpoints._read import read_tensors
from cycledistill_pose.models import TokenPose, TokenReg

_HEAD_NAMES = ("keypoint_tokens", "head.")


class LoadReport(NamedTuple):
    """What `load_reference_checkpoint` did.

    Attributes:
        loaded: Names in our model whose values came from the checkpoint.
        kept: Names in our model that kept their own values (`allow_head_mismatch`).
        ignored: Names in the checkpoint that belong to a loss and not to a model.
    """

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]


def load_reference_checkpoint(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    allow_head_mismatch: bool = False,
) -> LoadReport:
    """Load released weights of SDPose, TokenPose or DistilPose into a `TokenPose` or `TokenReg`.

    >>> from cycledistill_pose.models import create_model
    >>> theirs = to_reference_state_dict(create_model("tokenpose_nano"), "sdpose")
    >>> report = load_reference_checkpoint(create_model("tokenpose_nano"), {"state_dict": theirs})
    >>> len(report.loaded), report.kept
    (106, ())

    The layout is recognised by its names:

    * SDPose and PPT (`keypoint_head.tokenpose.transformer_layer1`), TokenPose as re-trained
      with them (`keypoint_head.tokenpose.transformer`), and the regression heads of DistilPose
      and SDPose-Reg (`keypoint_head.tokenhead`), each with `backbone`;
    * TokenPose-B by its own authors (`pre_feature`, `transformer`; its HRNet is
      `HRNet(stage1_width=64)`), and TokenPose-S (`features`), which scales the attention by
      `dim ** -0.5`; the weights of its queries are rescaled on loading, so that the outputs
      are the same.

    Loading is strict: every tensor of the model must be in the checkpoint with its shape, and
    every tensor of the checkpoint must have a place in the model. The model is changed only when
    all of that holds. A fixed position embedding is taken from the checkpoint, too; where it is
    not the one that the model computes, a warning says so.

    Args:
        model: A `TokenPose` or `TokenReg`, or a cycled one.
        source: A `.safetensors` file, any other file that `torch.load` reads (with
            `weights_only=True`), or a state dict.
        allow_head_mismatch: Take a checkpoint of another number of keypoints or another kind of
            head: keypoint tokens and head keep their own values where they do not fit. Everything
            else must fit all the same.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, is of no known layout, or does not fit the model; the
            text lists what is missing, left over or of another shape.
        TypeError: `model` is not one of this package.
    """
    plain = _plain(model)
    theirs = read_tensors(source)
    layout = detect_layout(theirs)
    ignored = tuple(key for key in theirs if key.startswith(LOSS_PREFIXES))
    own = plain.state_dict()
    names = {name: layout.reference_name(name) for name in own}
    new = {name: theirs[key] for name, key in names.items() if key in theirs}
    missing = [n for n in names if n not in new and not n.endswith("num_batches_tracked")]
    left_over = sorted(theirs.keys() - set(names.values()) - set(ignored))
    misfits = [name for name, value in new.items() if value.shape != own[name].shape]
    if allow_head_mismatch:
        head_keys = layout.head + "mlp_head."
        missing = [name for name in missing if not name.startswith(_HEAD_NAMES)]
        left_over = [key for key in left_over if not key.startswith(head_keys)]
        _fit_learned_position(plain, own, new, misfits)
        for name in [name for name in misfits if name.startswith(_HEAD_NAMES)]:
            misfits.remove(name)
            new.pop(name)
        if any(name.startswith("head.") and name not in new for name in own):
            new = {name: value for name, value in new.items() if not name.startswith("head.")}
    faults = {
        "of another shape": [
            f"{names[name]} {list(new[name].shape)}, wanted {list(own[name].shape)}"
            for name in misfits
        ],
        "missing in the checkpoint": [names[name] for name in missing],
        "without a place in the model": left_over,
    }
    if any(faults.values()):
        raise ValueError(_complaint(plain, new.get("keypoint_tokens"), faults))
    _compare_position(plain, new)
    with torch.no_grad():
        for name, value in new.items():
            factor = layout.query_factor(name, plain.num_heads)
            own[name].copy_(_scale_queries(value, factor))
    return LoadReport(tuple(new), tuple(name for name in own if name not in new), ignored)


def to_reference_state_dict(model: nn.Module, layout: str = "sdpose") -> dict[str, Tensor]:
    """Return a model's weights under the names of a reference implementation.

    >>> from cycledistill_pose.models import create_model
    >>> state = to_reference_state_dict(create_model("tokenreg_nano"), "tokenpose")
    >>> sorted(state)[-1]
    'keypoint_head.tokenhead.transformer.layers.3.1.fn.norm.weight'

    Args:
        model: A `TokenPose` or `TokenReg`, or a cycled one.
        layout: `"sdpose"` (`transformer_layer1`), `"tokenpose"` (`transformer`; DistilPose,
            too), `"tokenpose-b-original"` or `"tokenpose-s-original"`. In the first two a
            regression head is called `tokenhead` and a heatmap head `tokenpose`.

    Raises:
        ValueError: No such layout.
        TypeError: `model` is not one of this package.
    """
    plain = _plain(model)
    check_choice("layout", layout, *LAYOUTS)
    names = LAYOUTS[layout]
    if isinstance(plain, TokenReg) and names.head.startswith("keypoint_head."):
        names = replace(names, head=REGRESSION_HEAD)
    state = {}
    for name, value in plain.state_dict().items():
        factor = names.query_factor(name, plain.num_heads)
        state[names.reference_name(name)] = _scale_queries(value, 1 / factor)
    return state


def _plain(model: nn.Module) -> TokenPose | TokenReg:
    plain = model.plain if isinstance(model, CycleWrapper) else model
    if not isinstance(plain, (TokenPose, TokenReg)):
        raise TypeError(
            "model: expected a TokenPose or TokenReg, or a CycleWrapper around one, "
            f"got {type(plain).__name__}"
        )
    return plain


def _scale_queries(value: Tensor, factor: float) -> Tensor:
    """The first third of the rows of a qkv weight times `factor`; a copy."""
    value = value.detach().clone()
    if factor != 1:
        value[: value.shape[0] // 3] *= factor
    return value


def _fit_learned_position(
    model: TokenPose | TokenReg,
    own: dict[str, Tensor],
    new: dict[str, Tensor],
    misfits: list[str],
) -> None:
    """A learned position has rows for the keypoints; with others of them, keep our own rows."""
    if "position" not in misfits or model.position_embedding != "learnable":
        return
    ours, theirs = own["position"], new["position"]
    num_visual = ours.shape[1] - model.num_keypoints
    num_extra = theirs.shape[1] - num_visual
    same_width = theirs.ndim == 3 and theirs.shape[2] == ours.shape[2]
    if same_width and num_extra == new["keypoint_tokens"].shape[1]:
        kept = ours[:, : model.num_keypoints].to(theirs)
        new["position"] = torch.cat([kept, theirs[:, num_extra:]], dim=1)
        misfits.remove("position")


def _compare_position(model: TokenPose | TokenReg, new: dict[str, Tensor]) -> None:
    if model.position_embedding == "learnable":
        return
    computed = model.position.float().cpu()
    difference = (new["position"].float().cpu() - computed).abs().max().item()
    if difference > 1e-4:
        warnings.warn(
            "the position embedding of the checkpoint differs from the sine embedding that the "
            f"model computes by up to {difference:.2g}; the checkpoint's is used",
            stacklevel=3,
        )


def _complaint(
    model: TokenPose | TokenReg, tokens: Tensor | None, faults: Mapping[str, Sequence[str]]
) -> str:
    """What does not fit; ``tokens`` are the checkpoint's keypoint tokens."""
    lines = [f"the checkpoint does not fit this {type(model).__name__}:"]
    if tokens is not None and tokens.shape != model.keypoint_tokens.shape:
        found = list(tokens.shape)
        lines.append(
            f"- it has {found[1] if len(found) == 3 else found} keypoints, the model has "
            f"{model.num_keypoints}; allow_head_mismatch=True loads all the rest"
        )
    for title, entries in faults.items():
        if entries:
            lines.append(f"- {len(entries)} {title}:")
            lines.extend(f"    {entry}" for entry in entries)
    return "\n".join(lines)

"""SDPose: the cycled models of the paper and their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill._checks import check_choice
from cycledistill_pose.losses import HeatmapMSELoss, RLELoss
from cycledistill_pose.models._create import create_model
from cycledistill_pose.models._token_model import TokenModel, token_groups
from cycledistill_pose.models._tokenreg import TokenReg

# As in the released code, not the paper's text: without a norm after the blocks, tokens that chase
# a constant can grow without bound.
DETACH_TEACHER = False

SDPOSE_MODELS: dict[str, tuple[str, int]] = {
    "sdpose_t": ("tokenpose_t", 3),
    "sdpose_s_v1": ("tokenpose_s_v1", 2),
    "sdpose_s_v2": ("tokenpose_s_v2", 2),
    "sdpose_b": ("tokenpose_b", 2),
    "sdpose_reg": ("tokenreg_s", 2),
    "sdpose_nano": ("tokenpose_nano", 2),
    "sdpose_reg_nano": ("tokenreg_nano", 2),
}


def create_sdpose(
    name: str,
    num_keypoints: int = 17,
    *,
    num_cycles: int | None = None,
    pretrained: bool = False,
    **options: Any,
) -> CycleWrapper:
    """Build a model of the SDPose paper: a plain network in a wrapper that cycles it.

    >>> cycled = create_sdpose("sdpose_t")
    >>> type(cycled.plain).__name__, cycled.num_cycles
    ('TokenPose', 3)

    | name | network | cycles |
    |---|---|---|
    | `sdpose_t` | `tokenpose_t` | 3 |
    | `sdpose_s_v1` | `tokenpose_s_v1` | 2 |
    | `sdpose_s_v2` | `tokenpose_s_v2` | 2 |
    | `sdpose_b` | `tokenpose_b` | 2 |
    | `sdpose_reg` | `tokenreg_s` | 2 |
    | `sdpose_nano` | `tokenpose_nano` | 2 |
    | `sdpose_reg_nano` | `tokenreg_nano` | 2 |

    For other options of the wrapper, wrap the network yourself:
    `CycleWrapper(create_model("tokenpose_t"), num_cycles=3, blocks="blocks", ...)`.

    Args:
        name: One of the table.
        num_keypoints: Number of keypoints.
        num_cycles: Cycles in training instead of the table's.
        pretrained: See `create_model`.
        **options: Options of the network; see `create_model`.

    Raises:
        ValueError: No such name, or options that do not fit.
    """
    check_choice("name", name, *SDPOSE_MODELS)
    network, cycles = SDPOSE_MODELS[name]
    model = create_model(network, num_keypoints, pretrained=pretrained, **options)
    return CycleWrapper(model, cycles if num_cycles is None else num_cycles, blocks="blocks")


def sdpose_loss(
    model: nn.Module | int,
    task_loss: Callable[..., Tensor] | None = None,
    *,
    token_weight: float | Mapping[str, float] = 5e-6,
    detach_teacher: bool = DETACH_TEACHER,
    **options: Any,
) -> CycleDistillLoss:
    """The loss of SDPose (eq. 4): a task loss on every cycle, and two groups of tokens distilled.

    >>> criterion = sdpose_loss(create_sdpose("sdpose_nano"))
    >>> criterion.token_groups
    {'keypoint': slice(0, 17, None), 'visual': slice(17, None, None)}

    Each cycle's keypoint tokens are pulled towards the next cycle's by their mean squared error,
    and so are its visual tokens, each with weight `token_weight` (5e-6 in the paper).

    Args:
        model: The model, cycled or plain; or the number of its keypoints.
        task_loss: Called as `task_loss(prediction, *targets)` on each cycle's prediction. By
            default `cycledistill_pose.losses.RLELoss` for a `TokenReg` and
            `cycledistill_pose.losses.HeatmapMSELoss` otherwise; the targets of both are
            `(target, weight)`. RLELoss has parameters of its own: give
            `criterion.parameters()` to the optimiser, too.
        token_weight: Weight of both groups, or `{"keypoint": ..., "visual": ...}`; 0 turns one off.
        detach_teacher: False, the released code: gradient into both cycles' tokens. True, the
            paper's text: none into the later one's. There is no norm after the blocks, so a
            student that chases a constant can make the tokens grow without bound (seen in training
            on LSPET: see the results page).
        **options: Other arguments of `cycledistill.CycleDistillLoss`, such as
            `task_cycles="last"`.

    Raises:
        TypeError: `model` is neither a number nor a model of this package.
    """
    plain = model.plain if isinstance(model, CycleWrapper) else model
    if isinstance(plain, TokenModel):
        groups = plain.token_groups
    elif isinstance(plain, int) and not isinstance(plain, bool):
        groups = token_groups(plain)
    else:
        raise TypeError(
            "model: expected a TokenPose or TokenReg, a CycleWrapper around one, or the number of "
            f"keypoints, got {type(plain).__name__}"
        )
    if task_loss is None:
        task_loss = RLELoss() if isinstance(plain, TokenReg) else HeatmapMSELoss()
    return CycleDistillLoss(
        task_loss,
        token_weight=token_weight,
        token_groups=groups,
        detach_teacher=detach_teacher,
        **options,
    )

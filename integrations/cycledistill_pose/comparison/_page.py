"""A comparison as one self-contained HTML file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from cycledistill_pose.comparison._cases import Case
from cycledistill_pose.comparison._compare import Comparison, between
from cycledistill_pose.drawing import draw_skeleton
from cycledistill_pose.drawing._picture import encode_picture
from cycledistill_pose.skeletons import Skeleton

_PAGE = Path(__file__).parent / "page.html"
_QUALITY = 80
_KINDS = {"worst": "lowest OKS", "best": "highest OKS", "differs": "networks differ most"}


class _Panel(NamedTuple):
    caption: str
    jpeg: str  # as base64
    width: int
    height: int


def comparison_page(comparison: Comparison) -> str:
    """The page: scores with intervals, then people with true and predicted skeletons.

    The HTML is self-contained, can be sorted, and follows the reader's light or dark scheme.
    """
    names = list(dict.fromkeys(row.checkpoint for row in comparison.rows))
    shown = [(case, _panels(case, names, comparison.skeleton)) for case in comparison.cases]
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(_PAGE.read_text(encoding="utf-8")).render(
        comparison=comparison, names=names, cases=shown, kinds=_KINDS, between=between
    )


def _panels(case: Case, names: list[str], skeleton: Skeleton) -> list[_Panel]:
    """The person with the true skeleton, then with each network's."""
    captions = [f"{name}: {value:.2f}" for name, value in zip(names, case.oks, strict=True)]
    drawn: list[tuple[str, Any, Any, float]] = [("truth", case.truth, case.visible, 0.0)]
    for caption, points, scores in zip(captions, case.predictions, case.scores, strict=True):
        drawn.append((caption, points, scores, 0.2))
    panels = []
    for caption, points, weights, threshold in drawn:
        picture = draw_skeleton(case.crop, points, weights, skeleton, threshold=threshold)
        jpeg = base64.b64encode(encode_picture(picture, quality=_QUALITY)).decode()
        panels.append(_Panel(caption, jpeg, picture.shape[1], picture.shape[0]))
    return panels

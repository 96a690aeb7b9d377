"""Growing and folding on people: heatmaps and coordinates."""

from __future__ import annotations

from dataclasses import replace

from experiments._config import RunConfig
from experiments._folding import (
    BEST_PLAIN,
    CHOSEN,
    GROWN,
    choosing,
    decisive,
    folded_from,
    grown_from,
    reported,
)
from experiments._image_run import ImageRun
from experiments._study import LSPET_PLAIN

PEOPLE = ImageRun(epochs=60, precision="bfloat16", task="lspet")


def _people_choices(plain: ImageRun) -> dict[str, ImageRun]:
    """Whether a second cycle has something to teach."""
    folded = folded_from(plain, grown_from(plain))
    return {
        "plain": plain,
        "folded": folded,
        GROWN: grown_from(plain),
    }


FOLD_PEOPLE_CHOICES = replace(
    choosing(
        "Does a second cycle teach one block x 64 anything about the people of LSPET?",
        _people_choices(PEOPLE),
        "folded",
    ),
    teachers=(GROWN,),
)


FOLD_PEOPLE = reported(
    "one block x 64 on the people of LSPET, with heatmaps",
    decisive(PEOPLE, equal=3.43),
    "one block x 64, people, heatmaps (PCK)",
    kept=(CHOSEN,),
)

FOLD_COORDINATES = reported(
    "one block x 64 on the people of LSPET, with coordinates",
    decisive(replace(PEOPLE, task="lspet-coordinates"), equal=3.47),
    "one block x 64, people, coordinates (PCK)",
)


def _people(plain: RunConfig, equal: float) -> dict[str, RunConfig]:
    """People: the teacher's heatmaps or coordinates beside the truth."""
    folded = replace(plain, mode="fold")
    return {
        "plain": plain,
        GROWN: replace(plain, mode="cycle"),
        "folded": folded,
        BEST_PLAIN[1]: replace(plain, epochs=2 * plain.epochs),
        BEST_PLAIN[2]: replace(plain, epochs=round(equal * plain.epochs)),
        "folded, fresh student": replace(folded, warm=False),
        "folded, truth weight 0.5": replace(folded, truth_weight=0.5),
    }


LSPET_FOLD = reported(
    "on the people of LSPET, with heatmaps",
    _people(LSPET_PLAIN, equal=3.2),
    "4 blocks x 96, people, heatmaps (PCK)",
    "folded",
)

LSPET_FOLD_REGRESSION = reported(
    "on the people of LSPET, with coordinates",
    _people(replace(LSPET_PLAIN, head="regression"), equal=3.2),
    "4 blocks x 96, people, coordinates (PCK)",
    "folded",
)


PEOPLE_STUDIES = {
    "fold-people-choices": FOLD_PEOPLE_CHOICES,
    "fold-people": FOLD_PEOPLE,
    "fold-coordinates": FOLD_COORDINATES,
    "lspet-fold": LSPET_FOLD,
    "lspet-fold-regression": LSPET_FOLD_REGRESSION,
}

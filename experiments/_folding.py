"""Growing and folding, as runs: a frozen teacher that was trained for its last cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments._image_run import ImageRun
from experiments._study import CHOOSING, Headline, Run, Study

FRESH = (30, 31, 32, 33, 34)

BEST_PLAIN = ("plain", "plain, twice the epochs", "plain, the whole recipe's arithmetic")
CHOSEN = "folded, truth weight 0.3"  # by the study of choices
GROWN = "grown: two cycles in use"
TEACHERS = (GROWN, "twice the blocks")
JOINT = "joint recipe: mean of task losses + prediction KL"


def grown_from(plain: ImageRun, cycles: int = 2) -> ImageRun:
    """Trained for its last cycle alone, and used with all of them."""
    return replace(plain, cycles=cycles, used=cycles)


def folded_from(plain: ImageRun, *teachers: ImageRun) -> ImageRun:
    """Taught by frozen networks, the first of which it starts from."""
    return replace(plain, teachers=teachers, warm=True)


def chosen(plain: ImageRun, *teachers: ImageRun) -> ImageRun:
    """Folded in the way that the study of choices has chosen."""
    return replace(folded_from(plain, *teachers), truth_weight=0.3)


def joint_from(plain: ImageRun) -> ImageRun:
    """Student and teacher in one, trained together: the best recipe of that kind."""
    return replace(plain, cycles=2, every_cycle=True, prediction_weight=1.0)


def lengths(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """The plain network, with more training; ``equal`` times as many epochs cost what folding does.

    Growing costs three forward passes of two cycles for each image, folding one of two cycles and
    three of one cycle.
    """
    equally = replace(plain, epochs=round(equal * plain.epochs))
    return dict(
        zip(BEST_PLAIN, (plain, replace(plain, epochs=2 * plain.epochs), equally), strict=True)
    )


def decisive(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Grown, folded, and the plain networks that folding has to beat."""
    grown = grown_from(plain)
    return {
        "plain": plain,
        GROWN: grown,
        CHOSEN: chosen(plain, grown),
        **lengths(plain, equal),
    }


def reported(
    what: str,
    variants: Mapping[str, Run],
    network: str | None = None,
    folded: str = CHOSEN,
    kept: tuple[str, ...] = (),
) -> Study:
    """A study with fresh seeds; with ``network``, ``folded`` is in the table on top of the page."""
    return Study(
        title=f"Does growing, then folding help {what}?",
        variants=variants,
        seeds=FRESH,
        baselines=tuple(name for name in variants if name.startswith("plain")),
        plot="differences",
        teachers=tuple(name for name in TEACHERS if name in variants),
        kept=kept,
        headline=Headline(network, GROWN, folded) if network else None,
    )


def choosing(title: str, variants: Mapping[str, Run], folded: str = CHOSEN) -> Study:
    """A study on the validation images, from which the next one's options are chosen."""
    return Study(
        title=title,
        variants=variants,
        seeds=CHOOSING,
        baselines=("plain", folded),
        split="val",
        plot="differences",
    )

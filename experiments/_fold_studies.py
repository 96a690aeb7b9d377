"""The studies of growing and folding; this file has those of 5,000 images."""

from __future__ import annotations

from dataclasses import replace

from experiments._fold_all_studies import ALL_STUDIES
from experiments._fold_people_studies import PEOPLE_STUDIES
from experiments._folding import (
    BEST_PLAIN,
    CHOSEN,
    GROWN,
    JOINT,
    TEACHERS,
    choosing,
    chosen,
    decisive,
    folded_from,
    grown_from,
    joint_from,
    reported,
)
from experiments._image_run import ImageRun

_LONGEST_PLAIN = "plain, the arithmetic of the recipe with a longer student"
_LONGER = "folded, truth weight 0.3, twice the epochs"
_PLAIN_OF_TWO = "plain, the arithmetic of the recipe with two teachers"
_AGAIN = "born again: a plain teacher, truth weight 0.3, from its weights"
_TWO_TEACHERS = "folded, two teachers: grown and twice the blocks"
_TWO_LONGER = f"{_TWO_TEACHERS}, twice the epochs"
_PLAIN_OF_TWO_LONGER = f"{_PLAIN_OF_TWO}, twice the epochs"


def _controls(plain: ImageRun) -> dict[str, ImageRun]:
    """Other teachers, and other ways to make a single pass better."""
    folded = folded_from(plain, grown_from(plain))
    return {
        "folded": folded,
        "folded, fresh student": replace(folded, warm=False),
        "born again: a plain teacher": replace(folded_from(plain, plain), warm=False),
        "a teacher of twice the blocks": replace(folded_from(plain, _deeper(plain)), warm=False),
        **_two_teachers(plain),
        JOINT: joint_from(plain),
        "label smoothing 0.1": replace(plain, label_smoothing=0.1),
        "dropout 0.1": replace(plain, dropout=0.1),
    }


def _two_teachers(plain: ImageRun) -> dict[str, ImageRun]:
    """A grown teacher and a deeper one."""
    return {
        TEACHERS[1]: _deeper(plain),
        _TWO_TEACHERS: folded_from(plain, grown_from(plain), _deeper(plain)),
    }


def _deeper(plain: ImageRun) -> ImageRun:
    return replace(plain, depth=2 * plain.depth)


FEW = ImageRun(epochs=100, train_samples=5000)


def _choices(plain: ImageRun) -> dict[str, ImageRun]:
    """One change at a time to the folded network."""
    folded = folded_from(plain, grown_from(plain))
    return {
        "plain": plain,
        "folded": folded,
        "temperature 1": replace(folded, temperature=1.0),
        "temperature 4": replace(folded, temperature=4.0),
        "truth weight 0": replace(folded, truth_weight=0.0),
        "truth weight 0.3": replace(folded, truth_weight=0.3),
        "three cycles": folded_from(plain, grown_from(plain, 3)),
        "twice the epochs": replace(folded, epochs=2 * plain.epochs),
        "class token's distance, weight 1": replace(folded, token_weight=1.0),
        "truth weight 0.3, temperature 4": replace(folded, truth_weight=0.3, temperature=4.0),
        "truth weight 0.5, temperature 4": replace(folded, truth_weight=0.5, temperature=4.0),
        "two grown teachers, truth weight 0.3, temperature 4": replace(
            folded_from(plain, grown_from(plain), grown_from(plain)),
            truth_weight=0.3,
            temperature=4.0,
        ),
    }


FOLD_CHOICES = choosing(
    "How should one block be folded: temperature, weight of the truth, teacher, length?",
    _choices(FEW),
    "folded",
)


def _more_images(plain: ImageRun) -> dict[str, ImageRun]:
    """Mixed images, and images whose labels are not used, at the arithmetic of the others."""
    folded = chosen(plain, grown_from(plain))
    longer = 4 * plain.epochs
    unlabelled = replace(folded, unlabelled=True, epochs=round(plain.epochs / 9))
    return {
        "plain": plain,
        CHOSEN: folded,
        "plain, mixup": replace(plain, mixup=True),
        "plain, mixup, four times the epochs": replace(plain, mixup=True, epochs=longer),
        "folded, mixup": replace(folded, mixup=True),
        "folded, mixup, four times the epochs": replace(folded, mixup=True, epochs=longer),
        "self-training: a plain teacher, 40,000 unlabelled images": replace(
            unlabelled, teachers=(plain,)
        ),
        "folded, 40,000 unlabelled images": unlabelled,
        "folded, 40,000 unlabelled images, four times the epochs": replace(
            unlabelled, epochs=4 * unlabelled.epochs
        ),
        "self-training, four times the epochs": replace(
            unlabelled, teachers=(plain,), epochs=4 * unlabelled.epochs
        ),
    }


FOLD_MORE_IMAGES = choosing(
    "What do mixed images, and images without labels, add to folding one block x 64?",
    _more_images(FEW),
)

FOLD_64 = reported(
    "a single pass of one block x 64 on 5,000 images",
    {
        **decisive(FEW, equal=3.42),
        **_controls(FEW),
        _PLAIN_OF_TWO: replace(FEW, epochs=584),
        _AGAIN: chosen(FEW, FEW),
    },
    "one block x 64, 5,000 images",
    kept=(CHOSEN,),
)


def _longer(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """The student trains for twice as long; ``equal`` times as many plain epochs cost the same."""
    return {
        _LONGER: replace(chosen(plain, grown_from(plain)), epochs=2 * plain.epochs),
        _LONGEST_PLAIN: replace(plain, epochs=round(equal * plain.epochs)),
    }


def _two_longer(plain: ImageRun, equal: int) -> dict[str, ImageRun]:
    """The longer student of two teachers, all in bfloat16; ``equal`` plain epochs cost the same."""
    fast = replace(plain, precision="bfloat16")
    grown, deeper = grown_from(fast), _deeper(fast)
    return {
        TEACHERS[1]: deeper,
        _TWO_LONGER: replace(chosen(fast, grown, deeper), epochs=2 * plain.epochs),
        _PLAIN_OF_TWO_LONGER: replace(fast, epochs=equal),
    }


MIXED = replace(FEW, mixup=True, epochs=400)

FOLD_64_MIXED = reported(
    "one block x 64 on 5,000 images with Mixup",
    {
        **decisive(MIXED, equal=3.42),
        **_longer(MIXED, equal=5.03),
        **_two_longer(MIXED, equal=3220),
    },
    "one block x 64, 5,000 images, Mixup",
    _LONGER,
    kept=(BEST_PLAIN[2], GROWN, CHOSEN),
)


def _mixed_choices(plain: ImageRun) -> dict[str, ImageRun]:
    """Whether folding needs the truth when images are mixed, and training needs float32."""
    folded = chosen(plain, grown_from(plain))
    return {
        "plain": plain,
        CHOSEN: folded,
        "truth weight 0": replace(folded, truth_weight=0.0),
        "plain, bfloat16": replace(plain, precision="bfloat16"),
    }


FOLD_MIXED_CHOICES = choosing(
    "How should one block x 64 be folded when images are mixed?", _mixed_choices(MIXED)
)

_WIDE = replace(FEW, width=128)
_DEEP = replace(FEW, depth=3, precision="bfloat16")

FOLD_128_CHOICES = choosing(
    "Does what was chosen for one block x 64 help one block x 128?",
    {"plain": _WIDE, CHOSEN: chosen(_WIDE, grown_from(_WIDE))},
)

FOLD_128 = reported(
    "a single pass of one block x 128 on 5,000 images",
    {
        **decisive(_WIDE, equal=3.53),
        **_two_teachers(_WIDE),
        _PLAIN_OF_TWO: replace(_WIDE, epochs=606),
        _AGAIN: chosen(_WIDE, _WIDE),
    },
    "one block x 128, 5,000 images",
)

_WIDE_MIXED = replace(MIXED, width=128, precision="bfloat16")

FOLD_128_MIXED = reported(
    "a single pass of one block x 128 on 5,000 images with Mixup",
    {**decisive(_WIDE_MIXED, equal=3.53), **_longer(_WIDE_MIXED, equal=5.16)},
    "one block x 128, 5,000 images, Mixup",
    _LONGER,
    kept=(_LONGER,),
)

FOLD_THREE_BLOCKS = reported(
    "a single pass of three blocks x 64 on 5,000 images",
    {
        **decisive(_DEEP, equal=3.57),
        _AGAIN: chosen(_DEEP, _DEEP),
    },
    "three blocks x 64, 5,000 images",
)


FOLD_STUDIES = {
    "fold-choices": FOLD_CHOICES,
    "fold-more-images": FOLD_MORE_IMAGES,
    "fold-64": FOLD_64,
    "fold-64-mixed": FOLD_64_MIXED,
    "fold-mixed-choices": FOLD_MIXED_CHOICES,
    "fold-128-choices": FOLD_128_CHOICES,
    "fold-128": FOLD_128,
    "fold-128-mixed": FOLD_128_MIXED,
    "fold-three-blocks": FOLD_THREE_BLOCKS,
    **ALL_STUDIES,
    **PEOPLE_STUDIES,
}

"""The studies of networks for several numbers of cycles, and of what cycles in use are for."""

from __future__ import annotations

from dataclasses import replace

from experiments._fold_all_studies import ALL
from experiments._fold_studies import FEW, MIXED
from experiments._folding import FRESH, GROWN, JOINT, folded_from, grown_from, joint_from
from experiments._image_run import ImageRun
from experiments._pointers import PointerRun
from experiments._study import CHOOSING, Study

_NORMS = "the same, norms of its own for the second cycle"
_THREE, _FOUR = (f"grown: {count} cycles in use" for count in ("three", "four"))
_BOTH = "the grown network teaches both speeds"


def _taught(plain: ImageRun) -> ImageRun:
    """Both cycles are taught by the frozen grown network, whose weights they start from."""
    return replace(folded_from(plain, grown_from(plain)), cycles=2, every_cycle=True)


def _speeds(plain: ImageRun) -> dict[str, ImageRun]:
    """One network for one cycle and for two; beside it a network for each."""
    return {
        "plain": plain,
        GROWN: grown_from(plain),
        JOINT: joint_from(plain),
        _BOTH: _taught(plain),
    }


SPEEDS_CHOICES = Study(
    title="How does one network of one block x 64 learn to be used with one cycle and with two?",
    variants={**_speeds(FEW), _NORMS: replace(_taught(FEW), own_norms=True)},
    seeds=CHOOSING,
    baselines=("plain",),
    split="val",
    plot="differences",
    teachers=(GROWN,),
    deep=GROWN,
)


def _both_speeds(plain: ImageRun, images: str, kept: tuple[str, ...] = ()) -> Study:
    """With fresh seeds, beside a network for each speed."""
    return Study(
        title="Can one network of one block x 64 be used with one cycle and with two, each as good "
        f"as a network trained for it on {images} images?",
        variants=_speeds(plain),
        seeds=FRESH,
        baselines=("plain",),
        plot="cycles",
        teachers=(GROWN,),
        kept=kept,
        deep=GROWN,
    )


def _up_to_four(plain: ImageRun) -> dict[str, ImageRun]:
    """One network for one to four cycles; beside it a network for each."""
    deepest = grown_from(plain, 4)
    taught = replace(folded_from(plain, deepest), cycles=4, every_cycle=True)
    return {
        "plain": plain,
        GROWN: grown_from(plain),
        _THREE: grown_from(plain, 3),
        _FOUR: deepest,
        "taught at all four speeds by the network grown for four": taught,
    }


SPEEDS_FOUR = Study(
    title="Can one network of one block x 64 be used with one to four cycles?",
    variants=_up_to_four(FEW),
    seeds=FRESH,
    baselines=("plain",),
    plot="cycles",
    teachers=(GROWN, _THREE, _FOUR),
    deep=_FOUR,
)

SPEEDS_64 = _both_speeds(FEW, "5,000")
_64_MIXED = _both_speeds(MIXED, "5,000 mixed", kept=(_BOTH,))
SPEEDS_64_MIXED = replace(  # in bfloat16, the joint recipe takes a third of the time
    _64_MIXED,
    variants={**_64_MIXED.variants, JOINT: joint_from(replace(MIXED, precision="bfloat16"))},
)
SPEEDS_ALL = _both_speeds(ALL, "45,000", kept=(_BOTH,))


def _pointers(shallow: PointerRun, blocks: int) -> dict[str, PointerRun]:
    """One block that is run again, beside as many blocks and beside one that is run once."""
    return {
        "one block": shallow,
        f"one block, {blocks} cycles in use": replace(shallow, cycles=blocks),
        f"{blocks} blocks": replace(shallow, depth=blocks),
    }


POINTERS_4 = Study(
    title="Can one block that is used twice follow a pointer four times?",
    variants=_pointers(PointerRun(), blocks=2),
    seeds=FRESH,
    baselines=("one block", "2 blocks"),
)

POINTERS_8 = Study(
    title="Can one block that is used three times follow a pointer eight times?",
    variants=_pointers(PointerRun(epochs=2, places=10, hops=8), blocks=3),
    seeds=FRESH,
    baselines=("one block", "3 blocks"),
)

SPEED_STUDIES = {
    "speeds-choices": SPEEDS_CHOICES,
    "speeds-64": SPEEDS_64,
    "speeds-64-mixed": SPEEDS_64_MIXED,
    "speeds-four": SPEEDS_FOUR,
    "speeds-all": SPEEDS_ALL,
    "pointers-4": POINTERS_4,
    "pointers-8": POINTERS_8,
}

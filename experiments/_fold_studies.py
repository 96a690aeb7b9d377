"""The studies of growing and folding: a frozen teacher that was trained for its last cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments._config import RunConfig
from experiments._image_run import ImageRun
from experiments._pointers import PointerRun
from experiments._study import CHOOSING, LSPET_PLAIN, Headline, Run, Study

_FRESH = (30, 31, 32, 33, 34)

_BEST_PLAIN = ("plain", "plain, twice the epochs", "plain, the whole recipe's arithmetic")
_CHOSEN = "folded, truth weight 0.3"  # by the study of choices
_THREE, _FOUR = (f"grown: {count} cycles in use" for count in ("three", "four"))
_BOTH = "the grown network teaches both speeds"
_TEACHERS = ("grown: two cycles in use", "twice the blocks")


def _grown(plain: ImageRun, cycles: int = 2) -> ImageRun:
    """Trained for its last cycle alone, and used with all of them."""
    return replace(plain, cycles=cycles, used=cycles)


def _folded(plain: ImageRun, *teachers: ImageRun) -> ImageRun:
    """Taught by frozen networks, the first of which it starts from."""
    return replace(plain, teachers=teachers, warm=True)


def _lengths(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """The plain network, with more training; ``equal`` times as many epochs cost what folding does.

    Growing costs three forward passes of two cycles for each image, folding one of two cycles and
    three of one cycle.
    """
    equally = replace(plain, epochs=round(equal * plain.epochs))
    return dict(
        zip(_BEST_PLAIN, (plain, replace(plain, epochs=2 * plain.epochs), equally), strict=True)
    )


def _whole(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """All that the question needs beside it."""
    grown, deeper = _grown(plain), replace(plain, depth=2 * plain.depth)
    folded = _folded(plain, grown)
    joint = replace(plain, cycles=2, every_cycle=True, prediction_weight=1.0)
    return {
        "plain": plain,
        _TEACHERS[0]: grown,
        "folded": folded,
        _CHOSEN: replace(folded, truth_weight=0.3),
        **_lengths(plain, equal),
        "folded, fresh student": replace(folded, warm=False),
        "born again: a plain teacher": replace(_folded(plain, plain), warm=False),
        "a teacher of twice the blocks": replace(_folded(plain, deeper), warm=False),
        _TEACHERS[1]: deeper,
        "folded, two teachers: grown and twice the blocks": _folded(plain, grown, deeper),
        "joint recipe: mean of task losses + prediction KL": joint,
        "label smoothing 0.1": replace(plain, label_smoothing=0.1),
        "dropout 0.1": replace(plain, dropout=0.1),
    }


def _reported(
    what: str,
    variants: Mapping[str, Run],
    network: str,
    folded: str = _CHOSEN,
    kept: tuple[str, ...] = (),
) -> Study:
    """A study with fresh seeds, whose ``folded`` variant stands in the table on top of the page."""
    return Study(
        title=f"Does growing, then folding help {what}?",
        variants=variants,
        seeds=_FRESH,
        baselines=_BEST_PLAIN,
        plot="differences",
        teachers=tuple(name for name in _TEACHERS if name in variants),
        kept=kept,
        headline=Headline(network, _TEACHERS[0], folded),
    )


_FEW = ImageRun(epochs=100, train_samples=5000)


def _choices(plain: ImageRun) -> dict[str, ImageRun]:
    """One change at a time to the folded network."""
    folded = _folded(plain, _grown(plain))
    return {
        "plain": plain,
        "folded": folded,
        "temperature 1": replace(folded, temperature=1.0),
        "temperature 4": replace(folded, temperature=4.0),
        "truth weight 0": replace(folded, truth_weight=0.0),
        "truth weight 0.3": replace(folded, truth_weight=0.3),
        "three cycles": _folded(plain, _grown(plain, 3)),
        "twice the epochs": replace(folded, epochs=2 * plain.epochs),
        "class token's distance, weight 1": replace(folded, token_weight=1.0),
        "four cycles": _folded(plain, _grown(plain, 4)),
        "four times the epochs": replace(folded, epochs=4 * plain.epochs),
        "two grown teachers": _folded(plain, _grown(plain), _grown(plain)),
        "truth weight 0.3, temperature 4": replace(folded, truth_weight=0.3, temperature=4.0),
        "truth weight 0.5, temperature 4": replace(folded, truth_weight=0.5, temperature=4.0),
        "two grown teachers, truth weight 0.3, temperature 4": replace(
            _folded(plain, _grown(plain), _grown(plain)), truth_weight=0.3, temperature=4.0
        ),
    }


FOLD_CHOICES = Study(
    title="How should one block be folded: temperature, weight of the truth, teacher, length?",
    variants=_choices(_FEW),
    seeds=CHOOSING,
    baselines=("plain", "folded"),
    split="val",
    plot="differences",
)


def _more_images(plain: ImageRun) -> dict[str, ImageRun]:
    """Mixed images, and images whose labels are not used, at the arithmetic of the others."""
    folded = replace(_folded(plain, _grown(plain)), truth_weight=0.3)
    longer = 4 * plain.epochs
    unlabelled = replace(folded, unlabelled=True, epochs=round(plain.epochs / 9))
    return {
        "plain": plain,
        _CHOSEN: folded,
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


FOLD_MORE_IMAGES = Study(
    title="What do mixed images, and images without labels, add to folding one block x 64?",
    variants=_more_images(_FEW),
    seeds=CHOOSING,
    baselines=("plain", _CHOSEN),
    split="val",
    plot="differences",
)

FOLD_64 = _reported(
    "a single pass of one block x 64 on 5,000 images",
    _whole(_FEW, equal=3.42),
    "one block x 64, 5,000 images",
    kept=(_TEACHERS[0], _CHOSEN),
)


def _mixed(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """All networks, the teacher too, train on mixed images."""
    grown = _grown(plain)
    return {
        "plain": plain,
        _TEACHERS[0]: grown,
        _CHOSEN: replace(_folded(plain, grown), truth_weight=0.3),
        **_lengths(plain, equal),
    }


_MIXED = replace(_FEW, mixup=True, epochs=400)

FOLD_64_MIXED = _reported(
    "one block x 64 on 5,000 images with Mixup",
    _mixed(_MIXED, equal=3.42),
    "one block x 64, 5,000 images, Mixup",
    kept=(_BEST_PLAIN[2], _TEACHERS[0], _CHOSEN),
)

_WIDE = replace(_FEW, width=128)
_DEEP = replace(_FEW, depth=3)


def _wide_choices(plain: ImageRun) -> dict[str, ImageRun]:
    """What a wider block could need, which memorises its images sooner."""
    grown = _grown(plain)
    folded = replace(_folded(plain, grown), truth_weight=0.3)
    mixed, longer = replace(folded, mixup=True), 2 * plain.epochs
    return {
        "plain": plain,
        _CHOSEN: folded,
        "plain, mixup": replace(plain, mixup=True),
        "folded, mixup": mixed,
        "folded, twice the epochs": replace(folded, epochs=longer),
        "folded, mixup, twice the epochs": replace(mixed, epochs=longer),
        "plain, mixup, twice the epochs": replace(plain, mixup=True, epochs=longer),
        "plain, dropout 0.1": replace(plain, dropout=0.1),
        "folded, two grown teachers": replace(
            _folded(plain, grown, grown), truth_weight=0.3, temperature=4.0
        ),
        "folded, both networks with mixup": replace(
            _folded(plain, replace(grown, mixup=True)), truth_weight=0.3, mixup=True
        ),
    }


FOLD_128_CHOICES = Study(
    title="How should one block x 128 be folded: mixed images, length, teachers?",
    variants=_wide_choices(_WIDE),
    seeds=CHOOSING,
    baselines=("plain", _CHOSEN),
    split="val",
    plot="differences",
)

FOLD_128 = _reported(
    "a single pass of one block x 128 on 5,000 images",
    _whole(_WIDE, equal=3.53),
    "one block x 128, 5,000 images",
    kept=(_CHOSEN,),
)

FOLD_THREE_BLOCKS = _reported(
    "a single pass of three blocks x 64 on 5,000 images",
    _whole(_DEEP, equal=3.57),
    "three blocks x 64, 5,000 images",
)

_ALL = ImageRun(epochs=40, batch_size=250, lr=3e-3)


def _patient(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Where images are not memorised: the student trains for twice as long."""
    grown = _grown(plain)
    folded = _folded(plain, grown)
    return {
        "plain": plain,
        _TEACHERS[0]: grown,
        "folded": replace(folded, epochs=2 * plain.epochs),
        **_lengths(plain, equal),
        "folded, as many epochs as plain": folded,
        "born again, from the teacher's weights": _folded(plain, plain),
    }


FOLD_64_ALL = _reported(
    "a single pass of one block x 64 on 45,000 images",
    _patient(_ALL, equal=5.03),
    "one block x 64, 45,000 images",
    "folded",
    kept=(_BEST_PLAIN[0], _BEST_PLAIN[2], _TEACHERS[0], "folded"),
)

FOLD_128_ALL = _reported(
    "a single pass of one block x 128 on 45,000 images",
    _patient(replace(_ALL, width=128), equal=5.16),
    "one block x 128, 45,000 images",
    "folded",
)

# ViT-Ti with patches of 4 px: hours of a GPU.
_TINY = replace(
    _ALL, epochs=100, width=192, depth=12, head_dim=64, patch_size=4, batch_size=500, lr=1e-3
)

FOLD_TINY_ALL = _reported(
    "a single pass of ViT-Ti/4 on 45,000 images",
    _patient(_TINY, equal=5.3),
    "ViT-Ti/4, 45,000 images",
    "folded",
)


def _speeds(plain: ImageRun) -> dict[str, ImageRun]:
    """One network for one cycle and for two; beside it a network for each."""
    grown = _grown(plain)
    both = replace(_folded(plain, grown), cycles=2, every_cycle=True)
    rich = replace(both, own_norms=True, adapter_rank=16)
    return {
        "plain": plain,
        _TEACHERS[0]: grown,
        "joint recipe: mean of task losses + prediction KL": replace(
            plain, cycles=2, every_cycle=True, prediction_weight=1.0
        ),
        _BOTH: both,
        "the same, norms of its own for the second cycle": replace(both, own_norms=True),
        "the same, and adapters of rank 16": rich,
        "the same, twice the epochs": replace(rich, epochs=2 * plain.epochs),
    }


SPEEDS_CHOICES = Study(
    title="How does one network of one block x 64 learn to be used with one cycle and with two?",
    variants=_speeds(_FEW),
    seeds=CHOOSING,
    baselines=("plain",),
    split="val",
    plot="differences",
    teachers=_TEACHERS[:1],
    deep=_TEACHERS[0],
)


def _both_speeds(plain: ImageRun, images: str, kept: tuple[str, ...] = ()) -> Study:
    """With fresh seeds, beside a network for each speed."""
    return Study(
        title="Can one network of one block x 64 be used with one cycle and with two, each as good "
        f"as a network trained for it on {images} images?",
        variants=_speeds(plain),
        seeds=_FRESH,
        baselines=("plain",),
        plot="cycles",
        teachers=_TEACHERS[:1],
        kept=kept,
        deep=_TEACHERS[0],
    )


def _up_to_four(plain: ImageRun) -> dict[str, ImageRun]:
    """One network for one to four cycles; beside it a network for each."""
    deepest = _grown(plain, 4)
    taught = replace(_folded(plain, deepest), cycles=4, every_cycle=True)
    return {
        "plain": plain,
        _TEACHERS[0]: _grown(plain),
        _THREE: _grown(plain, 3),
        _FOUR: deepest,
        "taught at all four speeds by the network grown for four": taught,
    }


SPEEDS_FOUR = Study(
    title="Can one network of one block x 64 be used with one to four cycles?",
    variants=_up_to_four(_FEW),
    seeds=_FRESH,
    baselines=("plain",),
    plot="cycles",
    teachers=(_TEACHERS[0], _THREE, _FOUR),
    deep=_FOUR,
)

SPEEDS_64 = _both_speeds(_FEW, "5,000")
SPEEDS_64_MIXED = _both_speeds(_MIXED, "5,000 mixed", kept=(_BOTH,))
SPEEDS_ALL = _both_speeds(_ALL, "45,000", kept=("the same, twice the epochs",))


def _people(plain: RunConfig, equal: float) -> dict[str, RunConfig]:
    """People: the teacher's heatmaps or coordinates beside the truth."""
    folded = replace(plain, mode="fold")
    return {
        "plain": plain,
        _TEACHERS[0]: replace(plain, mode="cycle"),
        "folded": folded,
        _BEST_PLAIN[1]: replace(plain, epochs=2 * plain.epochs),
        _BEST_PLAIN[2]: replace(plain, epochs=round(equal * plain.epochs)),
        "folded, fresh student": replace(folded, warm=False),
        "folded, truth weight 0.5": replace(folded, truth_weight=0.5),
    }


LSPET_FOLD = _reported(
    "on the people of LSPET, with heatmaps",
    _people(LSPET_PLAIN, equal=3.2),
    "4 blocks x 96, people, heatmaps (PCK)",
    "folded",
)

LSPET_FOLD_REGRESSION = _reported(
    "on the people of LSPET, with coordinates",
    _people(replace(LSPET_PLAIN, head="regression"), equal=3.2),
    "4 blocks x 96, people, coordinates (PCK)",
    "folded",
)


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
    seeds=_FRESH,
    baselines=("one block", "2 blocks"),
)

POINTERS_8 = Study(
    title="Can one block that is used three times follow a pointer eight times?",
    variants=_pointers(PointerRun(epochs=2, places=10, hops=8), blocks=3),
    seeds=_FRESH,
    baselines=("one block", "3 blocks"),
)

FOLD_STUDIES = {
    "fold-choices": FOLD_CHOICES,
    "fold-more-images": FOLD_MORE_IMAGES,
    "fold-64": FOLD_64,
    "fold-64-mixed": FOLD_64_MIXED,
    "fold-128-choices": FOLD_128_CHOICES,
    "fold-128": FOLD_128,
    "fold-three-blocks": FOLD_THREE_BLOCKS,
    "fold-64-all": FOLD_64_ALL,
    "fold-128-all": FOLD_128_ALL,
    "fold-tiny-all": FOLD_TINY_ALL,
    "speeds-choices": SPEEDS_CHOICES,
    "speeds-64": SPEEDS_64,
    "speeds-64-mixed": SPEEDS_64_MIXED,
    "speeds-four": SPEEDS_FOUR,
    "speeds-all": SPEEDS_ALL,
    "lspet-fold": LSPET_FOLD,
    "lspet-fold-regression": LSPET_FOLD_REGRESSION,
    "pointers-4": POINTERS_4,
    "pointers-8": POINTERS_8,
}

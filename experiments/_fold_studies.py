"""The studies of growing and folding: a frozen teacher that was trained for its last cycle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experiments._config import RunConfig
from experiments._image_run import ImageRun
from experiments._study import CHOOSING, LSPET_PLAIN, Headline, Run, Study

FRESH = (30, 31, 32, 33, 34)

_BEST_PLAIN = ("plain", "plain, twice the epochs", "plain, the whole recipe's arithmetic")
_CHOSEN = "folded, truth weight 0.3"  # by the study of choices
_LONGEST_PLAIN = "plain, the arithmetic of the recipe with a longer student"
_LONGER = "folded, truth weight 0.3, twice the epochs"
_PLAIN_OF_TWO = "plain, the arithmetic of the recipe with two teachers"
_TWO_TEACHERS = "folded, two teachers: grown and twice the blocks"
_ON_VIEWS = "folded, truth weight 0.3, 20 views of each image"
_SHARP = "folded, truth weight 0.3, temperature 1, 20 views of each image"
GROWN = "grown: two cycles in use"
_TEACHERS = (GROWN, "twice the blocks")


def grown_from(plain: ImageRun, cycles: int = 2) -> ImageRun:
    """Trained for its last cycle alone, and used with all of them."""
    return replace(plain, cycles=cycles, used=cycles)


def folded_from(plain: ImageRun, *teachers: ImageRun) -> ImageRun:
    """Taught by frozen networks, the first of which it starts from."""
    return replace(plain, teachers=teachers, warm=True)


def _chosen(plain: ImageRun, *teachers: ImageRun) -> ImageRun:
    """Folded in the way that the study of choices has chosen."""
    return replace(folded_from(plain, *teachers), truth_weight=0.3)


def _chosen_on_views(plain: ImageRun, grown: ImageRun) -> ImageRun:
    """Folded as the choices on views that come again have shown."""
    return replace(_chosen(plain, grown), temperature=1.0, views=20)


def _lengths(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """The plain network, with more training; ``equal`` times as many epochs cost what folding does.

    Growing costs three forward passes of two cycles for each image, folding one of two cycles and
    three of one cycle.
    """
    equally = replace(plain, epochs=round(equal * plain.epochs))
    return dict(
        zip(_BEST_PLAIN, (plain, replace(plain, epochs=2 * plain.epochs), equally), strict=True)
    )


def _decisive(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Grown, folded, and the plain networks that folding has to beat."""
    grown = grown_from(plain)
    return {
        "plain": plain,
        GROWN: grown,
        _CHOSEN: _chosen(plain, grown),
        **_lengths(plain, equal),
    }


def _controls(plain: ImageRun) -> dict[str, ImageRun]:
    """Other teachers, and other ways to make a single pass better."""
    grown, deeper = grown_from(plain), replace(plain, depth=2 * plain.depth)
    folded = folded_from(plain, grown)
    joint = replace(plain, cycles=2, every_cycle=True, prediction_weight=1.0)
    return {
        "folded": folded,
        "folded, fresh student": replace(folded, warm=False),
        "born again: a plain teacher": replace(folded_from(plain, plain), warm=False),
        "a teacher of twice the blocks": replace(folded_from(plain, deeper), warm=False),
        **_two_teachers(plain),
        "joint recipe: mean of task losses + prediction KL": joint,
        "label smoothing 0.1": replace(plain, label_smoothing=0.1),
        "dropout 0.1": replace(plain, dropout=0.1),
    }


def _reported(
    what: str,
    variants: Mapping[str, Run],
    network: str | None = None,
    folded: str = _CHOSEN,
    kept: tuple[str, ...] = (),
) -> Study:
    """A study with fresh seeds; with ``network``, ``folded`` is in the table on top of the page."""
    return Study(
        title=f"Does growing, then folding help {what}?",
        variants=variants,
        seeds=FRESH,
        baselines=tuple(name for name in variants if name.startswith("plain")),
        plot="differences",
        teachers=tuple(name for name in _TEACHERS if name in variants),
        kept=kept,
        headline=Headline(network, GROWN, folded) if network else None,
    )


def _choosing(title: str, variants: Mapping[str, Run], folded: str = _CHOSEN) -> Study:
    """A study on the validation images, from which the next one's options are chosen."""
    return Study(
        title=title,
        variants=variants,
        seeds=CHOOSING,
        baselines=("plain", folded),
        split="val",
        plot="differences",
    )


def _two_teachers(plain: ImageRun) -> dict[str, ImageRun]:
    """A grown teacher and a deeper one."""
    deeper = replace(plain, depth=2 * plain.depth)
    return {
        _TEACHERS[1]: deeper,
        _TWO_TEACHERS: folded_from(plain, grown_from(plain), deeper),
    }


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


FOLD_CHOICES = _choosing(
    "How should one block be folded: temperature, weight of the truth, teacher, length?",
    _choices(FEW),
    "folded",
)


def _more_images(plain: ImageRun) -> dict[str, ImageRun]:
    """Mixed images, and images whose labels are not used, at the arithmetic of the others."""
    folded = _chosen(plain, grown_from(plain))
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


FOLD_MORE_IMAGES = _choosing(
    "What do mixed images, and images without labels, add to folding one block x 64?",
    _more_images(FEW),
)

FOLD_64 = _reported(
    "a single pass of one block x 64 on 5,000 images",
    {
        **_decisive(FEW, equal=3.42),
        **_controls(FEW),
        _PLAIN_OF_TWO: replace(FEW, epochs=584),
    },
    "one block x 64, 5,000 images",
    kept=(GROWN, _CHOSEN),
)


def _longer(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """The student trains for twice as long; ``equal`` times as many plain epochs cost the same."""
    return {
        _LONGER: replace(_chosen(plain, grown_from(plain)), epochs=2 * plain.epochs),
        _LONGEST_PLAIN: replace(plain, epochs=round(equal * plain.epochs)),
    }


MIXED = replace(FEW, mixup=True, epochs=400)

FOLD_64_MIXED = _reported(
    "one block x 64 on 5,000 images with Mixup",
    {**_decisive(MIXED, equal=3.42), **_longer(MIXED, equal=5.03)},
    "one block x 64, 5,000 images, Mixup",
    _LONGER,
    kept=(_BEST_PLAIN[2], GROWN, _CHOSEN),
)


def _mixed_choices(plain: ImageRun) -> dict[str, ImageRun]:
    """Whether folding needs the truth when images are mixed, and training needs float32."""
    folded = _chosen(plain, grown_from(plain))
    return {
        "plain": plain,
        _CHOSEN: folded,
        "truth weight 0": replace(folded, truth_weight=0.0),
        "plain, bfloat16": replace(plain, precision="bfloat16"),
    }


FOLD_MIXED_CHOICES = _choosing(
    "How should one block x 64 be folded when images are mixed?", _mixed_choices(MIXED)
)

_WIDE = replace(FEW, width=128)
_DEEP = replace(FEW, depth=3)

FOLD_128_CHOICES = _choosing(
    "Does what was chosen for one block x 64 help one block x 128?",
    {"plain": _WIDE, _CHOSEN: _chosen(_WIDE, grown_from(_WIDE))},
)

FOLD_128 = _reported(
    "a single pass of one block x 128 on 5,000 images",
    {
        **_decisive(_WIDE, equal=3.53),
        **_two_teachers(_WIDE),
        _PLAIN_OF_TWO: replace(_WIDE, epochs=606),
    },
    "one block x 128, 5,000 images",
)

_WIDE_MIXED = replace(MIXED, width=128, precision="bfloat16")

FOLD_128_MIXED = _reported(
    "a single pass of one block x 128 on 5,000 images with Mixup",
    {**_decisive(_WIDE_MIXED, equal=3.53), **_longer(_WIDE_MIXED, equal=5.16)},
    "one block x 128, 5,000 images, Mixup",
    _LONGER,
    kept=(_LONGER,),
)

FOLD_THREE_BLOCKS = _reported(
    "a single pass of three blocks x 64 on 5,000 images",
    _decisive(_DEEP, equal=3.57),
    "three blocks x 64, 5,000 images",
)

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
    _choosing(
        "Does a second cycle teach one block x 64 anything about the people of LSPET?",
        _people_choices(PEOPLE),
        "folded",
    ),
    teachers=(GROWN,),
)


FOLD_PEOPLE = _reported(
    "one block x 64 on the people of LSPET, with heatmaps",
    _decisive(PEOPLE, equal=3.43),
    "one block x 64, people, heatmaps (PCK)",
    kept=(_CHOSEN,),
)

FOLD_COORDINATES = _reported(
    "one block x 64 on the people of LSPET, with coordinates",
    _decisive(replace(PEOPLE, task="lspet-coordinates"), equal=3.47),
    "one block x 64, people, coordinates (PCK)",
)

ALL = ImageRun(epochs=40, batch_size=250, lr=3e-3)


def _patient(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Where images are not memorised: the student trains for twice as long."""
    grown = grown_from(plain)
    folded = folded_from(plain, grown)
    return {
        "plain": plain,
        GROWN: grown,
        "folded": replace(folded, epochs=2 * plain.epochs),
        **_lengths(plain, equal),
        "folded, as many epochs as plain": folded,
        "born again, from the teacher's weights": folded_from(plain, plain),
    }


FOLD_64_ALL = _reported(  # the study of 400 epochs is in the table in its place
    "a single pass of one block x 64 on 45,000 images", _patient(ALL, equal=5.03)
)

_LONG = replace(ALL, epochs=200, precision="bfloat16")
_LONG_GROWN = grown_from(replace(_LONG, epochs=80))

FOLD_ALL_CHOICES = replace(
    _choosing(
        "On 45,000 images, is folding one block x 64 ahead of plain training that is as long?",
        {
            "plain": _LONG,
            GROWN: _LONG_GROWN,
            "folded": folded_from(_LONG, _LONG_GROWN),
        },
        "folded",
    ),
    teachers=(GROWN,),
)


def _all_choices(network: str, plain: ImageRun, equal: int) -> Study:
    """Folded by a teacher of 40 epochs; ``equal`` plain epochs cost as much as the whole recipe."""
    grown = grown_from(replace(plain, epochs=40))
    choices = _choosing(
        f"On 45,000 images, is folding {network} ahead of plain training that costs as much?",
        {
            "plain": replace(plain, epochs=equal),
            GROWN: grown,
            "folded": folded_from(plain, grown),
        },
        "folded",
    )
    return replace(choices, teachers=(GROWN,))


_HUNDRED = replace(_LONG, epochs=100)

FOLD_128_ALL_CHOICES = _all_choices("one block x 128", replace(_HUNDRED, width=128), 239)
FOLD_THREE_ALL_CHOICES = _all_choices("three blocks x 64", replace(_HUNDRED, depth=3), 242)


def _regularised(plain: ImageRun) -> dict[str, ImageRun]:
    """What else keeps a network from memorising its images, and folding beside the best of it.

    The folded network is trained for as much arithmetic as the plain ones, its teacher included.
    """
    exact = replace(plain, precision="float32")
    folded = _chosen_on_views(exact, grown_from(replace(exact, epochs=40)))
    return {
        "plain": plain,
        "plain, mixup": replace(plain, mixup=True),
        "plain, label smoothing 0.1": replace(plain, label_smoothing=0.1),
        "plain, dropout 0.1": replace(plain, dropout=0.1),
        f"{_SHARP}, mixup, float32": replace(folded, mixup=True, epochs=150),
    }


FOLD_128_ALL_REGULARISED = replace(
    _choosing(
        "On 45,000 images, does a regulariser give one block x 128 what folding gives it?",
        _regularised(replace(_HUNDRED, width=128, epochs=239)),
    ),
    baselines=("plain", "plain, mixup"),
)


def _on_views(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Folded for twice as long as ``plain``, on twenty views of each image."""
    grown = grown_from(replace(plain, epochs=40))
    folded = replace(_chosen(plain, grown), views=20, epochs=2 * plain.epochs)
    lengths = _lengths(plain, equal)
    mixed = replace(lengths[_BEST_PLAIN[2]], mixup=True, precision="float32")
    return {
        "plain": plain,
        GROWN: grown,
        _ON_VIEWS: folded,
        **lengths,
        f"{_BEST_PLAIN[2]}, float32, mixup": mixed,
    }


FOLD_128_ALL = _reported(
    "a single pass of one block x 128 on 45,000 images",
    _on_views(replace(_HUNDRED, width=128), equal=2.89),
    "one block x 128, 45,000 images",
    _ON_VIEWS,
)


def _view_choices(plain: ImageRun, grown: ImageRun) -> dict[str, ImageRun]:
    """One change at a time to a student on twenty views of each image."""
    folded = replace(folded_from(plain, grown), views=20)
    sharp = replace(folded, truth_weight=0.3, temperature=1.0)
    return {
        GROWN: grown,
        "folded": folded,
        "truth weight 0.3": replace(folded, truth_weight=0.3),
        "truth weight 0.6": replace(folded, truth_weight=0.6),
        "temperature 1": replace(folded, temperature=1.0),
        "truth weight 0.3, temperature 1": sharp,
        "truth weight 0.3, temperature 1, twice the epochs": replace(
            sharp, epochs=2 * plain.epochs
        ),
        _BEST_PLAIN[1]: replace(plain, epochs=2 * plain.epochs),
    }


FOLD_VIEWS_CHOICES = replace(
    _choosing(
        "On 45,000 images, how should one block x 64 be folded on views that come again?",
        _view_choices(replace(_LONG, epochs=100), _LONG_GROWN),
        "folded",
    ),
    baselines=("folded", _BEST_PLAIN[1]),
    teachers=(GROWN,),
)


def _sharp(plain: ImageRun, grown: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Folded in as many epochs as ``plain`` has."""
    return {
        "plain": plain,
        GROWN: grown,
        _SHARP: _chosen_on_views(plain, grown),
        "plain, half the epochs, float32": replace(ALL, epochs=201),
        _BEST_PLAIN[2]: replace(plain, epochs=round(equal * plain.epochs)),
    }


FOLD_64_ALL_LONGER = _reported(
    "a single pass of one block x 64 that is trained on 45,000 images for 400 epochs",
    _sharp(replace(_LONG, epochs=400), _LONG_GROWN, equal=1.393),
    "one block x 64, 45,000 images",
    _SHARP,
    kept=(_BEST_PLAIN[2], GROWN, _SHARP),
)

_WIDE_PATIENT = replace(_HUNDRED, width=128, epochs=400)


def _patient_on_views(plain: ImageRun, equal: int) -> dict[str, ImageRun]:
    """Folded in as many epochs as ``plain`` has, against Mixup and shorter training."""
    grown = grown_from(replace(plain, epochs=40))
    shorter = replace(plain, epochs=289)
    return {
        "plain, 289 epochs": shorter,
        GROWN: grown,
        _ON_VIEWS + ", 200 epochs": replace(_chosen(plain, grown), views=20, epochs=200),
        _SHARP: _chosen_on_views(plain, grown),
        "plain, 289 epochs, float32, mixup": replace(shorter, mixup=True, precision="float32"),
        f"{_BEST_PLAIN[2]}, mixup": replace(plain, mixup=True, epochs=equal),
    }


FOLD_128_ALL_LONGER = _reported(
    "a single pass of one block x 128 that is trained on 45,000 images for 400 epochs",
    _patient_on_views(replace(_HUNDRED, width=128, epochs=400), equal=489),
)

# ViT-Ti with patches of 4 px: hours of a GPU.
_TINY = replace(
    ALL, epochs=100, width=192, depth=12, head_dim=64, patch_size=4, batch_size=500, lr=1e-3
)

FOLD_TINY_ALL = _reported(
    "a single pass of ViT-Ti/4 on 45,000 images",
    _patient(_TINY, equal=5.3),
    "ViT-Ti/4, 45,000 images",
    "folded",
)


def _people(plain: RunConfig, equal: float) -> dict[str, RunConfig]:
    """People: the teacher's heatmaps or coordinates beside the truth."""
    folded = replace(plain, mode="fold")
    return {
        "plain": plain,
        GROWN: replace(plain, mode="cycle"),
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
    "fold-64-all": FOLD_64_ALL,
    "fold-64-all-longer": FOLD_64_ALL_LONGER,
    "fold-128-all": FOLD_128_ALL,
    "fold-128-all-longer": FOLD_128_ALL_LONGER,
    "fold-all-choices": FOLD_ALL_CHOICES,
    "fold-views-choices": FOLD_VIEWS_CHOICES,
    "fold-128-all-choices": FOLD_128_ALL_CHOICES,
    "fold-128-all-regularised": FOLD_128_ALL_REGULARISED,
    "fold-three-all-choices": FOLD_THREE_ALL_CHOICES,
    "fold-people-choices": FOLD_PEOPLE_CHOICES,
    "fold-people": FOLD_PEOPLE,
    "fold-coordinates": FOLD_COORDINATES,
    "fold-tiny-all": FOLD_TINY_ALL,
    "lspet-fold": LSPET_FOLD,
    "lspet-fold-regression": LSPET_FOLD_REGRESSION,
}

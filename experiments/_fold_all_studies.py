"""Growing and folding on all images, which are not memorised."""

from __future__ import annotations

from dataclasses import replace

from experiments._folding import (
    BEST_PLAIN,
    GROWN,
    choosing,
    chosen,
    folded_from,
    grown_from,
    lengths,
    reported,
)
from experiments._image_run import ImageRun
from experiments._study import Study

_ON_VIEWS = "folded, truth weight 0.3, 20 views of each image"
_SHARP = "folded, truth weight 0.3, temperature 1, 20 views of each image"


def _chosen_on_views(plain: ImageRun, grown: ImageRun) -> ImageRun:
    """Folded as the choices on views that come again have shown."""
    return replace(chosen(plain, grown), temperature=1.0, views=20)


ALL = ImageRun(epochs=40, batch_size=250, lr=3e-3)


def _patient(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Where images are not memorised: the student trains for twice as long."""
    grown = grown_from(plain)
    folded = folded_from(plain, grown)
    return {
        "plain": plain,
        GROWN: grown,
        "folded": replace(folded, epochs=2 * plain.epochs),
        **lengths(plain, equal),
        "folded, as many epochs as plain": folded,
        "born again, from the teacher's weights": folded_from(plain, plain),
    }


FOLD_64_ALL = reported(  # the study of 400 epochs is in the table in its place
    "a single pass of one block x 64 on 45,000 images", _patient(ALL, equal=5.03)
)

_LONG = replace(ALL, epochs=200, precision="bfloat16")
_LONG_GROWN = grown_from(replace(_LONG, epochs=80))

FOLD_ALL_CHOICES = replace(
    choosing(
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
    choices = choosing(
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
    choosing(
        "On 45,000 images, does a regulariser give one block x 128 what folding gives it?",
        _regularised(replace(_HUNDRED, width=128, epochs=239)),
    ),
    baselines=("plain", "plain, mixup"),
)


def _on_views(plain: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Folded for twice as long as ``plain``, on twenty views of each image."""
    grown = grown_from(replace(plain, epochs=40))
    folded = replace(chosen(plain, grown), views=20, epochs=2 * plain.epochs)
    plains = lengths(plain, equal)
    mixed = replace(plains[BEST_PLAIN[2]], mixup=True, precision="float32")
    return {
        "plain": plain,
        GROWN: grown,
        _ON_VIEWS: folded,
        **plains,
        f"{BEST_PLAIN[2]}, float32, mixup": mixed,
    }


FOLD_128_ALL = reported(  # the study of 400 epochs is in the table in its place
    "a single pass of one block x 128 on 45,000 images",
    _on_views(replace(_HUNDRED, width=128), equal=2.89),
)


def _view_choices(plain: ImageRun, grown: ImageRun) -> dict[str, ImageRun]:
    """One change at a time to a student on twenty views of each image."""
    folded = replace(folded_from(plain, grown), views=20)
    sharp = _chosen_on_views(plain, grown)
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
        BEST_PLAIN[1]: replace(plain, epochs=2 * plain.epochs),
    }


FOLD_VIEWS_CHOICES = replace(
    choosing(
        "On 45,000 images, how should one block x 64 be folded on views that come again?",
        _view_choices(replace(_LONG, epochs=100), _LONG_GROWN),
        "folded",
    ),
    baselines=("folded", BEST_PLAIN[1]),
    teachers=(GROWN,),
)


def _sharp(plain: ImageRun, grown: ImageRun, equal: float) -> dict[str, ImageRun]:
    """Folded in as many epochs as ``plain`` has."""
    return {
        "plain": plain,
        GROWN: grown,
        _SHARP: _chosen_on_views(plain, grown),
        "plain, half the epochs, float32": replace(ALL, epochs=201),
        BEST_PLAIN[2]: replace(plain, epochs=round(equal * plain.epochs)),
    }


FOLD_64_ALL_LONGER = reported(
    "a single pass of one block x 64 that is trained on 45,000 images for 400 epochs",
    _sharp(replace(_LONG, epochs=400), _LONG_GROWN, equal=1.393),
    "one block x 64, 45,000 images",
    _SHARP,
    kept=(BEST_PLAIN[2], GROWN, _SHARP),
)


def _patient_on_views(plain: ImageRun, equal: int) -> dict[str, ImageRun]:
    """Folded in as many epochs as ``plain`` has, against Mixup and shorter training."""
    grown = grown_from(replace(plain, epochs=40))
    shorter = replace(plain, epochs=289)
    return {
        "plain, 289 epochs": shorter,
        GROWN: grown,
        f"{_ON_VIEWS}, 200 epochs": replace(chosen(plain, grown), views=20, epochs=200),
        _SHARP: _chosen_on_views(plain, grown),
        "plain, 289 epochs, float32, mixup": replace(shorter, mixup=True, precision="float32"),
        f"{BEST_PLAIN[2]}, mixup": replace(plain, mixup=True, epochs=equal),
    }


FOLD_128_ALL_LONGER = reported(
    "a single pass of one block x 128 that is trained on 45,000 images for 400 epochs",
    _patient_on_views(replace(_HUNDRED, width=128, epochs=400), equal=489),
    "one block x 128, 45,000 images",
    _SHARP,
)

# ViT-Ti with patches of 4 px: hours of a GPU.
_TINY = replace(
    ALL, epochs=100, width=192, depth=12, head_dim=64, patch_size=4, batch_size=500, lr=1e-3
)

FOLD_TINY_ALL = reported(
    "a single pass of ViT-Ti/4 on 45,000 images",
    _patient(_TINY, equal=5.3),
    "ViT-Ti/4, 45,000 images",
    "folded",
)


ALL_STUDIES = {
    "fold-64-all": FOLD_64_ALL,
    "fold-64-all-longer": FOLD_64_ALL_LONGER,
    "fold-128-all": FOLD_128_ALL,
    "fold-128-all-longer": FOLD_128_ALL_LONGER,
    "fold-all-choices": FOLD_ALL_CHOICES,
    "fold-views-choices": FOLD_VIEWS_CHOICES,
    "fold-128-all-choices": FOLD_128_ALL_CHOICES,
    "fold-128-all-regularised": FOLD_128_ALL_REGULARISED,
    "fold-three-all-choices": FOLD_THREE_ALL_CHOICES,
    "fold-tiny-all": FOLD_TINY_ALL,
}

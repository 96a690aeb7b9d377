"""The studies: which runs there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from experiments._config import RunConfig
from experiments._fold_studies import FOLD_STUDIES
from experiments._retrofit_studies import RETROFIT_STUDIES
from experiments._speed_studies import SPEED_STUDIES
from experiments._study import CHOOSING, LSPET_PLAIN, REPORTING, Study

_DIGITS = RunConfig(task="digits", mode="plain", epochs=400, lr=5e-3)


def _lengths(plain: RunConfig, *choices: tuple[float, int]) -> dict[str, RunConfig]:
    """The plain network with other pairs of a learning rate and a number of epochs."""
    return {
        f"plain, rate {lr:g}, {epochs} epochs": replace(plain, lr=lr, epochs=epochs)
        for lr, epochs in choices
    }


DIGITS_LENGTH = Study(
    title="At which learning rate and from which length on does training the plain model twice as "
    "long no longer help?",
    variants=_lengths(_DIGITS, *product((1e-3, 2e-3, 5e-3, 1e-2), (50, 100, 200, 400, 800))),
    seeds=CHOOSING,
    baselines=("plain, rate 0.002, 400 epochs",),
    split="val",
)

_CIFAR10 = RunConfig(
    task="cifar10",
    mode="plain",
    epochs=50,
    train_samples=5000,
    patch_size=8,
    width=64,
    depth=3,
)

CIFAR10_LENGTH = Study(
    title="The same questions for 5,000 images of CIFAR-10.",
    variants=_lengths(
        _CIFAR10, (2e-3, 25), (2e-3, 50), (2e-3, 100), (2e-3, 200), (1e-3, 50), (5e-3, 50)
    ),
    seeds=CHOOSING[:1],
    baselines=("plain, rate 0.002, 50 epochs",),
    split="val",
)


def _main(plain: RunConfig) -> dict[str, RunConfig]:
    """The method as published, and what its training MACs or its MACs with two cycles could buy."""
    paper = replace(plain, mode="distill")
    return {
        "plain": plain,
        "plain, twice the epochs": replace(plain, epochs=2 * plain.epochs),
        "plain, twice the blocks": replace(plain, depth=2 * plain.depth),
        "paper's recipe": paper,
        "paper's recipe + prediction KL": replace(paper, prediction_weight=1.0),
        "paper's recipe, mean of task losses": replace(paper, task_cycles="mean"),
        "two cycles without distillation": replace(plain, mode="cycle"),
    }


def _cut(plain: RunConfig) -> RunConfig:
    """The recipe that the digits' options led to: no gradient into an earlier cycle."""
    return replace(plain, mode="distill", task_cycles="mean", prediction_weight=1.0, grad_cycles=1)


def _picked(variants: Mapping[str, RunConfig], *names: str) -> dict[str, RunConfig]:
    return {name: variants[name] for name in names}


_LEAST = ("plain", "plain, twice the epochs", "paper's recipe")


def _options(plain: RunConfig) -> dict[str, RunConfig]:
    """The paper's ablations and the library's other options, one at a time."""
    paper = replace(plain, mode="distill")
    tokens = replace(paper, token_weight=1.0)
    predictions = replace(paper, prediction_weight=1.0, task_cycles="mean")
    return {
        "plain": plain,
        "paper's recipe": paper,
        "half the learning rate": replace(paper, lr=paper.lr / 2),
        "three cycles without distillation": replace(plain, mode="cycle", num_cycles=3),
        "four cycles without distillation": replace(plain, mode="cycle", num_cycles=4),
        "three cycles": replace(paper, num_cycles=3),
        "three cycles, the last teaches all": replace(paper, num_cycles=3, teacher="last"),
        "no token distance": replace(paper, token_weight=0.0),
        "token weight 0.001": replace(paper, token_weight=1e-3),
        "token weight 1": tokens,
        "token weight 1, gradient into the teacher": replace(tokens, detach_teacher=False),
        "token weight 1, cosine": replace(tokens, distance="cosine"),
        "token weight 1, smooth L1": replace(tokens, distance="smooth_l1"),
        "mean of task losses + prediction KL": predictions,
        "the same, three cycles": replace(predictions, num_cycles=3),
        "the same, cycles after 40 % of the training": replace(predictions, cycles_from=0.4),
        "the same, one or two cycles at random": replace(predictions, min_cycles=1),
        "the same, cycle embedding": replace(predictions, cycle_embedding=True),
        "the same, adapters of rank 4": replace(predictions, adapter_rank=4),
        "the same, input injection 0.5": replace(predictions, input_injection=0.5),
        "the same, gradients through one cycle": replace(predictions, grad_cycles=1),
    }


DIGITS = Study(
    title="Does the method help on 500 digits, once the plain model is trained to the end?",
    variants=_main(_DIGITS),
    seeds=REPORTING,
)

_TRAINED_FOR = {n: replace(_DIGITS, epochs=n) for n in (100, 200, 400, 800)}

DIGITS_EPOCHS = Study(
    title="Does the paper's recipe need longer training?",
    variants={
        **{f"plain, {n} epochs": plain for n, plain in _TRAINED_FOR.items()},
        **{
            f"paper's recipe, {n} epochs": replace(p, mode="distill")
            for n, p in _TRAINED_FOR.items()
        },
    },
    seeds=REPORTING,
    baselines=tuple(f"plain, {n} epochs" for n in _TRAINED_FOR),
)

# What looked best above, once more with seeds that nobody has seen.
DIGITS_AGAIN = Study(
    title="Does the mean of the cycles' task losses help, with fresh seeds?",
    variants=_picked(
        _main(_DIGITS), "plain", "plain, twice the epochs", "paper's recipe, mean of task losses"
    ),
    seeds=tuple(range(10, 15)),
)

DIGITS_OPTIONS = Study(
    title="Which options help on 500 digits?",
    variants=_options(_DIGITS),
    seeds=(*CHOOSING, 102),
    baselines=("plain", "paper's recipe"),
    split="val",
    plot="differences",
)


def _parts(plain: RunConfig) -> dict[str, RunConfig]:
    """The recipe without one of its parts, or with one more."""
    cut = _cut(plain)
    return {
        "plain": plain,
        "cut: mean of task losses, prediction KL": cut,
        "cut, without prediction KL": replace(cut, prediction_weight=0.0),
        "cut, task losses alone": replace(cut, prediction_weight=0.0, token_weight=0.0),
        "cut, sum of task losses": replace(cut, prediction_weight=0.0, task_cycles="all"),
        "cut, three cycles": replace(cut, num_cycles=3),
        "cut, cycle embedding": replace(cut, cycle_embedding=True),
        "cut, cycles after 40 % of the training": replace(cut, cycles_from=0.4),
        "not cut": replace(cut, grad_cycles=None),
    }


_DIGITS_PAPER = replace(_DIGITS, mode="distill")
_DIGITS_TASK = replace(_DIGITS_PAPER, token_weight=0.0)

# The rows of the paper's table 5, a ViT's class token in the place of keypoint tokens.
DIGITS_PARTS = Study(
    title="Which parts of the paper's loss help a single pass on 500 digits?",
    variants={
        **_picked(_main(_DIGITS), "plain"),
        "last cycle's task loss": replace(_DIGITS_TASK, task_cycles="last"),
        "last cycle's task loss + all tokens": replace(_DIGITS_PAPER, task_cycles="last"),
        "every cycle's task loss": _DIGITS_TASK,
        "every cycle's task loss + class token": replace(_DIGITS_PAPER, token_group="class"),
        "every cycle's task loss + patch tokens": replace(_DIGITS_PAPER, token_group="patch"),
        **_picked(_main(_DIGITS), "paper's recipe"),
    },
    baselines=("plain", "paper's recipe"),
    plot="differences",
)

DIGITS_RECIPE = Study(
    title="Does cutting the gradients between the cycles help, with fresh seeds?",
    variants={
        **_picked(_main(_DIGITS), "plain", "plain, twice the epochs"),
        "mean of task losses + prediction KL": replace(_cut(_DIGITS), grad_cycles=None),
        "the same, gradients cut": _cut(_DIGITS),
    },
    seeds=tuple(range(20, 28)),
)

DIGITS_CUT = Study(
    title="What makes cutting the gradients between the cycles help?",
    variants=_parts(_DIGITS),
    seeds=DIGITS_OPTIONS.seeds,
    baselines=("plain", "not cut"),
    split="val",
    plot="differences",
)


def _regularised(plain: RunConfig, *rates: float) -> dict[str, RunConfig]:
    """The plain network with what else keeps it from learning by heart, one at a time."""
    found = {}
    for rate in rates:
        found[f"plain, label smoothing {rate:g}"] = replace(plain, label_smoothing=rate)
        found[f"plain, dropout {rate:g}"] = replace(plain, dropout=rate)
        found[f"plain, stochastic depth {rate:g}"] = replace(plain, drop_path=rate)
    return found


def _weighed(plain: RunConfig, *weights: float) -> dict[str, RunConfig]:
    """The recipe with other weights of the divergence between predictions, cut and not."""
    cut = _cut(plain)
    found = {f"cut, prediction KL {w:g}": replace(cut, prediction_weight=w) for w in weights}
    most = replace(cut, prediction_weight=weights[-1], grad_cycles=None)
    return found | {f"not cut, prediction KL {weights[-1]:g}": most}


DIGITS_REGULARISERS = Study(
    title="Do other regularisers do as much on 500 digits, and how much should predictions weigh?",
    variants={
        "plain": _DIGITS,
        **_regularised(_DIGITS, 0.1, 0.3),
        "plain, weight decay 0.5": replace(_DIGITS, weight_decay=0.5),
        **_weighed(_DIGITS, 1.0, 2.0, 4.0),
        "cut, label smoothing 0.1": replace(_cut(_DIGITS), label_smoothing=0.1),
    },
    seeds=DIGITS_OPTIONS.seeds,
    baselines=("plain", "cut, prediction KL 1"),
    split="val",
    plot="differences",
)

# Dropout looked best above: beside it, with seeds that did not choose it.
_DIGITS_DROPOUT = replace(_DIGITS, dropout=0.1)

DIGITS_DROPOUT = Study(
    title="Does the recipe help on 500 digits where the plain network has dropout too?",
    variants={
        "plain": _DIGITS,
        "recipe": _cut(_DIGITS),
        "dropout": _DIGITS_DROPOUT,
        "dropout, twice the epochs": replace(_DIGITS_DROPOUT, epochs=2 * _DIGITS.epochs),
        "dropout + paper's recipe": replace(_DIGITS_DROPOUT, mode="distill"),
        "dropout + recipe": _cut(_DIGITS_DROPOUT),
        "dropout + recipe, not cut": replace(_cut(_DIGITS_DROPOUT), grad_cycles=None),
    },
    seeds=DIGITS_RECIPE.seeds[:5],
    baselines=("dropout", "dropout, twice the epochs"),
)


def _short(plain: RunConfig) -> dict[str, RunConfig]:
    """What an evening can answer."""
    return _picked(
        {**_main(plain), **_options(plain), "the same, gradients cut": _cut(plain)},
        *_LEAST,
        "mean of task losses + prediction KL",
        "the same, gradients cut",
        "two cycles without distillation",
        "plain, twice the blocks",
    )


CIFAR10 = Study(
    title="Does the method help on 5,000 images of CIFAR-10?",
    variants=_short(_CIFAR10),
)

CIFAR10_SHALLOW = Study(
    title="Does the method help where a single block is too few?",
    variants=_short(replace(_CIFAR10, depth=1)),
)

_CIFAR10_ONE_BLOCK = replace(_CIFAR10, depth=1, epochs=100)

CIFAR10_SHALLOW_LONGER = Study(
    title="Does the method help with a single block that is trained for twice as long?",
    variants=_short(_CIFAR10_ONE_BLOCK),
)

_REGULARISERS = ("plain, label smoothing 0.1", "plain, dropout 0.1")

# What looked best there in a single pass, once more with seeds that nobody has seen.
CIFAR10_SHALLOW_AGAIN = Study(
    title="Does the KL divergence between predictions help a single block, with fresh seeds?",
    variants=_picked(
        {**_short(_CIFAR10_ONE_BLOCK), **_regularised(_CIFAR10_ONE_BLOCK, 0.1)},
        *_LEAST[:2],
        "mean of task losses + prediction KL",
        *_REGULARISERS,
    ),
    seeds=(10, 11, 12, 13),
)

CIFAR10_NARROW = Study(
    title="Does the method help where the blocks are half as wide?",
    variants=_picked(
        _main(replace(_CIFAR10, width=32)),
        *_LEAST,
        "two cycles without distillation",
        "plain, twice the blocks",
    ),
)

_CIFAR10_DROPOUT = replace(_CIFAR10, dropout=0.1)

CIFAR10_OPTIONS = Study(
    title="Do the recipe and dropout help on 5,000 images of CIFAR-10?",
    variants={
        "plain": _CIFAR10,
        "dropout 0.1": _CIFAR10_DROPOUT,
        "recipe": _cut(_CIFAR10),
        "dropout 0.1 + recipe": _cut(_CIFAR10_DROPOUT),
        "dropout 0.1 + recipe, not cut": replace(_cut(_CIFAR10_DROPOUT), grad_cycles=None),
    },
    seeds=DIGITS_OPTIONS.seeds,
    baselines=("plain", "dropout 0.1"),
    split="val",
    plot="differences",
)

_CIFAR10_BARE = replace(_CIFAR10, augmented=False)

CIFAR10_BARE = Study(
    title="Does the method help on 5,000 images of CIFAR-10 without augmentation?",
    variants={
        **_picked(_main(_CIFAR10_BARE), *_LEAST),
        "mean of task losses + prediction KL, gradients cut": _cut(_CIFAR10_BARE),
        **_picked(_regularised(_CIFAR10_BARE, 0.1), *_REGULARISERS),
    },
)

CIFAR10_MIXED = Study(
    title="Does the method help on 5,000 images of CIFAR-10 with Mixup and CutMix?",
    variants=_picked(_main(replace(_CIFAR10, mixed=True, epochs=100)), *_LEAST),
)


LSPET_LENGTH = Study(
    title="The same questions for heatmaps on LSPET.",
    variants=_lengths(LSPET_PLAIN, (5e-4, 60), (1e-3, 60), (2e-3, 60), (1e-3, 30), (1e-3, 120)),
    seeds=CHOOSING[:1],
    baselines=("plain, rate 0.001, 60 epochs",),
    split="val",
)

_LSPET_REGRESSION = replace(LSPET_PLAIN, head="regression")

LSPET_REGRESSION_LENGTH = Study(
    title="The same questions for coordinates on LSPET.",
    variants=_lengths(
        _LSPET_REGRESSION, (5e-4, 30), (1e-3, 30), (2e-3, 30), (4e-3, 30), (1e-3, 60)
    ),
    seeds=CHOOSING[:1],
    baselines=("plain, rate 0.001, 30 epochs",),
    split="val",
)


def _pose(plain: RunConfig) -> dict[str, RunConfig]:
    """As ``_short``, where the paper's recipe is the released one: gradients into the teacher."""
    released = replace(plain, mode="distill", detach_teacher=False)
    return {
        **_picked(_main(plain), "plain", "plain, twice the epochs"),
        "paper's recipe": released,
        "mean of task losses": replace(released, task_cycles="mean"),
        **_picked(_main(plain), "two cycles without distillation", "plain, twice the blocks"),
    }


LSPET = Study(
    title="Does the method help on the people of LSPET, with heatmaps?",
    variants=_pose(LSPET_PLAIN),
)

LSPET_RECIPE = Study(
    title="Does the recipe of the digits carry over to LSPET?",
    variants={
        **_picked(_main(LSPET_PLAIN), "plain", "plain, twice the epochs"),
        "mean of task losses + prediction MSE, gradients cut": _cut(LSPET_PLAIN),
        "the same, no token distance": replace(_cut(LSPET_PLAIN), token_weight=0.0),
    },
    seeds=REPORTING[:1],
)

LSPET_REGRESSION = Study(
    title="Does the method help on the people of LSPET, with coordinates?",
    variants=_picked(_pose(replace(_LSPET_REGRESSION, epochs=36)), *_LEAST),
)

_CIFAR10_LARGER = RunConfig(
    task="cifar10",
    mode="plain",
    epochs=40,
    train_samples=18000,
    width=192,
    depth=6,
    head_dim=64,
    batch_size=200,
    lr=1e-3,
)

CIFAR10_LARGER = Study(
    title="Does the method help in a larger network on 18,000 images of CIFAR-10?",
    variants=_short(_CIFAR10_LARGER),
)

STUDIES = {
    "digits-length": DIGITS_LENGTH,
    "digits": DIGITS,
    "digits-again": DIGITS_AGAIN,
    "digits-epochs": DIGITS_EPOCHS,
    "digits-options": DIGITS_OPTIONS,
    "digits-parts": DIGITS_PARTS,
    "digits-cut": DIGITS_CUT,
    "digits-recipe": DIGITS_RECIPE,
    "digits-regularisers": DIGITS_REGULARISERS,
    "digits-dropout": DIGITS_DROPOUT,
    "cifar10-length": CIFAR10_LENGTH,
    "cifar10": CIFAR10,
    "cifar10-shallow": CIFAR10_SHALLOW,
    "cifar10-shallow-longer": CIFAR10_SHALLOW_LONGER,
    "cifar10-shallow-again": CIFAR10_SHALLOW_AGAIN,
    "cifar10-narrow": CIFAR10_NARROW,
    "cifar10-bare": CIFAR10_BARE,
    "cifar10-mixed": CIFAR10_MIXED,
    "cifar10-options": CIFAR10_OPTIONS,
    "cifar10-larger": CIFAR10_LARGER,
    "lspet-length": LSPET_LENGTH,
    "lspet": LSPET,
    "lspet-recipe": LSPET_RECIPE,
    "lspet-regression-length": LSPET_REGRESSION_LENGTH,
    "lspet-regression": LSPET_REGRESSION,
    **FOLD_STUDIES,
    **SPEED_STUDIES,
    **RETROFIT_STUDIES,
}

"""The studies of pretrained networks that go on training in cycles."""

from __future__ import annotations

from dataclasses import replace

from experiments._retrofit import RetrofitRun
from experiments._study import CHOOSING, Study

_FRESH = (50, 51, 52, 53, 54)
_PAPER = 5e-6
_PLAIN = ("plain", "plain, twice the epochs")

_FEW = RetrofitRun("images", "plain", epochs=15)
_MIDDLE = "blocks.2:4"


def _rates(*variants: tuple[str, RetrofitRun]) -> dict[str, RetrofitRun]:
    """Each at two learning rates."""
    return {
        f"{name}, rate {lr:g}": replace(config, lr=lr)
        for name, config in variants
        for lr in (1e-3, 3e-3)
    }


PRETRAINED_RATE = Study(
    title="At which learning rate does the pretrained ViT learn five classes from few images?",
    variants=_rates(
        ("plain", _FEW),
        ("all blocks, two cycles in use", replace(_FEW, mode="cycle")),
        ("gated middle, two cycles in use", replace(_FEW, mode="cycle", gate=True, blocks=_MIDDLE)),
    ),
    seeds=CHOOSING,
    baselines=("plain, rate 0.001",),
    split="val",
    plot="differences",
)


def _ways(plain: RetrofitRun) -> dict[str, RetrofitRun]:
    """The plain network's further training, and in cycles."""
    cycle, paper = replace(plain, mode="cycle"), replace(plain, mode="distill", token_weight=_PAPER)
    middle = replace(cycle, blocks=_MIDDLE)
    return {
        _PLAIN[0]: plain,
        _PLAIN[1]: replace(plain, epochs=2 * plain.epochs),
        "paper's recipe, all blocks": paper,
        "paper's recipe, all blocks, gated": replace(paper, gate=True),
        "all blocks, two cycles in use": cycle,
        "all blocks, gated, two cycles in use": replace(cycle, gate=True),
        "middle, two cycles in use": middle,
        "middle, gated, two cycles in use": replace(middle, gate=True),
        "middle, grown gated, then folded": replace(middle, mode="fold", gate=True),
        "paper's recipe from 0.3 to 0.8 of the training, gated": replace(
            paper, gate=True, cycles_from=0.3, cycles_until=0.8
        ),
    }


PRETRAINED = Study(
    title="Do cycles help a pretrained ViT to learn five classes from 50 images each?",
    variants=_ways(_FEW),
    seeds=_FRESH,
    baselines=_PLAIN,
    plot="differences",
)

_MORE = RetrofitRun("text", "plain", epochs=1, batch_size=8)
_LOOPED = replace(_MORE, mode="cycle")

PRETRAINED_TEXT = Study(
    title="Do cycles help a pretrained GPT-2 that goes on with its text?",
    variants={
        _PLAIN[0]: _MORE,
        _PLAIN[1]: replace(_MORE, epochs=2),
        "all blocks, two cycles in use": _LOOPED,
        "all blocks, gated, two cycles in use": replace(_LOOPED, gate=True),
        "all blocks, gated, norm of the input, two cycles in use": replace(
            _LOOPED, gate=True, cycle_norm="input"
        ),
    },
    seeds=_FRESH[:3],
    baselines=_PLAIN,
    plot="differences",
)

RETROFIT_STUDIES = {
    "pretrained-rate": PRETRAINED_RATE,
    "pretrained": PRETRAINED,
    "pretrained-text": PRETRAINED_TEXT,
}

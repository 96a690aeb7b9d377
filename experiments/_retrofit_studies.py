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
_GATE_RATE = 30.0  # in some hundred steps a gate opens by as many learning rates at most
_GATED_MIDDLE = replace(_FEW, mode="cycle", gate=True, blocks=_MIDDLE)


def _rates(*variants: tuple[str, RetrofitRun]) -> dict[str, RetrofitRun]:
    """Each at two learning rates."""
    return {
        f"{name}, rate {lr:g}": replace(config, lr=lr)
        for name, config in variants
        for lr in (1e-3, 3e-3)
    }


PRETRAINED_RATE = Study(
    title="At which learning rate does the pretrained ViT learn five classes from few images?",
    variants={
        **_rates(
            ("plain", _FEW),
            ("all blocks, two cycles in use", replace(_FEW, mode="cycle")),
            ("gated middle, two cycles in use", _GATED_MIDDLE),
        ),
        "gated middle, rate 0.001, 30 times that for the gate": replace(
            _GATED_MIDDLE, gate_rate=_GATE_RATE
        ),
    },
    seeds=CHOOSING,
    baselines=("plain, rate 0.001",),
    split="val",
    plot="differences",
)


def _ways(plain: RetrofitRun) -> dict[str, RetrofitRun]:
    """The plain network's further training, and in cycles."""
    cycle = replace(plain, mode="cycle")
    paper = replace(plain, mode="distill", token_weight=_PAPER)
    gated = replace(cycle, gate=True, gate_rate=_GATE_RATE)
    return {
        _PLAIN[0]: plain,
        _PLAIN[1]: replace(plain, epochs=2 * plain.epochs),
        "paper's recipe": paper,
        "paper's recipe until 0.7 of the training": replace(paper, cycles_until=0.7),
        "two cycles in use": cycle,
        "two cycles in use, gated": gated,
        "two cycles of the middle in use, gated": replace(gated, blocks=_MIDDLE),
        "grown, then folded": replace(plain, mode="fold"),
    }


PRETRAINED = Study(
    title="Do cycles help a pretrained ViT to learn five classes from 50 images each?",
    variants=_ways(_FEW),
    seeds=_FRESH,
    baselines=_PLAIN,
    plot="differences",
)

PRETRAINED_LONGER = Study(
    title="Do they where training is four times as long?",
    variants=_ways(replace(_FEW, epochs=4 * _FEW.epochs)),
    seeds=_FRESH,
    baselines=_PLAIN,
    plot="differences",
)

_MORE = RetrofitRun("text", "plain", epochs=1, batch_size=8)
_LOOPED = replace(_MORE, mode="cycle")
_GATED = replace(_LOOPED, gate=True, gate_rate=_GATE_RATE)

PRETRAINED_TEXT = Study(
    title="Do cycles help a pretrained GPT-2 that goes on with its text?",
    variants={
        _PLAIN[0]: _MORE,
        _PLAIN[1]: replace(_MORE, epochs=2),
        "two cycles in use": _LOOPED,
        "two cycles in use, gated": _GATED,
        "two cycles in use, gated, norm of the input": replace(_GATED, cycle_norm="input"),
    },
    seeds=_FRESH[:3],
    baselines=_PLAIN,
    plot="differences",
)

RETROFIT_STUDIES = {
    "pretrained-rate": PRETRAINED_RATE,
    "pretrained": PRETRAINED,
    "pretrained-longer": PRETRAINED_LONGER,
    "pretrained-text": PRETRAINED_TEXT,
}

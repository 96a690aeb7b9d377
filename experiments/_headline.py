"""The table on top of the page: what folding gains over the best plain network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from experiments._report import markdown
from experiments._rows import Records, Row, difference_of, interval, rows
from experiments._statistics import Spread, paired_difference, spread
from experiments._study import Study

_HEAD = (
    "network",
    "plain",
    "best plain of any length",
    "cycles in use",
    "folded, one pass",
    "folded over plain",
    "folded over best plain",
    "the same, validation images",
    "training, in plain's",
)


class Gain(NamedTuple):
    """What a study says.

    Attributes:
        network: The network and its data.
        plain: The plain network.
        best: The plain network that is best on the test set, of all lengths that were trained.
        lengths: How many lengths were trained, and how many there are to be.
        grown: The network with cycles in use.
        folded: The plain network that it taught.
        over_plain: Folded minus plain, paired by seed.
        over_best: Folded minus the best plain network.
        validated: The same difference on the validation images.
    """

    network: str
    plain: Row
    best: Row
    lengths: tuple[int, int]
    grown: Row
    folded: Row
    over_plain: Spread
    over_best: Spread
    validated: Spread


def headline(studies: Mapping[str, Study], records: Mapping[str, Records]) -> str:
    """A sentence and a line of a Markdown table for each study with finished runs of folding."""
    found = [gain(study, records[name]) for name, study in studies.items() if study.headline]
    gains = [one for one in found if one is not None]
    if not gains:
        return "No study of it is done yet."
    lines = [list(_HEAD), ["---", *["--:"] * (len(_HEAD) - 1)]]
    lines += [_cells(one) for one in gains]
    return "\n".join(_sentence(one) for one in gains) + "\n\n" + markdown(lines)


def gain(study: Study, records: Records) -> Gain | None:
    """What folding gains in a study; None where plain, grown or folded has no finished run."""
    if study.headline is None:
        return None
    found = {row.name: row for row in rows(study, records) if row.values}
    names = study.baselines[0], study.headline.grown, study.headline.folded
    if not all(name in found for name in names):
        return None
    plain, grown, folded = (found[name] for name in names)
    lengths = [found[name] for name in study.baselines if name in found]
    best = max(lengths, key=lambda row: spread(list(row.values.values())).mean)
    over_plain = paired_difference(folded.values, plain.values)
    over_best = paired_difference(folded.values, best.values)
    other = {row.name: row.values for row in rows(replace(study, split="val"), records)}
    validated = paired_difference(other[folded.name], other[best.name])
    if over_plain is None or over_best is None or validated is None:
        return None
    counts = len(lengths), len(study.baselines)
    return Gain(
        study.headline.network,
        plain,
        best,
        counts,
        grown,
        folded,
        over_plain,
        over_best,
        validated,
    )


def _sentence(one: Gain) -> str:
    over = one.over_best
    behind = over.mean < 0
    says = "is" if behind else "gains"
    size = f"**{interval(over._replace(mean=-over.mean))}** points behind" if behind else ""
    size = size or f"**{difference_of(over)}** points over"
    sure = ", which may be chance" if abs(over.mean) <= over.half else ""
    length = _length(one.best)
    if one.lengths[0] < one.lengths[1]:
        length += f"; {one.lengths[0]} of {one.lengths[1]} lengths are trained"
    return (
        f"- *{one.network}:* a single pass {says} {size} "
        f"the best plain network ({length}){sure}. The recipe takes {_times(one)} the plain "
        f"training; {one.over_best.seeds} seeds."
    )


def _cells(one: Gain) -> list[str]:
    scores = [
        interval(spread(list(row.values.values())))
        for row in (one.plain, one.best, one.grown, one.folded)
    ]
    scores[1] += f" ({_length(one.best)})"
    gains = [difference_of(gain) for gain in (one.over_plain, one.over_best, one.validated)]
    return [one.network, *scores, *gains, _times(one)]


def _length(best: Row) -> str:
    return f"{best.config.epochs} epochs" + " with Mixup" * best.name.endswith("mixup")


def _times(one: Gain) -> str:
    return f"{one.folded.training_macs / one.plain.training_macs:.1f}x"

"""The parts that model cards of all kinds of networks share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def score_table(scores: Mapping[str, float], shown: Sequence[str] = ()) -> str:
    """A Markdown table of scores, a row for each number of cycles.

    >>> print(score_table({"accuracy/1": 53.61, "accuracy/2": 54.3, "time/1": 8.0}, ["accuracy"]))
    | cycles | accuracy |
    | --- | --- |
    | 1 | 53.6 |
    | 2 | 54.3 |

    Args:
        scores: Percent by metric and number of cycles, such as ``{"AP/1": 65.0}``.
        shown: Metrics to show; all, if there are none of these.
    """
    found = dict.fromkeys(name.split("/")[0] for name in scores)
    names = [name for name in found if name in shown] or list(found)
    cycles = sorted({name.partition("/")[2] for name in scores})
    rows = [["cycles", *names], ["---"] * (len(names) + 1)]
    for cycle in cycles:
        values = [scores.get(f"{name}/{cycle}") for name in names]
        rows.append([cycle, *("-" if value is None else f"{value:.1f}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def results_sections(
    training: Mapping[str, Any] | None, scores: Mapping[str, float] | None, shown: Sequence[str]
) -> list[str]:
    """Paragraphs about the scores and the training of a network.

    Args:
        training: Options of the run and other facts about it. Paths, which belong to the machine
            where it ran, and None are left out.
        scores: Percent by metric and number of cycles.
        shown: Metrics to show.
    """
    lines = []
    if scores:
        lines += ["## Scores", "Percent, by number of cycles in use.", score_table(scores, shown)]
    told = {k: v for k, v in (training or {}).items() if v is not None and not _of_paths(v)}
    if told:
        lines += ["## Training", f"```json\n{json.dumps(told, indent=2)}\n```"]
    return lines


def _of_paths(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, tuple) and any(map(_of_paths, value)))

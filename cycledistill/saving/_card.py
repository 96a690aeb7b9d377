"""Model cards: Markdown under a head of YAML, as the Hugging Face Hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def model_card(
    template: Path,
    scores: Mapping[str, float] | None,
    shown: Sequence[str],
    training: Mapping[str, Any] | None,
    **values: Any,
) -> str:
    """Fill in a template that extends ``card.md``, which adds what was scored and trained.

    Args:
        template: File of the template.
        scores: Percent by metric and number of cycles, such as ``{"AP/1": 65.0}``.
        shown: Metrics to show; all, if there are none of these.
        training: Options of the run and other facts about it. Paths, which belong to the machine
            where it ran, and None are left out.
        **values: What the template itself shows.
    """
    found = dict.fromkeys(name.split("/")[0] for name in scores or {})
    told = {k: v for k, v in (training or {}).items() if v is not None and not _of_paths(v)}
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(
        scores=scores,
        names=[name for name in found if name in shown] or list(found),
        cycles=sorted({name.partition("/")[2] for name in scores or {}}),
        training=json.dumps(told, indent=2) if told else "",
        **values,
    )


def _of_paths(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, tuple) and any(map(_of_paths, value)))

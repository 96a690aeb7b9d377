"""A comparison as one self-contained HTML file."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from cycledistill_pose.comparison._cases import Case
from cycledistill_pose.comparison._compare import Comparison, Row, between
from cycledistill_pose.drawing import draw_skeleton
from cycledistill_pose.drawing._picture import encode_picture

_PAGE = Path(__file__).parent / "page.html"
_QUALITY = 80
_KINDS = {"worst": "lowest OKS", "best": "highest OKS", "differs": "networks differ most"}


def comparison_page(comparison: Comparison) -> str:
    """The page: scores with intervals, then people with true and predicted skeletons.

    The HTML is self-contained, can be sorted, and follows the reader's light or dark scheme.
    """
    names = list(dict.fromkeys(row.checkpoint for row in comparison.rows))
    counts = ", ".join(f"{count:,} {what}" for what, count in comparison.report.items())
    assumed = "; ".join(f"{what}: {text}" for what, text in comparison.assumed.items())
    cycles, flip = comparison.shown
    legend = f"{cycles} cycle, {'with' if flip else 'without'} the flip test"
    keys = ["kind", "mean", *(f"oks{i}" for i in range(len(names)))]
    labels = ["kind", "mean OKS", *(f"OKS of {name}" for name in names)]
    buttons = "".join(
        f'<button data-key="{key}">{escape(label)}</button>'
        for key, label in zip(keys, labels, strict=True)
    )
    articles = "\n".join(_article(case, names, comparison) for case in comparison.cases)
    values = {
        "counts": escape(counts),
        "skeleton": escape(comparison.skeleton.name),
        "resamples": f"{comparison.resamples:,}",
        "assumed": escape(assumed),
        "table": _table(comparison.rows),
        "legend": escape(legend),
        "buttons": buttons,
        "articles": articles,
    }
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(values)


def _table(rows: list[Row]) -> str:
    kept = [name for name in rows[0].scores if name in ("AP50", "AP75", "AR", "PCK")]
    titles = ["network", "cycles", "flip test", "AP", "to the first", *kept]
    head = "".join(f'<th scope="col"><button>{escape(title)}</button></th>' for title in titles)
    lines = []
    for row in rows:
        cells: list[tuple[Any, str]] = [
            (row.checkpoint, escape(row.checkpoint)),
            (row.num_cycles, str(row.num_cycles)),
            ("on", "on") if row.flip_test else ("off", "off"),
            (row.scores["AP"], _figure(row.scores["AP"], row.interval)),
            ("", "") if row.difference is None
            else (row.difference, _figure(row.difference, row.difference_interval, "+")),
        ]  # fmt: skip
        cells += [(row.scores[name], f"{row.scores[name]:.1f}") for name in kept]
        lines.append(
            "<tr>"
            + "".join(f'<td data-value="{escape(str(v))}">{text}</td>' for v, text in cells)
            + "</tr>"
        )
    body = "\n".join(lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _figure(value: float, interval: tuple[float, float] | None, sign: str = "") -> str:
    return f'{value:{sign}.1f} <span class="soft">{between(interval)}</span>'


def _article(case: Case, names: list[str], comparison: Comparison) -> str:
    mean = sum(case.oks) / len(case.oks)
    values = "".join(f' data-oks{i}="{value:.4f}"' for i, value in enumerate(case.oks))
    panels: list[tuple[str, Any, Any, float]] = [("truth", case.truth, case.visible, 0.0)]
    for name, value, points, scores in zip(
        names, case.oks, case.predictions, case.scores, strict=True
    ):
        panels.append((f"{name}: {value:.2f}", points, scores, 0.2))
    figures = ""
    for caption, points, weights, threshold in panels:
        picture = draw_skeleton(
            case.crop, points, weights, comparison.skeleton, threshold=threshold
        )
        data = base64.b64encode(encode_picture(picture, quality=_QUALITY)).decode()
        figures += (
            f'<figure><img src="data:image/jpeg;base64,{data}" loading="lazy" '
            f'width="{picture.shape[1]}" height="{picture.shape[0]}" '
            f'alt="Skeleton: {escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return (
        f'<article data-kind="{case.kind}" data-mean="{mean:.4f}"{values}>'
        f"<h3>{_KINDS[case.kind]}</h3>"
        f'<div class="panels">{figures}</div>'
        f'<p class="soft">Image {case.image_id}, annotation {case.annotation_id}, '
        f"mean OKS {mean:.2f}</p></article>"
    )

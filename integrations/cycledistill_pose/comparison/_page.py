"""A comparison as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

from cycledistill_pose.comparison._cases import Case
from cycledistill_pose.comparison._compare import Comparison, Row, between
from cycledistill_pose.drawing import draw_skeleton
from cycledistill_pose.drawing._picture import encode_picture

_QUALITY = 80
_KINDS = {
    "worst": "lowest OKS",
    "best": "highest OKS",
    "differs": "networks differ most",
}

# Colours of both schemes have a contrast of 4.5 or more to their background.
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #555b63; --paper: #fff; --line: #d5d9de;
  --panel: #f4f6f8; --accent: #0a5c9e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #aab1ba; --paper: #16181b;
  --line: #3a3f46; --panel: #1f2226; --accent: #7fc1f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
p { max-width: 45rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 8rem; }
button { font: inherit; color: var(--accent); background: none; border: 1px solid var(--line);
  border-radius: .3rem; padding: .15rem .5rem; cursor: pointer; }
th button { border: 0; padding: 0; font-weight: 600; }
[aria-sort=ascending] button::after, button[data-order=ascending]::after { content: " \\2191"; }
[aria-sort=descending] button::after, button[data-order=descending]::after { content: " \\2193"; }
.sort { display: flex; flex-wrap: wrap; gap: .4rem; margin: .8rem 0; align-items: center; }
.cases { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); }
article { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  padding: .6rem; min-width: 0; }
article h3 { margin: 0 0 .4rem; font-size: 1rem; }
article p { margin: .4rem 0 0; font-size: .85rem; }
.panels { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .4rem; }
figure { margin: 0; min-width: 0; } figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
@media (max-width: 420px) { body { padding: .6rem; } .cases { grid-template-columns: 1fr; }
  th, td { padding: .25rem .4rem; font-size: .85rem; } }
"""

_SCRIPT = """
function sortBy(parent, items, value, down) {
  const keyed = items.map((item, i) => [value(item), i, item]);
  keyed.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (down ? -1 : 1) || a[1] - b[1]);
  keyed.forEach(([, , item]) => parent.append(item));
}
function parsed(text) { return text === "" || isNaN(text) ? text : Number(text); }
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") !== "descending";
  table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  sortBy(body, [...body.rows], (row) => parsed(row.cells[head.cellIndex].dataset.value), down);
}));
const choices = document.querySelectorAll(".sort button");
choices.forEach((button) => button.addEventListener("click", () => {
  const cases = document.querySelector(".cases");
  const down = button.dataset.order === "ascending";
  choices.forEach((other) => other.removeAttribute("data-order"));
  button.dataset.order = down ? "descending" : "ascending";
  sortBy(cases, [...cases.children], (item) => parsed(item.dataset[button.dataset.key]), down);
}));
"""


def comparison_page(comparison: Comparison) -> str:
    """The page: scores with intervals, then people with true and predicted skeletons.

    It is HTML that needs no other file, can be sorted, and follows the reader's light or dark
    scheme.
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
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pose networks compared</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Pose networks compared</h1>
<p>{escape(counts)}; skeleton {escape(comparison.skeleton.name)}. In percent. In brackets: the
95&nbsp;% interval of a bootstrap over images ({comparison.resamples:,} draws), which says what
another choice of images could change, and nothing of what another training run could.</p>
<p class="soft">{escape(assumed)}</p>
<div class="wide">{_table(comparison.rows)}</div>
<h2>Cases</h2>
<p>Annotated people by the object keypoint similarity (OKS, 0 to 1) of the predicted skeleton to the
true one: {escape(legend)}. Left is orange, right is blue.</p>
<div class="sort"><span class="soft">Sort by</span>{buttons}</div>
<div class="cases">
{articles}
</div>
<script>{_SCRIPT}</script>
</body>
</html>
"""


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

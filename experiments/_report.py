"""From records to a page: a table for each study, and where its plot stands."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from experiments._plots import draw, has_plot
from experiments._results import replace_file
from experiments._rows import Records, difference_of, interval, rows
from experiments._statistics import paired_difference, spread
from experiments._study import Study


def table(study: Study, records: Records) -> str:
    """The study as a Markdown table."""
    found = rows(study, records)
    bases = {row.name: row for row in found if row.name in study.baselines}
    head = ["variant", "epochs", "training TMACs", "MACs in use", "runs", study.score]
    head += [
        study.score.replace(study.metric, "last cycle"),
        *(f"minus {name!r}" for name in study.baselines),
    ]
    head += [f"last cycle minus {study.deep!r}"] * (study.deep is not None)
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for row in found:
        runs = f"{len(row.values)}" + f", {row.diverged} diverged" * bool(row.diverged)
        cells = [row.name, f"{row.config.epochs}", "", "", runs, "", ""]
        if not math.isnan(row.training_macs):
            cells[2:4] = [f"{row.training_macs / 1e12:.3g}", f"{row.macs_in_use / 1e3:.0f} k"]
        if row.values:
            own = spread(list(row.values.values()))
            cells[5] = interval(own)
            if row.config.training_cycles > 1:
                cells[6] = interval(spread(list(row.last_cycle.values())))
        for name in study.baselines:
            difference = paired_difference(row.values, bases[name].values)
            known = difference is not None and name != row.name
            cells.append(difference_of(difference) if known and difference else "")
        if study.deep is not None:
            deep = next(other.last_cycle for other in found if other.name == study.deep)
            difference = paired_difference(row.last_cycle, deep)
            known = row.config.training_cycles > 1 and row.name != study.deep
            cells.append(difference_of(difference) if known and difference else "")
        lines.append(cells)
    return markdown(lines)


def section(name: str, study: Study, records: Records) -> str:
    """What stands between a study's marks on the page."""
    planned = study.runs()
    done = [records[config.key] for config in planned if config.key in records]
    if not done:
        return f"**{study.title}** None of {len(planned)} runs is done yet."
    unfinished = " **Unfinished: no conclusion.**" * (len(done) < len(planned))
    commits = sorted({record["commit"] for record in done})
    dates = sorted({record["date"] for record in done})
    devices = sorted({f"{r['device']}, {r['threads']} thread(s)" for r in done})
    made = f"code: {', '.join(commits)}; {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}; "
    lines = [
        f"**{study.title}** {len(done)} of {len(planned)} runs; {study.split} set; mean ± half the "
        f"95 % interval (Student) over seeds; differences are paired by seed.{unfinished}",
        "",
        table(study, records),
        "",
        f"Recorded in `experiments/results/` ({made}{'; '.join(devices)}).",
    ]
    if has_plot(study, records):
        lines += ["", f"![{study.title}](../pictures/lab-{name}.png)"]
    return "\n".join(lines)


def markdown(lines: list[list[str]]) -> str:
    """Cells as a table: the head, the line of dashes, the rows."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_page(
    page: Path,
    studies: Mapping[str, Study],
    records: Mapping[str, Records],
    others: Mapping[str, str] | None = None,
) -> list[Path]:
    """Put the sections of all studies between their marks, and draw those with records.

    Args:
        page: Has the lines ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` for each study that
            it shows; what is between them is replaced.
        studies: Studies by name.
        records: Their records by key.
        others: What else stands between marks of its own, by their name.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: There is no page.
        ValueError: The page has no place for a study.
    """
    text = page.read_text("utf-8")
    bodies = {name: section(name, study, records[name]) for name, study in studies.items()}
    for name, body in {**bodies, **(others or {})}.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        body = f"{begin}\n{body}\n\n{end}"
        text, count = place.subn(lambda _, body=body: body, text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(
                f"{page} has {count} places for the study {name}, expected one: a line "
                f"{begin.strip()!r} and later a line {end!r}"
            )
    written = []
    for name, study in studies.items():
        if has_plot(study, records[name]):
            picture = page.parent.parent / "pictures" / f"lab-{name}.png"
            draw(study, records[name], picture)
            written.append(picture)
    replace_file(page, text.encode())
    return [page, *written]

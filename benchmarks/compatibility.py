"""Try the wrapper on one small model of many families and write docs/compatibility.md anew.

python benchmarks/compatibility.py                   # all, some minutes
python benchmarks/compatibility.py --only swin bert  # rows whose name holds one of these words

The page keeps its text and gets new counts and tables. Libraries that are not installed are left
out, and named there.
"""

from __future__ import annotations

import copy
import datetime
import random
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import cycledistill
from benchmarks._by_hand import called_by_hand, fresh
from benchmarks.families import Candidate, Inputs, Library, libraries
from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.reference import assert_same, call, equation_4, leaves, task_loss

PAGE = Path(__file__).parents[1] / "docs/compatibility.md"
ERRORS = (ValueError, RuntimeError, TypeError)


class Row(NamedTuple):
    """What came of a candidate: ``difference`` is None where the model was not cycled."""

    name: str
    how: str = ""
    stack: str = ""
    difference: float | None = None
    batched: str = ""
    note: str = ""


def main(out: Path = PAGE, only: tuple[str, ...] = (), threads: int = 1) -> None:
    """Try models and write the page.

    Args:
        out: The page.
        only: Do not write; print rows whose name holds one of these words.
        threads: Threads of one computation.
    """
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore")
    rows: dict[Library, list[Row]] = {}
    missing = [library.package for library in libraries() if not library.is_installed()]
    for package in missing:
        print(f"left out, not installed: {package}")
    for library in libraries():
        for candidate in [] if library.package in missing else library.candidates():
            if not only or any(word in candidate.name for word in only):
                row = attempt(candidate)
                rows.setdefault(library, []).append(row)
                print(table_line(row), flush=True)
    if not only:
        out.write_text(page(rows, missing), "utf-8")
        print(f"{counts(rows)} saved: {out}")


def attempt(candidate: Candidate, others: Sequence[str] = ()) -> Row:
    """Wrap a model, or a stage of it (there are ``others``), and compare it with ordinary calls."""
    seed(0)
    model = shaken(candidate.make())
    inputs = candidate.inputs()
    call(copy.deepcopy(model), *fresh(*inputs))  # an error here is the row's own
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            cycled = wrapped(model, candidate.blocks)
        difference = compare(cycled, copy.deepcopy(model), inputs)
    except ERRORS as error:
        if candidate.blocks is None and (found := stages(str(error))):
            return attempt(replace(candidate, blocks=found[0]), found[1:])
        note = reason(str(error)) if says_it_itself(error) else f"fails inside the model: {error}"
        return Row(candidate.name, note=note)
    how = "as it is" if candidate.blocks is None else "by path"
    stack = f"`{cycled.stack_path}`" if cycled.stack_path else "the model"
    stack += f" [{', '.join(f'`{path}`' for path in others)}]" * bool(others)
    notes = "; ".join(reason(str(warning.message)) for warning in caught)
    return Row(candidate.name, how, stack, difference, try_batched(model, candidate, inputs), notes)


def wrapped(model: nn.Module, blocks: str | list[str] | None, **options: Any) -> CycleWrapper:
    """A copy of a model with two cycles."""
    model = copy.deepcopy(model)
    if isinstance(blocks, list):
        return CycleWrapper(model, 2, [model.get_submodule(path) for path in blocks], **options)
    return CycleWrapper(model, 2, blocks, **options)


def shaken(model: nn.Module) -> nn.Module:
    """The model in float64 and training mode, with no parameter that is constant."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1 or float(parameter.std()) < 1e-3:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().train()


def compare(cycled: CycleWrapper, plain: nn.Module, inputs: Inputs) -> float:
    """The largest relative difference from ordinary calls; eval must be equal to the last bit."""
    seed(3)
    out = call(cycled, *fresh(*inputs))
    CycleDistillLoss(task_loss, 0.7)(out).total.backward()
    seed(3)
    fed = called_by_hand(plain, cycled.stack_path, 2, *inputs)
    equation_4(fed).backward()
    pairs = list(zip(leaves(tuple(out)), leaves([fed.predictions, fed.tokens]), strict=True))
    pairs += zip(gradients_of(cycled.plain), gradients_of(plain), strict=True)
    found = [0.0]
    for got, expected in pairs:
        if isinstance(expected, Tensor) and expected.is_floating_point() and expected.numel():
            scale = max(1.0, float(expected.detach().abs().max()))
            found.append(float((got - expected).detach().abs().max()) / scale)
    if fed.tokens[0].shape == fed.tokens[1].shape:
        assert (fed.tokens[0] - fed.tokens[1]).abs().max() > 1e-6, "the cycles do not differ"
    plain.load_state_dict(cycled.state_dict())
    with torch.no_grad():
        seed(2)
        got = call(cycled.eval(), *fresh(*inputs))
        seed(2)
        assert_same(got, call(plain.eval(), *fresh(*inputs)), tolerance=0)
    return float(torch.tensor(found).max())  # NaN if one is


def seed(number: int) -> None:
    """For libraries that drop layers at random with torch, Python or NumPy."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def gradients_of(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def try_batched(model: nn.Module, candidate: Candidate, inputs: Inputs) -> str:
    """Whether batched cycles equal ordinary ones: "yes", or what stands in the way."""
    args, kwargs = fresh(*inputs)
    try:
        result = wrapped(model, candidate.blocks, batched=True).verify(*args, **kwargs)
    except ERRORS as error:
        if not says_it_itself(error):
            raise
        return in_some_words(str(error))
    return result.unchecked or "yes"


def in_some_words(text: str) -> str:
    """What is wrong with batched cycles, fit for a table."""
    different = re.search(r"such as the (tokens|tensor|gradient) ", text)
    if different:
        names = {"tokens": "tokens", "tensor": "predictions", "gradient": "gradients"}
        return f"{names[different[1]]} differ"
    for said, short in (
        (" failed after ", "what follows the blocks needs the plain batch"),
        ("no tensor that ", "predictions cannot be told apart by cycle"),
        ("checkpoints the last block", "the model checkpoints its last block"),
        ("Expected input batch_size", "the labels are those of the plain batch"),
        ("cannot run its cycles in one batch", "something in the model needs the plain batch"),
    ):
        if said in text:
            return short
    return reason(text)


def says_it_itself(error: BaseException) -> bool:
    """Whether an error comes from this library and not from deep inside of something else."""
    frame = error.__traceback__
    assert frame is not None
    while frame.tb_next is not None:
        frame = frame.tb_next
    return Path(frame.tb_frame.f_code.co_filename).is_relative_to(
        Path(cycledistill.__file__).parent
    )


def stages(text: str) -> list[str]:
    """Paths that an error offers, the one with the most blocks first."""
    complete = [(path, int(n)) for path, n in re.findall(r"'([\w.:]+)' \((\d+) blocks\)", text)]
    if not complete:
        runs = re.findall(r"'([\w.:]+)' \((\d+) of (\d+)\)", text)
        complete = [(path, int(run)) for path, run, length in runs if run == length]
    return [path for path, _ in sorted(complete, key=lambda item: -item[1])]


def reason(text: str) -> str:
    """The first sentence or two of an error, fit for a table."""
    text = text.split(". Lists under")[0].split("Name the stack")[0].split(": looked for")[0]
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def page(rows: dict[Library, list[Row]], missing: Sequence[str] = ()) -> str:
    """The page as it is, with other counts, tables and versions."""
    head = PAGE.read_text("utf-8").split("\n## ")[0]
    parts = [re.sub(r"^Of \d+ models.*", counts(rows), head, flags=re.MULTILINE)]
    for library, made in rows.items():
        lines = [
            f"## {library.title}\n",
            "| model | how | stack | difference | batched | note |",
            "|---|---|---|---|---|---|",
        ]
        parts.append("\n".join(lines + [table_line(row) for row in made]) + "\n")
    packages = dict.fromkeys(["torch", *(library.package for library in rows)])
    named = ", ".join(f"{name} {version(name)}" for name in packages)
    parts.append(f"Made with {named} on {datetime.date.today().isoformat()}, on a CPU.")
    if missing:
        parts[-1] += f" Left out because they were not installed: {', '.join(missing)}."
    return "\n".join(parts) + "\n"


def counts(rows: dict[Library, list[Row]]) -> str:
    every = [row for made in rows.values() for row in made]
    cycled = [row for row in every if row.difference is not None]
    as_is = sum(row.how == "as it is" for row in cycled)
    batched = sum(row.batched == "yes" for row in cycled)
    worst = max((row.difference or 0.0 for row in cycled), default=0.0)
    largest = f"The largest difference is {worst:.0e}."
    agreement = largest if worst else "The cycles equal plain calls to the last bit."
    return (
        f"Of {len(every)} models, {as_is} are cycled as they are and {len(cycled) - as_is} by "
        f"path; {len(every) - len(cycled)} cannot be. {agreement} "
        f"{batched} could also run their cycles in one batch."
    )


def table_line(row: Row) -> str:
    difference = (
        "" if row.difference is None else f"{row.difference:.0e}" if row.difference else "0"
    )
    cells = (row.name, row.how, row.stack, difference, row.batched, row.note)
    return f"| {' | '.join(cells)} |".replace("  ", " ")


if __name__ == "__main__":
    tyro.cli(main)

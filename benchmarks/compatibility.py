"""Try the wrapper on one small model of many families and write docs/compatibility.md.

python benchmarks/compatibility.py                   # all, some minutes
python benchmarks/compatibility.py --only swin bert  # rows whose name holds one of these words

Libraries that are not installed are left out, and named on the page.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import inspect
import random
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import cycledistill
from benchmarks._frame import write
from benchmarks.families import Candidate, Library, libraries
from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.reference import (
    HandFed,
    assert_same,
    call,
    equation_4,
    leaves,
    stack_of,
    task_loss,
    tokens_of,
)

PAGE = """# Compatibility

This page shows what happens when one small model of each family is wrapped. The models have random
weights and run in float64. A command writes the page:

```bash
python benchmarks/compatibility.py
```

{counts}

**How.** Most models are wrapped as they are: `CycleWrapper(model)` finds the stack. Where tokens
change their shape from stage to stage, or the stack has an unusual name, one stage or list is
cycled *by path*, `CycleWrapper(model, blocks="...")`; other stages that could be are in brackets.
Several names separated by commas are modules that were given one by one, as a list.

**Difference.** Two cycles of training are compared with two ordinary calls of an untouched copy of
the model. The copy knows nothing of this library: one hook of PyTorch puts the tokens that left
the last block in the first call in front of the first block in the second, another notes what
leaves. The figure is the largest difference of the tokens, of every tensor of the predictions, and
of the gradient of the whole loss with respect to every parameter, divided by the largest value of
the tensor in question (or by 1, if that is larger). Dropout stays on and draws the same numbers on
both sides. In eval mode each wrapped model then gives the plain model's output to the last bit.

**Batched.** Whether `batched=True` gives the same, which `cycled.verify(...)` finds out. If it
does not, the column says what differs, or what stands in the way.

A row without a stack is a model that cannot be cycled, with the reason that the error gives.
Purely convolutional networks are left out. Decoders of Hugging Face are called with
`use_cache=False`, because a cache is no tensor that could be compared. What a model draws at random
before its blocks, such as ViTMAE's mask, is the same in both calls.

{tables}

{versions}
"""


@dataclass(frozen=True)
class Row:
    """What came of it: ``difference`` is None where the model was not cycled."""

    candidate: Candidate
    how: str
    stack: str
    difference: float | None
    batched: str
    note: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/compatibility.md"))
    parser.add_argument("--only", nargs="+", metavar="WORD", help="do not write, print these rows")
    parser.add_argument("--threads", type=int, default=1, help="threads of one computation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore")
    console = Console(highlight=False, markup=False)
    chosen: list[tuple[Library, Candidate]] = []
    missing: list[str] = []
    for library in libraries():
        if not library.is_installed():
            missing.append(library.package)
            console.print(f"left out, not installed: {library.package}")
            continue
        for candidate in library.candidates():
            if not options.only or any(word in candidate.name for word in options.only):
                chosen.append((library, candidate))
    rows: dict[Library, list[Row]] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("trying", total=len(chosen))
        for library, candidate in chosen:
            progress.update(task, description=f"{library.title}: {candidate.name}")
            row = attempt(candidate)
            rows.setdefault(library, []).append(row)
            if options.only:
                console.print(table_line(row))
            progress.advance(task)
    if options.only:
        return
    write(options.out, page(rows, missing))
    console.print(f"{counts(rows)} saved: {options.out}")


def attempt(candidate: Candidate) -> Row:
    """Wrap a model, or a stage of it, and compare it with ordinary calls."""
    seed(0)
    model = shaken(candidate.make())
    args, kwargs = candidate.inputs()
    call(copy.deepcopy(model), *copy.deepcopy((args, kwargs)))  # an error here is the row's own
    blocks, others = candidate.blocks, ""
    while True:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", UserWarning)
                cycled = wrapped(model, blocks)
            plain = copy.deepcopy(model)
            if candidate.reference is not None:
                candidate.reference(plain)
            difference = compare(cycled, plain, args, kwargs)
        except (ValueError, RuntimeError, TypeError) as error:
            if blocks is None and (found := stages(str(error))):
                blocks = found[0]
                others = f" [{', '.join(f'`{path}`' for path in found[1:])}]" if found[1:] else ""
            elif says_it_itself(error):
                return Row(candidate, "", "", None, "", reason(str(error)))
            else:
                return Row(candidate, "", "", None, "", f"fails inside the model: {error}")
        else:
            how = "as it is" if blocks is None else "by path"
            stack = f"`{cycled.stack_path}`" if cycled.stack_path else "the model"
            batched = try_batched(model, blocks, args, kwargs)
            said = [reason(str(warning.message)) for warning in caught]
            return Row(candidate, how, stack + others, difference, batched, "; ".join(said))


def wrapped(model: nn.Module, blocks: Any, **options: Any) -> CycleWrapper:
    """A copy of a model with two cycles."""
    model = copy.deepcopy(model)
    return CycleWrapper(model, 2, blocks(model) if callable(blocks) else blocks, **options)


def shaken(model: nn.Module) -> nn.Module:
    """The model in float64 and training mode, with no parameter that is constant."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1 or float(parameter.std()) < 1e-3:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().train()


def compare(
    cycled: CycleWrapper, plain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """The largest relative difference from ordinary calls; eval must be equal to the last bit."""
    seed(3)
    out = cycled(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    CycleDistillLoss(task_loss, 0.7)(out).total.backward()
    seed(3)
    blocks = [block for path in cycled.stack_path.split(", ") for block in stack_of(plain, path)]
    fed = ordinary_calls(plain, blocks, 2, args, kwargs)
    equation_4(fed).backward()
    pairs = list(zip(leaves(tuple(out)), leaves([fed.predictions, fed.tokens]), strict=True))
    pairs += zip(gradients_of(cycled.plain), gradients_of(plain), strict=True)
    found = [0.0]
    for got, expected in pairs:
        if isinstance(expected, Tensor) and expected.is_floating_point() and expected.numel():
            scale = max(1.0, float(expected.detach().abs().max()))
            found.append(float((got - expected).detach().abs().max()) / scale)
    largest = max(found, key=lambda difference: (difference != difference, difference))
    changes = [t.detach() for t in fed.tokens if t.shape == fed.tokens[0].shape]
    if len(changes) > 1 and not float((changes[0] - changes[1]).abs().max()) > 1e-6:
        raise AssertionError("the cycles do not differ: nothing was compared")
    plain.load_state_dict(cycled.state_dict())
    with torch.no_grad():
        seed(2)
        got = cycled.eval()(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        seed(2)
        assert_same(got, call(plain.eval(), *copy.deepcopy((args, kwargs))), tolerance=0)
    return largest


def seed(number: int) -> None:
    """For libraries that drop layers at random with torch, Python or NumPy."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def generators() -> tuple[Any, ...]:
    """The states of the random number generators of torch, Python and NumPy."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def set_generators(states: tuple[Any, ...]) -> None:
    """Put them back."""
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


def ordinary_calls(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    num_cycles: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> HandFed:
    """Call a plain model several times, handing the tokens that left to the first block.

    If the model skips blocks at random, the first block that runs gets them, and what leaves the
    last that runs is noted. Before the first block all calls draw the same random numbers, from
    there on each draws its own.
    """
    entering: Tensor | None = None
    left: Tensor | None = None
    begun = False
    start, behind = generators(), generators()

    def hand_in(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal begun
        first, begun = not begun, True
        if not first or entering is None:
            return None
        set_generators(behind)
        if args:
            return (entering, *args[1:]), kwargs
        return args, {**kwargs, next(iter(inspect.signature(block.forward).parameters)): entering}

    def note(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal left
        left = tokens_of(output)

    handles = [block.register_forward_pre_hook(hand_in, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(note) for block in blocks]
    fed = HandFed([], [])
    for _ in range(num_cycles):
        begun, behind = False, generators()
        set_generators(start)
        fed.predictions.append(call(model, *copy.deepcopy((args, kwargs))))
        assert left is not None
        fed.tokens.append(left)
        entering = left
    for handle in handles:
        handle.remove()
    return fed


def gradients_of(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def try_batched(
    model: nn.Module, blocks: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """Whether batched cycles equal ordinary ones: "yes", or what stands in the way."""
    cycled = wrapped(model, blocks, batched=True)
    try:
        result = cycled.verify(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except (ValueError, RuntimeError, TypeError) as error:
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
    tables = []
    for library, made in rows.items():
        lines = [
            f"## {library.title}\n",
            "| model | how | stack | difference | batched | note |",
            "|---|---|---|---|---|---|",
        ]
        tables.append("\n".join(lines + [table_line(row) for row in made]))
    packages = dict.fromkeys(library.package for library in rows)
    named = ", ".join(f"{name} {version(name)}" for name in dict.fromkeys(["torch", *packages]))
    versions = f"Made with {named} on {datetime.date.today().isoformat()}, on a CPU."
    if missing:
        versions += f" Left out because they were not installed: {', '.join(missing)}."
    return PAGE.format(counts=counts(rows), tables="\n\n".join(tables), versions=versions)


def counts(rows: dict[Library, list[Row]]) -> str:
    every = [row for made in rows.values() for row in made]
    cycled = [row for row in every if row.difference is not None]
    as_is = sum(row.how == "as it is" for row in cycled)
    batched = sum(row.batched == "yes" for row in cycled)
    worst = max((row.difference or 0.0 for row in cycled), default=0.0)
    largest = f"The largest difference is {worst:.0e}."
    agreement = largest if worst else "They agree to the last bit."
    return (
        f"Of {len(every)} models, {as_is} are cycled as they are and {len(cycled) - as_is} by "
        f"path; {len(every) - len(cycled)} cannot be. {agreement} "
        f"{batched} could also run their cycles in one batch."
    )


def table_line(row: Row) -> str:
    difference = (
        "" if row.difference is None else f"{row.difference:.0e}" if row.difference else "0"
    )
    cells = (row.candidate.name, row.how, row.stack, difference, row.batched, row.note)
    return f"| {' | '.join(cells)} |".replace("  ", " ")


if __name__ == "__main__":
    main()

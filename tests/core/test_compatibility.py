"""The command that writes docs/compatibility.md, on a few models; and the page itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import compatibility
from benchmarks.families import Candidate, Library, libraries

INSTALLED = [library for library in libraries() if library.is_installed()]
CRASH = "fails inside the model"


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def attempt(title: str, word: str) -> compatibility.Row:
    (library,) = (library for library in libraries() if library.title == title)
    if not library.is_installed():
        pytest.skip(f"{library.package} is not installed")
    found = next(candidate for candidate in library.candidates() if word in candidate.name)
    return compatibility.attempt(found)


def test_a_model_of_each_kind() -> None:
    rows = [attempt("timm", word) for word in ("deit_tiny_patch16", "swin_tiny", "pit_ti", "tnt_s")]
    deit, swin, pit, tnt = rows
    assert (deit.how, deit.stack, deit.batched) == ("as it is", "`blocks`", "yes")
    assert swin.how == "by path" and swin.stack == "`layers.0.blocks` [`layers.1.blocks`]"
    assert pit.how == "by path" and pit.batched == "what follows the blocks needs the plain batch"
    assert (tnt.difference, tnt.how, tnt.batched) == (None, "", "")
    assert "only one sequence of tokens" in tnt.note
    for row in (deit, swin, pit):
        assert row.difference is not None and row.difference < 1e-12
    page = compatibility.page({libraries()[0]: rows}, missing=["some-package"])
    assert "Of 4 models, 1 are cycled as they are and 2 by path; 1 cannot be." in page
    assert "2 could also run their cycles in one batch" in page
    assert "Left out because they were not installed: some-package." in page
    assert "| as it is | `blocks` |" in page


@pytest.mark.parametrize(
    ("word", "batched"),
    [
        ("U-shaped", "tokens differ"),
        ("mixture of experts", "predictions differ"),
        ("first half without gradients", "gradients differ"),
        ("makes its own loss", "the labels are those of the plain batch"),
        ("writes into the dict", "yes"),
        ("tokens in random order", "something in the model needs the plain batch"),
        ("checkpoints its blocks", "the model checkpoints its last block"),
    ],
)
def test_batched_or_why_not(word: str, batched: str) -> None:
    row = attempt("Written for this page", word)
    assert row.batched == batched
    assert row.difference is not None and row.difference < 1e-12


def test_a_wrong_wrapper_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from cycledistill import _call

    right = _call.with_new_tokens

    def wrong(args: Any, kwargs: Any, name: str | None, tokens: Tensor) -> Any:
        return right(args, kwargs, name, tokens * (1 + 1e-9))

    monkeypatch.setattr(_call, "with_new_tokens", wrong)
    difference = attempt("timm", "deit_tiny_patch16").difference
    assert difference is not None and difference > 1e-11


def test_tokens_that_are_not_handed_in_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cycledistill._call.with_new_tokens", lambda args, kwargs, *_: None)
    difference = attempt("timm", "deit_tiny_patch16").difference
    assert difference is not None and difference > 1e-4


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for block in self.blocks:
            x = block(x)
        return x.view(-1) if self.calls < 2 else x.view(3, 7)


def test_a_crash_is_not_taken_for_a_reason() -> None:
    candidate = Candidate("fails", Fails, lambda: ((torch.randn(2, 4, 8),), {}))
    row = compatibility.attempt(candidate)
    assert row.difference is None and row.note.startswith(f"{CRASH}: shape '[3, 7]' is invalid")


def test_libraries_that_are_missing_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def model() -> nn.Module:
        return nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2)))

    def small() -> list[Candidate]:
        return [Candidate("two layers", model, lambda: ((torch.randn(2, 4, 8),), {}))]

    def refuse() -> list[Candidate]:
        raise ImportError("this library is not there")

    there = Library("There", "torch", small)
    missing = Library("Missing", "no-package-of-this-name", refuse)
    monkeypatch.setattr(compatibility, "libraries", lambda: [there, missing])
    out = tmp_path / "page.md"
    compatibility.main(out)
    assert "left out, not installed: no-package-of-this-name" in capsys.readouterr().out
    page = out.read_text(encoding="utf-8")
    assert "not installed: no-package-of-this-name." in page
    assert re.search(r"\| two layers \| as it is \| the model \| \S+ \| yes \| \|", page)
    assert [*tmp_path.iterdir()] == [out]


def table(page: str, title: str) -> list[list[str]]:
    """Cells of the rows below a heading."""
    part = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("library", INSTALLED, ids=lambda library: library.title)
def test_the_page_has_a_row_for_every_candidate(library: Library, repository: Path) -> None:
    page = (repository / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = table(page, library.title)
    assert [row[0] for row in rows] == [candidate.name for candidate in library.candidates()]
    for name, how, stack, difference, batched, note in rows:
        if how:
            assert stack and batched and float(difference) < 1e-12, name
        else:
            assert not (stack or difference or batched) and note, name
        assert CRASH not in note, name

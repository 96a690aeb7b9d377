"""The command that writes docs/compatibility.md, on a few models; and the page itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import compatibility


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def candidates() -> list[compatibility.Candidate]:
    return [
        *compatibility.of_timm(),
        *compatibility.of_hugging_face(),
        *compatibility.of_torch(),
    ]


def attempt(word: str) -> compatibility.Row:
    (found,) = (candidate for candidate in candidates() if word in candidate.name)
    return compatibility.attempt(found)


def test_a_model_of_each_kind() -> None:
    rows = [
        attempt(word)
        for word in ("deit_tiny_patch16", "swin_tiny_patch4", "pit_ti", "tnt_s", "batch second")
    ]
    deit, swin, pit, tnt, encoder = rows
    assert (deit.how, deit.stack, deit.note) == ("as it is", "`blocks`", "")
    assert swin.how == "by path" and swin.stack == "`layers.0.blocks` [`layers.1.blocks`]"
    assert pit.how == "by path" and pit.note == "`head_per_cycle=True`"
    assert tnt.difference is None and "only one sequence of tokens" in tnt.note
    for row in (deit, swin, pit, encoder):
        assert row.difference is not None and row.difference < 1e-12
    page = compatibility.page(rows)
    assert "Of 5 models, 2 are cycled as they are and 2 by path; 1 cannot be." in page
    assert "| as it is | `blocks` |" in page
    assert page.count("\n## ") == 2


def test_a_wrong_wrapper_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from cycledistill._cycler import BlockCall

    run = BlockCall.run
    monkeypatch.setattr(BlockCall, "run", lambda self, tokens: run(self, tokens * (1 + 1e-9)))
    difference = attempt("deit_tiny_patch16").difference
    assert difference is not None and difference > 1e-11


def test_the_page_has_a_row_for_every_candidate(repository: Path) -> None:
    page = (repository / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert [c.name for c in candidates() if f"| {c.name} |" not in page] == []
    assert page.count("\n| ") == len(candidates()) + 3

"""Every Python block of the documentation runs as it stands, and every command names what exists.

The blocks of one page run in order in one namespace, as a reader would type them. A block that
needs something big (a data set, a GPU) is exempt by the line `<!-- not run: why -->` above it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<exempt><!-- not run: .+ -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(text: str, *languages: str) -> list[tuple[int, str]]:
    """(line number, code) of each fenced block in one of the languages that is not exempt."""
    return [
        (text.count("\n", 0, found.start("code")), found["code"])
        for found in FENCE.finditer(text)
        if found["language"] in languages and not found["exempt"]
    ]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def skip_without_libraries(codes: list[str]) -> None:
    """A page that shows other libraries runs where all of them are installed."""
    code = "\n".join(codes)
    for name in (
        "lightning",
        "open_clip",
        "peft",
        "sentence_transformers",
        "vit_pytorch",
        "x_transformers",
    ):
        if re.search(rf"^(?:import|from) {name}\b", code, re.MULTILINE):
            pytest.importorskip(name, reason="the page shows a library that is not installed")


def test_blocks_are_found() -> None:
    page = (
        "a\n```python\nx = 1\n```\n<!-- not run: big -->\n```python\ny\n```\n"
        '```py title="z"\nz\n```\n```bash\nmake test\n```\n'
    )
    assert blocks(page, "python", "py") == [(2, "x = 1\n"), (9, "z\n")]
    assert blocks(page, "bash") == [(12, "make test\n")]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text("utf-8"), "python", "py")], ids=page_id
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page.read_text("utf-8"), "python", "py")
    skip_without_libraries([code for _, code in found])
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in found:
        # Empty lines ahead make a traceback name the line of the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    commands = "\n".join(code for _, code in blocks(text, "bash", "sh", "console"))
    commands += "\n".join(re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"\bmake ([a-z]+)", commands)) <= targets
    folders = "benchmarks|examples|experiments|integrations|tests"
    files = re.findall(rf"\b(?:{folders})/[\w/]+\.py\b", text)
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_pages_are_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES[1:]:
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation

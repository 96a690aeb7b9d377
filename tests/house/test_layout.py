"""Where things stand in the checkout, and what no file may say."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("cycledistill", "integrations/cycledistill_pose", "integrations/cycledistill_deit")


@pytest.fixture(scope="module")
def files(repository: Path) -> list[Path]:
    """Every file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    names = listed.stdout.split("\0")
    return [repository / name for name in names if name and (repository / name).is_file()]


def lines_that_say(files: list[Path], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8", "ignore").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine(files: list[Path]) -> None:
    folders = "|".join(["home", "opt", "root", "tmp", "work"])
    pattern = re.compile(rf"(?<![\w.}}\])-])/({folders})/")
    assert lines_that_say(files, pattern) == []
    assert pattern.search("see /" + "tmp/x") and not pattern.search("a/" + "tmp/x")


def test_no_file_names_a_package_registry(files: list[Path]) -> None:
    hosts = "|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.(org|com)"])
    assert lines_that_say(files, re.compile(hosts)) == []


def test_no_large_files(files: list[Path]) -> None:
    assert [path for path in files if path.stat().st_size > 2**20] == []


def test_integrations_is_no_package(repository: Path) -> None:
    for folder in ("integrations", "examples", "benchmarks"):
        assert not (repository / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", [*PACKAGES, "experiments"])
def test_implementation_files_are_private(repository: Path, package: str) -> None:
    """Only what is run by its name, with `python -m`, is called without an underscore."""
    modules = sorted((repository / package).rglob("*.py"))
    assert modules
    for path in modules:
        runs = 'if __name__ == "__main__":' in path.read_text("utf-8")
        assert path.name.startswith("_") or runs, path


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_listed_and_exist(repository: Path, package: str) -> None:
    for init in sorted((repository / package).rglob("__init__.py")):
        folder = init.parent.relative_to((repository / package).parent)
        module = importlib.import_module(".".join(folder.parts))
        own = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
        }
        listed = getattr(module, "__all__", [])
        assert own - set(listed) == set(), module
        assert [name for name in listed if not hasattr(module, name)] == [], module

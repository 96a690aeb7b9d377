"""What is in the wheel, and what it needs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = {
    "cycledistill": "cycledistill",
    "cycledistill_pose": "integrations/cycledistill_pose",
    "cycledistill_deit": "integrations/cycledistill_deit",
}

# Runs where the unpacked wheel, torch, einops and what these two require are all that there is.
USE = """
import importlib.util, sys, torch
import cycledistill
from cycledistill import CycleDistillLoss, CycleWrapper

assert cycledistill.__file__.startswith(sys.argv[1]), cycledistill.__file__
layers = [torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
model = torch.nn.Sequential(*layers)
cycled = CycleWrapper(model, num_cycles=2)
x = torch.randn(3, 5, 8)
criterion = CycleDistillLoss(torch.nn.MSELoss())
losses = criterion(cycled(x), torch.zeros(3, 5, 8))
losses.total.backward()
assert all(p.grad is not None for p in model.parameters())
cycled.eval()
assert cycled(x).shape == (3, 5, 8)
assert cycled.unwrap() is model
for name in ("timm", "cv2", "numpy", "accelerate", "torchvision", "pytest"):
    assert importlib.util.find_spec(name) is None, name
print("works")
"""


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def torch_and_einops_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages with torch, einops and what these two require."""
    folder = tmp_path_factory.mktemp("packages")
    waiting, seen = ["torch", "einops"], set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            assert name not in ("torch", "einops")  # what is required on other platforms only
            continue
        for entry in {file.parts[0] for file in distribution.files or ()} - {".."}:
            if not (folder / entry).exists():
                (folder / entry).symlink_to(distribution.locate_file(entry))
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                found = re.match(r"[A-Za-z0-9._-]+", requirement)
                assert found
                waiting.append(found[0])
    return folder


def test_name_and_top_level(wheel: Path) -> None:
    assert wheel.name == "cycledistill-0.1.0-py3-none-any.whl"
    top = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {*PACKAGES, "cycledistill-0.1.0.dist-info"}


def test_every_file_of_the_packages_is_there(wheel: Path, repository: Path) -> None:
    files = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in PACKAGES.items():
        assert f"{package}/py.typed" in files
        here = {
            f"{package}/{path.relative_to(repository / folder).as_posix()}"
            for path in (repository / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert here == {name for name in files if name.startswith(f"{package}/")}


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = "cycledistill-0.1.0.dist-info"
    lines = archive.read(f"{info}/METADATA").decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in needs) == ["einops", "torch"]
    extras = {line.split()[1] for line in lines if line.startswith("Provides-Extra:")}
    named = {"train", "trainer", "pose", "detect", "deit", "datasets", "export", "docs", "dev"}
    assert extras == named
    points = archive.read(f"{info}/entry_points.txt").decode()
    assert "cycledistill = cycledistill.__main__:main" in points
    loaders = points.partition("[cycledistill.loaders]\n")[2].partition("\n\n")[0]
    assert loaders.split() == [
        "deit", "=", "cycledistill_deit._exportable:load_exportable",
        "pose", "=", "cycledistill_pose.prediction._exportable:load_exportable",
    ]  # fmt: skip
    assert b"Apache License" in archive.read(f"{info}/licenses/LICENSE")


def test_works_with_torch_and_einops_alone(
    wheel: Path, torch_and_einops_alone: Path, tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    # -S leaves the environment's own packages out.
    code = f"import sys; sys.path += {[str(tmp_path), str(torch_and_einops_alone)]}\n{USE}"
    done = python("-S", "-c", code, str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "works\n"


@pytest.mark.parametrize(
    ("statement", "others"),
    [
        (
            "import cycledistill",
            "cycledistill_pose cycledistill_deit cycledistill.training cycledistill.trainers"
            " accelerate rich tyro timm cv2 torchvision transformers",
        ),
        (
            "from cycledistill_pose import PosePredictor, RLELoss, create_model",
            "cycledistill_deit cycledistill.training accelerate tyro"
            " timm pycocotools torchmetrics matplotlib",
        ),
        ("import cycledistill_deit", "cycledistill_pose"),
    ],
)
def test_import_loads_no_more_than_it_may(statement: str, others: str, tmp_path: Path) -> None:
    code = f"import sys; {statement}; print(sorted({{*{others.split()!r}}} & {{*sys.modules}}))"
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stdout + done.stderr

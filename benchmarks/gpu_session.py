"""Everything that waits for a GPU, in one command: its tests, then the examples trained for real.

python benchmarks/gpu_session.py --data DATA                # all of it; writes docs/results/gpu.md
python benchmarks/gpu_session.py --data DATA --minutes 9    # part of it; again to go on from there
python benchmarks/gpu_session.py --smoke                    # tries this script on a CPU, no figures

DATA has lspet/ and cifar10/. What is done is kept in --out, and trainings resume, so that a session
of several short calls comes to the same page as one long one.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks._frame import machine
from cycledistill.training import read_log

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("-m", "pytest", "-m", "gpu", "-q", "-rA", "--tb=short", "-p", "no:cacheprovider")
SHOWN = ("AP", "AP50", "PCK", "accuracy")
SECONDS_TO_STOP = 60


class Training(NamedTuple):
    """An example to train: its script, its options on the GPU, and those to try it with."""

    script: str
    options: str
    smoke: str


LSPET = """--preset paper --dataset files --data-root $CYCLEDISTILL_DATA/lspet
--train-annotations train.json --train-images train --val-annotations val.json --val-images val
--epochs 40 --milestones 30 36
--batch-size 128 --mixed-precision bf16 --num-workers 14 --evaluate-every 5"""
SMALL = """--input-size 48 64 --dim 24 --depth 2 --batch-size 8 --num-synthetic 16
--num-synthetic-val 3 --epochs 2 --milestones --num-workers 0 --log-every 1 --pictures 2"""
TRAININGS = {
    "LSPET, heatmaps, 256x192, bf16": Training(
        "pose_coco.py", LSPET, f"{SMALL} --heatmap-size 12 16"
    ),
    "LSPET, coordinates, 256x192, bf16": Training("pose_regression.py", LSPET, SMALL),
    "CIFAR-10, DeiT-Ti with 4x4 px patches, bf16": Training(
        "deit_imagenet.py",
        "--preset cifar10 --data-dir $CYCLEDISTILL_DATA/cifar10 --epochs 50 --num-workers 14",
        "--preset digits --limit-train 96 --epochs 2 --warmup-epochs 1 --batch-size 32 "
        "--log-every 1",
    ),
}


def main(
    data: Path = Path("data"),
    minutes: float = 1e6,
    smoke: bool = False,
    out: Path = ROOT / "runs/gpu-session",
    page: Path | None = None,
) -> None:
    """Run the tests that need a GPU, train the examples and write a page.

    Args:
        data: Folder with lspet/ and cifar10/.
        minutes: Stop in time, to go on later.
        smoke: Tiny, on a CPU: tries this script.
        out: Folder of what is done.
        page: docs/results/gpu.md; in out with smoke.
    """
    if not (smoke or torch.cuda.is_available()):
        raise SystemExit("PyTorch sees no GPU; --smoke tries this script without one")
    os.environ["CYCLEDISTILL_DATA"] = str(data)
    page = page or (out if smoke else ROOT / "docs/results") / "gpu.md"
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    tests = run_tests(out / "tests.txt", "tests/training/test_fit.py" if smoke else "tests")
    rows, commands, failed = [], [], []
    for name, training in TRAININGS.items():
        title = f"trial of {training.script}" if smoke else name
        folder = out / re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        options = f"{training.smoke} --device cpu" if smoke else f"{training.options} --device cuda"
        command = f"examples/{training.script} {' '.join(options.split())}"
        print(f"--- {title}", flush=True)
        if not train(os.path.expandvars(command), folder, end):
            failed.append(title)
        rows.append(f"| {title} | {row(folder / 'log.jsonl')} |")
        commands.append(f"python {command} --output-dir runs/{folder.name}")
        page.write_text(page_text(smoke, "\n".join(rows), "\n".join(commands), tests), "utf-8")
    print(f"written: {page}")
    if failed:
        raise SystemExit(f"failed, see above: {', '.join(failed)}")


def run_tests(file: Path, where: str) -> str:
    """The outcome of every GPU test; that of an earlier call if there is one."""
    if not file.exists():
        command = [sys.executable, *TESTS, where]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=paths())
        found = re.findall(r"^(?:PASSED|FAILED|SKIPPED|ERROR) .+", done.stdout, re.MULTILINE)
        if done.returncode not in (0, 1):
            raise SystemExit(f"the tests could not be run:\n{done.stdout}")
        file.write_text("\n".join([*found, done.stdout.splitlines()[-1].strip("= ")]))
    return file.read_text()


def train(command: str, folder: Path, end: float) -> bool:
    """Train, or continue, until done or until the time is up; whether it went well."""
    left = int(end - time.monotonic() - SECONDS_TO_STOP)
    if left <= 0:
        return True
    script, *options = command.split()
    python = [sys.executable, str(ROOT / script), *options, "--output-dir", str(folder)]
    done = subprocess.run(["timeout", "--foreground", str(left), *python], env=paths())
    return done.returncode in (0, 124)


def row(log: Path) -> str:
    """What the log of a run says: epochs, images/s, memory and scores."""
    records = read_log(log) if log.exists() else []
    trained = [record for record in records if record["event"] == "train"]
    if not trained:
        return "not started | | | "
    steady = trained[1:] or trained  # the first holds what is done once (kernels, caches)
    speed = statistics.median(record["samples_per_second"] for record in steady)
    memory = max(record["memory_mib"] for record in trained)
    last = [record for record in records if record["event"] == "evaluate"][-1:]
    scores = [
        f"{name} {value:.2f}"
        for record in last
        for name, value in record.items()
        if name.split("/")[0] in SHOWN and value is not None
    ]
    return (
        f"{trained[-1]['epoch'] + 1} ({trained[-1]['step']:,} steps) | {speed:,.1f} | "
        f"{memory:,.0f} MiB | {', '.join(scores) or 'not evaluated yet'}"
    )


def page_text(smoke: bool, rows: str, commands: str, tests: str) -> str:
    """The page, in Markdown."""
    made = machine(torch.get_num_threads())
    on = made["machine"]
    trial = "**A trial of the script on a CPU: no figure here means anything.**\n\n" * smoke
    return f"""# On one GPU

{trial}{on["gpu"] or "no GPU"}, {on["processor"]}, {on["cores"]} cores; PyTorch {on["torch"]}, \
Python {on["python"]}, {made["date"]}. Made by \
`python benchmarks/gpu_session.py{" --smoke" * smoke}`. One seed each: the runs show that the \
paths work and how fast, not that the method helps.

| run | epochs | images/s | peak memory | result |
|---|---|---|---|---|
{rows}

Images/s is the median over the log's lines, loading and augmentation of the images included,
evaluations not; peak memory is what PyTorch allocated on the GPU. The log of each run says what was
trained, and on which data.

```bash
{commands}
```

## Tests that need a GPU

```text
{tests}
```
"""


def paths() -> dict[str, str]:
    """So that this checkout is what runs, installed or not."""
    found = [str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found)}


if __name__ == "__main__":
    tyro.cli(main)

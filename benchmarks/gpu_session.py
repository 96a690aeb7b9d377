"""Everything that waits for a GPU, in one command: its tests, then the examples trained for real.

python benchmarks/gpu_session.py --data DATA                # all of it; writes docs/results/gpu.md
python benchmarks/gpu_session.py --data DATA --minutes 9    # part of it; again to go on from there
python benchmarks/gpu_session.py --smoke                    # tries this script on a CPU, no figures

DATA has lspet/ and cifar10/. What is done is kept in --out, and trainings resume, so that a session
of several short calls comes to the same page as one long one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks._frame import machine, write

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("-m", "pytest", "-m", "gpu", "-q", "-rA", "--tb=short", "-p", "no:cacheprovider")
SHOWN = ("AP", "AP50", "PCK", "accuracy")
SECONDS_TO_STOP = 60


class Training(NamedTuple):
    """An example to train: its script, its options on the GPU, and those to try it with."""

    script: str
    options: tuple[str, ...]
    smoke: tuple[str, ...]


LSPET = (
    *("--preset", "paper", "--dataset", "files", "--data-root", "{data}/lspet"),
    *("--train-annotations", "train.json", "--train-images", "train"),
    *("--val-annotations", "val.json", "--val-images", "val"),
    *("--epochs", "40", "--milestones", "30", "36", "--batch-size", "128"),
    *("--mixed-precision", "bf16", "--num-workers", "14", "--evaluate-every", "5"),
)
SMALL = (
    *("--input-size", "48", "64", "--dim", "24", "--depth", "2", "--batch-size", "8"),
    *("--num-synthetic", "16", "--num-synthetic-val", "3", "--epochs", "2", "--milestones"),
    *("--num-workers", "0", "--log-every", "1", "--pictures", "2"),
)
TRAININGS = {
    "LSPET, heatmaps, 256x192, bf16": Training(
        "pose_coco.py", LSPET, (*SMALL, "--heatmap-size", "12", "16")
    ),
    "LSPET, coordinates, 256x192, bf16": Training("pose_regression.py", LSPET, SMALL),
    "CIFAR-10, DeiT-Ti with 4x4 px patches, bf16": Training(
        "deit_imagenet.py",
        (
            *("--preset", "cifar10", "--data-dir", "{data}/cifar10", "--epochs", "50"),
            *("--num-workers", "14"),
        ),
        (
            *("--preset", "digits", "--limit-train", "96", "--epochs", "2", "--warmup-epochs", "1"),
            *("--batch-size", "32", "--log-every", "1"),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny, on a CPU: tries this script")
    parser.add_argument("--data", type=Path, help="folder with lspet/ and cifar10/")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu-session")
    parser.add_argument("--page", type=Path, help="docs/results/gpu.md; in --out with --smoke")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop in time, to go on later")
    options = parser.parse_args()
    page = options.page or (options.out if options.smoke else ROOT / "docs/results") / "gpu.md"
    if not options.smoke:
        if not torch.cuda.is_available():
            parser.error("PyTorch sees no GPU; --smoke tries this script without one")
        if options.data is None:
            parser.error("--data is missing: the folder with lspet/ and cifar10/")
        if missing := [n for n in ("lspet", "cifar10") if not (options.data / n).is_dir()]:
            parser.error(f"--data {options.data} has no folder {' and no '.join(missing)}")
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    tests = run_tests(options.out, "tests/training/test_fit.py" if options.smoke else "tests")
    print(f"tests that need a GPU: {tests['summary']}", flush=True)
    rows, failed = [], []
    for name, training in TRAININGS.items():
        title = f"trial of {training.script}" if options.smoke else name
        folder = options.out / folder_name(title)
        print(f"--- {title}", flush=True)
        command = command_of(training, options.smoke)
        if train(command, folder, options.data, end):
            failed.append(title)
        rows.append((title, command, read_run(folder)))
        write(page, page_text(options.smoke, tests, rows))
    print(f"written: {page}")
    if failed:
        raise SystemExit(f"failed, see above: {', '.join(failed)}")


def run_tests(out: Path, where: str) -> dict[str, Any]:
    """Outcome of every GPU test by name; those of an earlier call if there are."""
    file = out / "tests.json"
    if not file.exists():
        done = subprocess.run(
            [sys.executable, *TESTS, where],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment(),
        )
        lines = done.stdout.splitlines()
        if done.returncode not in (0, 1) or not lines:
            raise SystemExit(f"the tests could not be run:\n{done.stdout}\n{done.stderr}")
        found = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR) (.+)$", done.stdout, re.MULTILINE)
        write(file, json.dumps({"summary": lines[-1].strip("= "), "tests": found}, indent=1))
        write(out / "tests.txt", done.stdout)
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def command_of(training: Training, smoke: bool) -> tuple[str, ...]:
    """The example's command line, with {data} for the data's folder."""
    options = training.smoke if smoke else training.options
    device = "cpu" if smoke else "cuda"
    return (f"examples/{training.script}", *options, "--device", device)


def train(command: tuple[str, ...], folder: Path, data: Path | None, end: float) -> bool:
    """Train, or continue, until done or until the time is up; whether it failed."""
    left = end - time.monotonic() - SECONDS_TO_STOP
    if left <= 0:
        return False
    script, *options = (part.replace("{data}", str(data)) for part in command)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *options, "--output-dir", str(folder)],
        env=environment(),
    )
    try:
        status = process.wait(left)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    return status not in (0, 128 + signal.SIGTERM, -signal.SIGTERM)


def read_run(folder: Path) -> dict[str, Any]:
    """What the log of a run says; empty without one."""
    file = folder / "log.jsonl"
    if not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    starts = [record for record in records if record["event"] == "start"]
    trained = [record for record in records if record["event"] == "train"]
    evaluated = [record for record in records if record["event"] == "evaluate"]
    return {
        "summary": starts[0]["summary"],
        "date": starts[-1]["time"][:10],
        "torch": starts[-1]["torch"],
        "epochs": trained[-1]["epoch"] + 1 if trained else 0,
        "steps": trained[-1]["step"] if trained else 0,
        # The first figure holds what is done once (kernels, caches).
        "speed": statistics.median(r["samples_per_second"] for r in trained[1:] or trained)
        if trained
        else None,
        "memory": max((record["memory_mib"] for record in trained), default=None),
        "scores": evaluated[-1] if evaluated else {},
    }


def page_text(
    smoke: bool, tests: dict[str, Any], rows: list[tuple[str, tuple[str, ...], dict[str, Any]]]
) -> str:
    """The page, in Markdown."""
    made = machine(torch.get_num_threads())
    on = made["machine"]
    trial = "**A trial of the script on a CPU: no figure here means anything.**\n\n" * smoke
    lines = [
        f"# On one GPU\n\n{trial}{on['gpu'] or 'no GPU'}, {on['processor']}, {on['cores']} cores; "
        f"PyTorch {on['torch']}, Python {on['python']}, {made['date']}. Made by "
        f"`python benchmarks/gpu_session.py{' --smoke' * smoke}`. One seed each: the runs show "
        "that the paths work and how fast, not that the method helps.",
        "",
        "| run | epochs | images/s | peak memory | result |",
        "|---|---|---|---|---|",
    ]
    for name, _, run in rows:
        if not run:
            lines.append(f"| {name} | not started | | | |")
            continue
        scores = {k: v for k, v in run["scores"].items() if k.split("/")[0] in SHOWN}
        shown = [f"{name} {value:.2f}" for name, value in scores.items() if value is not None]
        lines.append(
            f"| {name} | {run['epochs']} ({run['steps']:,} steps) | {number(run['speed'])} | "
            f"{number(run['memory'])} MiB | {', '.join(shown) or 'not evaluated yet'} |"
        )
    lines += [
        "",
        "Images/s is the median over the log's lines, loading and augmentation of the images "
        "included, evaluations not; peak memory is what PyTorch allocated on the GPU.",
    ]
    for name, command, run in rows:
        shown_command = " ".join(part.replace("{data}", "$CYCLEDISTILL_DATA") for part in command)
        lines += ["", f"## {name}", "", "```bash"]
        lines += [f"python {shown_command} --output-dir runs/{folder_name(name)}", "```", ""]
        summary = {k: v for k, v in run.get("summary", {}).items() if k != "output"}
        lines += [f"- {key}: {value}" for key, value in summary.items()]
    lines += ["", "## Tests that need a GPU", "", f"{tests['summary']}.", ""]
    lines += [f"- {outcome.lower()}: `{name}`" for outcome, name in tests["tests"]]
    return "\n".join(lines) + "\n"


def folder_name(title: str) -> str:
    """A title as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def environment() -> dict[str, str]:
    """So that this checkout is what runs, installed or not."""
    paths = [str(ROOT), str(ROOT / "integrations"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def number(value: float | None) -> str:
    """A figure with three digits and thousands apart; a dash for none."""
    return "-" if value is None else f"{float(f'{value:.3g}'):,g}"


if __name__ == "__main__":
    main()

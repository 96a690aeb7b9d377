"""Work off a study, or make the page from the results.

python -m experiments run digits      # start it as often as there are cores to spare
python -m experiments status
python -m experiments report          # rewrites the tables and plots of docs/results/lab.md
python -m experiments keep            # copies weights of one seed to experiments/weights/
python -m experiments pretrain images # or text: weights that the retrofit studies start from
python -m experiments score KEY --images FOLDER   # of those; FOLDER has CLASS/*.jpg
python -m experiments score KEY --images FOLDER --annotations FILE   # of those of people

With the C library of GNU/Linux, MALLOC_MMAP_THRESHOLD_=8589934592 and
MALLOC_TRIM_THRESHOLD_=17179869184 save a run a sixth of its time: memory is not returned and asked
for again at each step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from experiments._config import RunConfig
from experiments._each_cycle import each_cycle
from experiments._headline import headline
from experiments._image_run import ImageRun
from experiments._image_study import run_seeds
from experiments._pointers import PointerRun, train_pointers
from experiments._pretrain import PRETRAINING, pretrain
from experiments._record import ROOT
from experiments._report import write_page
from experiments._results import Results, weights_file
from experiments._retrofit import RetrofitRun, retrofit
from experiments._studies import STUDIES
from experiments._study import Study
from experiments._train import train
from experiments._weights import keep, load_kept, score

RESULTS = ROOT / "experiments" / "results"
WORK = ROOT / "runs" / "lab"
WEIGHTS = ROOT / "experiments" / "weights"
PAGE = ROOT / "docs" / "results" / "lab.md"


def results_of(name: str) -> Results:
    """Where a study's records stand."""
    return Results(RESULTS / f"{name}.jsonl", WORK)


def run(study: Study, results: Results, device: str = "auto", variants: Sequence[str] = ()) -> int:
    """Do the study's runs, or its variants', that nobody has done or is doing; returns how many.

    Raises:
        ValueError: The study has no such variant.
    """
    unknown = [name for name in variants if name not in study.variants]
    if unknown:
        raise ValueError(f"there is no variant {unknown[0]!r}, expected of {list(study.variants)}")
    names = variants or study.variants
    runs = [study.run(name, seed) for seed in study.seeds for name in names]
    quick = [config for config in runs if isinstance(config, ImageRun)]
    done = run_seeds(quick, results, device) if quick else 0
    return done + sum(
        _run_alone(config, results, device) for config in runs if not isinstance(config, ImageRun)
    )


def _run_alone(
    config: RunConfig | PointerRun | RetrofitRun,
    results: Results,
    device: str,
    again: bool = False,
) -> int:
    """A run and, before it, its teacher's; nothing where another process has one of them.

    With ``again`` also a run that is recorded, for its weights.
    """
    done = 0
    teacher = None if isinstance(config, PointerRun) else config.taught_by
    if teacher is not None and not weights_file(teacher.key, results.work).exists():
        done = _run_alone(teacher, results, device, again=True)
        if not done:
            return 0
    with results.claim(config.key) as mine:
        recorded = config.key in results.read()
        if not mine and not (again and recorded):
            return done
        start = time.perf_counter()
        if isinstance(config, PointerRun):
            record = train_pointers(config)
        elif isinstance(config, RetrofitRun):
            record = retrofit(config, results.work)
        else:
            record = train(config, results.work / config.key, device)
        if not recorded:
            results.append(record)
        found = record["metrics"] or record["diverged"]
        print(f"{time.perf_counter() - start:6.0f} s  {_words(config)}  {found}", flush=True)
    return done + 1


def _words(config: RunConfig | PointerRun | RetrofitRun) -> str:
    """What differs from the defaults."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    defaults = {field.name: field.default for field in fields(config)}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != defaults[name])


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        "python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="do the runs of a study that are not done yet")
    running.add_argument("study", choices=STUDIES)
    running.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    running.add_argument("--threads", type=int, default=1, help="of this process (1)")
    running.add_argument("--variant", action="append", default=[], help="only this one; repeatable")
    commands.add_parser("status", help="how many runs of each study are done")
    reporting = commands.add_parser("report", help="rewrite tables and plots from the results")
    reporting.add_argument("--page", type=Path, default=PAGE)
    commands.add_parser("keep", help="keep the weights of reported runs in the repository")
    pretraining = commands.add_parser("pretrain", help="train what the retrofit studies start from")
    pretraining.add_argument("task", choices=PRETRAINING)
    scoring = commands.add_parser("score", help="the score of kept weights on other images")
    scoring.add_argument("key", help="of the record: the name of a file in experiments/weights/")
    scoring.add_argument("--images", type=Path, required=True, help="folder with CLASS/*.jpg")
    scoring.add_argument("--annotations", type=Path, help="people in these images, COCO format")
    options = parser.parse_args(arguments)
    if options.command == "run":
        torch.set_num_threads(options.threads)
        run(STUDIES[options.study], results_of(options.study), options.device, options.variant)
    elif options.command == "status":
        for name, study in STUDIES.items():
            recorded = results_of(name).read()
            keys = [config.key for config in study.runs()]
            print(f"{name}: {sum(key in recorded for key in keys)} of {len(keys)} runs done")
    elif options.command == "keep":
        for written in keep(STUDIES.values(), WORK, WEIGHTS):
            print(written)
    elif options.command == "pretrain":
        torch.set_num_threads(1)
        print(pretrain(options.task, WORK))
    elif options.command == "score":
        kept = load_kept(options.key, WEIGHTS)
        print(json.dumps(score(kept, options.images, options.annotations)))
    else:
        records = {name: results_of(name).read() for name in STUDIES}
        others = {"headline": headline(STUDIES, records)}
        for name in ("pretrained", "pretrained-longer", "pretrained-text", "speeds-four"):
            others[f"{name}-cycles"] = each_cycle(STUDIES[name], records[name])
        for written in write_page(options.page, STUDIES, records, others):
            print(written)


if __name__ == "__main__":
    main()

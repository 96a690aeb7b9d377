"""The metrics in several processes that share the people between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODES = ("ids", "no ids", "the first sees all")

WORKER = """
import json, sys, warnings
from pathlib import Path

import torch
import torch.distributed as dist
from cycledistill_pose.metrics import PCK, CocoKeypointAP

warnings.simplefilter("ignore")
rank, world, folder, modes = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
if world > 1:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
torch.manual_seed(0)
people = 11
images = torch.arange(people) % 4 + 1
points = 200 * torch.rand(people, 17, 2)
annotations = [
    {"id": i + 1, "image_id": int(images[i]), "category_id": 1, "bbox": [0, 0, 200, 200],
     "area": 24000.0, "iscrowd": 0,
     "keypoints": torch.cat((points[i], torch.full((17, 1), 2.0)), 1).flatten().tolist()}
    for i in range(people)
]
truth = {"images": [{"id": i} for i in range(1, 6)], "annotations": annotations,
         "categories": [{"id": 1, "name": "person"}]}
found = points + 12 * torch.rand(people, 1, 1) * torch.randn(people, 17, 2)
scores = torch.rand(people, 17)
boxes = torch.tensor([[0.0, 0.0, 200.0, 200.0]]).expand(people, 4)
# Equal scores: here the order of people decides.
box_scores = torch.ones(people)

for mode in modes:
    metric, near = CocoKeypointAP(truth, nms=None), PCK()
    # A distributed sampler's share: padded with the first people to a multiple of the world.
    padded = list(range(people)) + list(range(-people % world))
    mine = padded[rank::world]
    if mode == "the first sees all":
        mine = list(range(people)) if rank == 0 else []
    for start in range(0, len(mine), 2):
        rows = torch.tensor(mine[start : start + 2])
        ids = None if mode == "no ids" else rows
        metric.update(images[rows], found[rows], scores[rows], boxes[rows], box_scores[rows], ids)
        if mode == "the first sees all":
            near.update(found[rows], points[rows], scores[rows], boxes[rows])
    metric.save_results(folder / f"results {mode}.json")
    figures = metric.compute()
    # Joining leaves each process with its own people.
    assert sum(map(len, metric.people)) == len(mine)
    if mode == "the first sees all":
        figures["PCK"] = float(near.compute())
    (folder / f"{mode} {rank}.json").write_text(json.dumps(figures))
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def run(folder: Path, world: int) -> None:
    """Let `world` processes write their figures and results for every mode into the folder."""
    folder.mkdir()
    script = folder / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(world), str(folder), *MODES],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(tmp_path):
    run(tmp_path / "one", 1)
    run(tmp_path / "two", 2)
    for mode in MODES:
        alone = json.loads((tmp_path / "one" / f"{mode} 0.json").read_text())
        results_alone = json.loads((tmp_path / "one" / f"results {mode}.json").read_text())
        figures = [
            json.loads((tmp_path / "two" / f"{mode} {rank}.json").read_text()) for rank in (0, 1)
        ]
        results = json.loads((tmp_path / "two" / f"results {mode}.json").read_text())
        assert figures[0] == figures[1]
        assert len(results) == len(results_alone) == 11
        assert 0.05 < alone["AP"] < 0.95
        if mode == "no ids":
            # The order of equal scores may differ, the people may not.
            assert sorted(map(str, results)) == sorted(map(str, results_alone))
            assert figures[0]["AR"] == pytest.approx(alone["AR"])
        else:
            assert figures[0] == alone
            assert results == results_alone

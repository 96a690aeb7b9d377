"""The metrics in several processes that share the people between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cycledistill_pose.metrics import PCK, CocoKeypointAP
from tests.pose.files import coco_file, labelled

MODES = ("ids", "no ids", "the first sees all")
PEOPLE = 11


def measure(rank: int, world: int, folder: Path) -> None:
    """Write the figures and results of one of ``world`` processes for every mode."""
    if world > 1:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    torch.manual_seed(0)
    images = torch.arange(PEOPLE) % 4 + 1
    points = 200 * torch.rand(PEOPLE, 17, 2)
    seen = torch.cat((points, torch.full((PEOPLE, 17, 1), 2.0)), 2)
    annotated = [
        labelled(i + 1, int(images[i]), [0, 0, 200, 200], seen[i], area=24000.0)
        for i in range(PEOPLE)
    ]
    truth = coco_file(annotated, [f"{i}.jpg" for i in range(1, 6)])
    found = points + 12 * torch.rand(PEOPLE, 1, 1) * torch.randn(PEOPLE, 17, 2)
    scores = torch.rand(PEOPLE, 17)
    boxes = torch.tensor([[0.0, 0.0, 200.0, 200.0]]).expand(PEOPLE, 4)
    box_scores = torch.ones(PEOPLE)  # equal scores: here the order of people decides
    for mode in MODES:
        metric, near = CocoKeypointAP(truth, nms=None), PCK()
        # A distributed sampler's share: padded with the first people to a multiple of the world.
        padded = list(range(PEOPLE)) + list(range(-PEOPLE % world))
        mine = padded[rank::world]
        if mode == "the first sees all":
            mine = list(range(PEOPLE)) if rank == 0 else []
        for start in range(0, len(mine), 2):
            rows = torch.tensor(mine[start : start + 2])
            ids = None if mode == "no ids" else rows
            people = (images[rows], found[rows], scores[rows], boxes[rows], box_scores[rows])
            metric.update(*people, ids)
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_figures_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    measure(0, 1, one)
    mp.start_processes(measure, args=(2, two), nprocs=2, start_method="fork")
    for mode in MODES:
        alone = json.loads((one / f"{mode} 0.json").read_text())
        results_alone = json.loads((one / f"results {mode}.json").read_text())
        figures = [json.loads((two / f"{mode} {rank}.json").read_text()) for rank in (0, 1)]
        results = json.loads((two / f"results {mode}.json").read_text())
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

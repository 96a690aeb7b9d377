"""Networks of several runs side by side, each as it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from cycledistill import CycleWrapper, count_macs
from cycledistill.training import find_trained
from cycledistill_pose.checkpoints import load_plain
from cycledistill_pose.codecs import codec_for
from cycledistill_pose.recipes._evaluate import evaluate_cycles, scores_table
from cycledistill_pose.recipes._people import EvaluationPeople


def table_in_use(
    folders: Sequence[Path],
    people: EvaluationPeople,
    flip_test: bool,
    device: torch.device,
    num_workers: int = 0,
) -> Table:
    """Scores of finished runs on the same people, with what each network costs in use.

    On several processes, each predicts its share of the people; all must call it.

    Args:
        folders: Those of the runs, or of plain networks.
        people: The people to evaluate on, annotated.
        flip_test: Whether to average with the mirror image.
        device: Where the networks run.
        num_workers: Processes that load images.

    Raises:
        FileNotFoundError: A folder has no network.
    """
    flip = people.skeleton.flip_indices if flip_test else None
    rows = []
    for folder in folders:
        found = find_trained(folder)
        network, _, options = load_plain(found.network)
        model = CycleWrapper(network, found.cycles, "blocks").to(device).eval()
        width, height = network.input_size
        example = torch.zeros(1, 3, height, width, device=device)
        macs = count_macs(model, example, num_cycles=found.cycles).with_attention_products
        codec = codec_for(network, **options)
        metrics = evaluate_cycles(model, people, codec, found.cycles, flip, num_workers)
        cost = (str(folder), f"{found.cycles}", f"{macs / 1e6:.1f} M")
        rows.append((cost, metrics[-1].scores()))
    labels = ("network", "cycles", "MACs of a person")
    return scores_table("Each network as it is used", labels, rows)

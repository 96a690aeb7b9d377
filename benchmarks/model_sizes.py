"""Sizes of the models beside those of the paper: `python -m benchmarks.model_sizes`."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cycledistill import count_macs
from cycledistill_pose.models import TokenPruning, create_model

NOTE = """\
Params and MACs of one cycle, which is what inference runs, on one image of 256x192 px.
The paper's "GFLOPs" are multiply-accumulates without the two matrix products of the attention
(column "MACs (G)"); its counter also includes batch norms and ReLUs, which adds 0.04 with a
StemNet and 0.07 with HRNet. With the attention's products the cost is that of the last column."""


class Row(NamedTuple):
    """A line of the paper's tables 1, 2 and 8, and the network behind it."""

    name: str
    network: str
    pruned: bool
    params: float
    gflops: float


PAPER = (
    Row("SDPose-T", "tokenpose_t", False, 4.4, 1.8),
    Row("SDPose-S-V1", "tokenpose_s_v1", False, 6.6, 2.4),
    Row("SDPose-S-V2", "tokenpose_s_v2", False, 6.2, 4.7),
    Row("SDPose-B", "tokenpose_b", False, 13.2, 5.2),
    Row("SDPose-Reg", "tokenreg_s", False, 5.4, 2.4),
    Row("SDPose-S-V1 + PPT", "tokenpose_s_v1", True, 6.6, 2.0),
    Row("PPT-B", "tokenpose_b", True, 13.2, 4.7),
)


def size_table() -> str:
    """Build the table as Markdown; our figures are counted on the models."""
    lines = [
        "| model | Params (M), paper | Params | GFLOPs, paper | MACs (G) | with attention (G) |",
        "|---|---|---|---|---|---|",
    ]
    for row in PAPER:
        model = create_model(row.network, pruning=TokenPruning() if row.pruned else None)
        params = sum(p.numel() for p in model.parameters() if p.requires_grad)
        width, height = model.input_size
        macs = count_macs(model, torch.zeros(1, 3, height, width))
        lines.append(
            f"| {row.name} | {row.params} | {params:,} | {row.gflops} "
            f"| {macs.without_attention_products / 1e9:.2f} "
            f"| {macs.with_attention_products / 1e9:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(size_table(), NOTE, sep="\n\n")

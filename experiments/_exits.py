"""Early exit by confidence: accuracy for a mean number of cycles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MEAN_CYCLES = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


def early_exits(
    chosen_on: Sequence[Tensor], logits: Sequence[Tensor], labels: Tensor
) -> dict[str, Tensor]:
    """Accuracy and mean cycles if every image stops at the first cycle that is confident enough.

    An image stops once its highest probability reaches a threshold. The threshold of each seed is
    the one with which the images of ``chosen_on`` run a number of cycles on average.

    Args:
        chosen_on: Logits after cycle 1 to N, `[S, n, classes]`, of the images that choose.
        logits: The same of other images, `[S, m, classes]`.
        labels: Of these, `[m]`.

    Returns:
        ``MEAN/accuracy`` in percent and ``MEAN/cycles``, each `[S]`, for each of `MEAN_CYCLES`
        below N.
    """
    count = len(logits)
    # How confident an image has been up to a cycle, [N - 1, S, images].
    before, now = (
        torch.stack([one.softmax(-1).amax(-1) for one in own[:-1]]).cummax(0).values
        for own in (chosen_on, logits)
    )
    right = torch.stack([one.argmax(-1) == labels for one in logits])  # [N, S, m]
    ranked = before.transpose(0, 1).flatten(1).sort(-1).values  # [S, (N - 1) n]
    found = {}
    for mean in (mean for mean in MEAN_CYCLES if mean < count):
        # Each confidence below the threshold costs its image another cycle.
        place = min(round((mean - 1) * before.shape[-1]), ranked.shape[-1] - 1)
        threshold = ranked[:, place]  # [S]
        cycles = (now < threshold[:, None]).sum(0)  # [S, m], counted from 0
        hits = right.gather(0, cycles[None])[0]
        found[f"{mean:g}/accuracy"] = 100 * hits.double().mean(-1)
        found[f"{mean:g}/cycles"] = 1 + cycles.double().mean(-1)
    return found

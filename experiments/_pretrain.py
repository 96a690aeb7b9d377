"""The pretrained networks of the retrofit studies: trained once, kept with their recipe."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file

from experiments._results import save_weights, weights_file
from experiments._retrofit import RetrofitRun, retrofit
from experiments._retrofit_tasks import pretrained_file

PRETRAINING = {
    "images": RetrofitRun("images", "plain", epochs=10, pretrains=True, batch_size=125, lr=2e-3),
    "text": RetrofitRun("text", "plain", epochs=5, pretrains=True, batch_size=16, lr=3e-3),
}


def pretrain(task: str, work: Path) -> Path:
    """Train a network and keep its weights, in half precision, with its record; returns the file.

    Args:
        task: images or text.
        work: Folder of decoded images.
    """
    config = PRETRAINING[task]
    record = {**retrofit(config, work), "python": platform.python_version()}
    weights = load_file(weights_file(config.key, work))
    body = {
        name.removeprefix("transformer."): value.to(torch.float16)
        for name, value in weights.items()
        if name != "lm_head.weight"  # tied to the embedding
    }
    file = pretrained_file(task)
    save_weights(body, file, {"record": json.dumps(record)})
    return file

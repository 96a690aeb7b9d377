"""The libraries, in the order of the page."""

from __future__ import annotations

from benchmarks.families._by_hand import by_hand
from benchmarks.families._candidate import Library
from benchmarks.families._monai import of_monai
from benchmarks.families._open_clip import of_open_clip
from benchmarks.families._sentence_transformers import of_sentence_transformers
from benchmarks.families._tables import of_diffusers, of_timm, of_transformers, of_vit_pytorch
from benchmarks.families._torch import of_torch
from benchmarks.families._x_transformers import of_x_transformers


def libraries() -> list[Library]:
    return [
        Library("timm", "timm", of_timm),
        Library("Hugging Face transformers", "transformers", of_transformers),
        Library("sentence-transformers", "sentence-transformers", of_sentence_transformers),
        Library("diffusers", "diffusers", of_diffusers),
        Library("vit-pytorch", "vit-pytorch", of_vit_pytorch),
        Library("x-transformers", "x-transformers", of_x_transformers),
        Library("open_clip", "open_clip_torch", of_open_clip),
        Library("MONAI", "monai", of_monai),
        Library("torch and torchvision", "torchvision", of_torch),
        Library("Written for this page", "torch", by_hand),
    ]

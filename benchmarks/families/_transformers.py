"""What rows of models of transformers have in common: how they are built, sizes and inputs."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import torch
from torch import nn

from benchmarks.families._candidate import Candidate, Inputs

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {**SIZES, "vocab_size": 50}
TOKENS = {"bos_token_id": 1, "eos_token_id": 49, "pad_token_id": 0}


def candidate(
    name: str,
    inputs: Callable[[], Inputs],
    blocks: str | None = None,
    label: str = "",
    experts: str | None = None,
    checkpointing: bool = False,
    **config: Any,
) -> Candidate:
    """A model class of transformers and the values of its configuration."""

    def make() -> nn.Module:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        cls = getattr(transformers, name)
        made = cls(cls.config_class(**config))
        if experts is not None:  # the default does not run in float64
            made.set_experts_implementation(experts)
        if checkpointing:
            made.gradient_checkpointing_enable({"use_reentrant": False})
        return made

    reference = methodcaller("gradient_checkpointing_disable") if checkpointing else None
    return Candidate(name + label, make, inputs, blocks, reference)


def plain_words(length: int = 7) -> Inputs:
    return (torch.randint(2, 48, (2, length)),), {}


def words() -> Inputs:
    """Two sequences, the first of which is padded."""
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return plain_words()[0], {"attention_mask": mask}


def uncached() -> Inputs:
    args, kwargs = words()
    return args, {**kwargs, "use_cache": False}

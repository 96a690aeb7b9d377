"""What models are called with: a batch of two of everything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def images(size: int = 32, channels: int = 3) -> Inputs:
    return (torch.randn(2, channels, size, size),), {}


def images_of_several_sizes() -> Inputs:
    shapes = ((32, 32), (16, 32), (32, 16), (24, 24))
    return ([torch.randn(3, *shape) for shape in shapes],), {"group_images": True}


def video(frames: int) -> Inputs:
    """Frames before channels."""
    return (torch.randn(2, frames, 3, 32, 32),), {}


def clips() -> Inputs:
    """Channels before frames."""
    return (torch.randn(2, 3, 4, 32, 32),), {}


def spectrum() -> Inputs:
    return (torch.randn(2, 24, 16),), {}


def speech() -> Inputs:
    return (torch.randn(2, 400),), {}


def features() -> Inputs:
    return (torch.randn(2, 6, 16),), {}


def series() -> Inputs:
    return (torch.randn(2, 16, 2),), {}


def decisions() -> Inputs:
    return (), {
        "states": torch.randn(2, 4, 3),
        "actions": torch.randn(2, 4, 2),
        "rewards": torch.randn(2, 4, 1),
        "returns_to_go": torch.randn(2, 4, 1),
        "timesteps": torch.arange(4).expand(2, 4),
    }


def plain_words(length: int = 7) -> Inputs:
    return (torch.randint(2, 48, (2, length)),), {}


def words(**more: Any) -> Inputs:
    """Two sequences, the first of which is padded."""
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return plain_words()[0], {"attention_mask": mask, **more}


def words_without_cache() -> Inputs:
    return words(use_cache=False)


def words_without_memory() -> Inputs:
    return words(use_mems=False)


def plain_words_without_cache() -> Inputs:
    return plain_words()[0], {"use_cache": False}


def translation() -> Inputs:
    args, kwargs = words_without_cache()
    return args, {**kwargs, "decoder_input_ids": torch.randint(2, 48, (2, 5))}


def transcription() -> Inputs:
    target = {"decoder_input_ids": torch.randint(2, 48, (2, 5)), "use_cache": False}
    return (torch.randn(2, 8, 32),), target


def latents() -> Tensor:
    return torch.randn(2, 4, 8, 8)


def steps() -> Tensor:
    return torch.tensor([3, 7])


def latents_of_class() -> Inputs:
    classes = torch.tensor([1, 2])
    return (), {"hidden_states": latents(), "timestep": steps(), "class_labels": classes}


def latents_of_text(**more: Any) -> Inputs:
    text = torch.randn(2, 5, 16)
    given = {"hidden_states": latents(), "timestep": steps(), "encoder_hidden_states": text}
    return (), {**given, **more}


def latents_of_captions() -> Inputs:
    return latents_of_text(added_cond_kwargs={"resolution": None, "aspect_ratio": None})


def latents_of_pooled_text() -> Inputs:
    return latents_of_text(pooled_projections=torch.randn(2, 16))


def latent_frames_first() -> Inputs:
    return latents_of_text(hidden_states=torch.randn(2, 2, 4, 8, 8))


def latent_frames() -> Inputs:
    return latents_of_text(hidden_states=torch.randn(2, 4, 2, 8, 8))


def noisy_sample() -> Inputs:
    given = {"sample": latents(), "timestep": steps()}
    return (), {**given, "encoder_hidden_states": torch.randn(2, 5, 16)}


def flux() -> Inputs:
    return (), {
        "hidden_states": torch.randn(2, 16, 4),
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "pooled_projections": torch.randn(2, 16),
        "timestep": torch.tensor([0.3, 0.7]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }


def hunyuan() -> Inputs:
    return (), {
        "hidden_states": latents(),
        "timestep": steps().double(),
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "text_embedding_mask": torch.ones(2, 5),
        "encoder_hidden_states_t5": torch.randn(2, 6, 16),
        "text_embedding_mask_t5": torch.ones(2, 6),
        "image_meta_size": torch.full((2, 6), 8.0),
        "style": torch.zeros(2, dtype=torch.long),
        "image_rotary_emb": (torch.randn(16, 8).cos(), torch.randn(16, 8).sin()),
    }


def prior() -> Inputs:
    return (), {
        "hidden_states": torch.randn(2, 12),
        "timestep": steps(),
        "proj_embedding": torch.randn(2, 12),
        "encoder_hidden_states": torch.randn(2, 5, 12),
    }


def image_words() -> Inputs:
    return (), {
        "input_ids": torch.randint(0, 30, (2, 4, 4)),
        "encoder_hidden_states": torch.randn(2, 5, 16),
        "pooled_text_emb": torch.randn(2, 16),
        "micro_conds": torch.randn(2, 2),
    }

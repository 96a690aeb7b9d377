"""Models of Hugging Face's transformers."""

from __future__ import annotations

from benchmarks.families._candidate import Candidate
from benchmarks.families._hugging_face_pictures import of_pictures, of_sound
from benchmarks.families._hugging_face_text import decoders, encoders, encoders_with_decoders


def of_hugging_face() -> list[Candidate]:
    return [*of_pictures(), *of_sound(), *encoders(), *decoders(), *encoders_with_decoders()]

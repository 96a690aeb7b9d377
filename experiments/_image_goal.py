"""What is learnt from images by the quick loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from experiments._image_data import SeededImages


class Goal(ABC):
    """A task, for several seeds at once.

    Attributes:
        images: To train on.
        available: How many training images there are, used or not.
        val: People or images to choose on; ``val.images`` is `[N, 3, H, W]` uint8.
        test: Likewise, to report.
        has_classes: Whether outputs are logits.
    """

    images: SeededImages
    available: int
    val: Any
    test: Any
    has_classes: ClassVar[bool]

    @abstractmethod
    def batch(self, indices: Tensor, places: Tensor | None = None) -> tuple[Tensor, Any]:
        """Augmented images `[S, B, 3, H, W]` and targets: tensors `[S, B, ...]`.

        ``places`` are `SeededImages.batch`'s.
        """

    @classmethod
    @abstractmethod
    def truth_loss(cls, outputs: Tensor, truth: Any, smoothing: float) -> Tensor:
        """The loss of each seed, `[S]`; ``smoothing`` is for classes."""

    @classmethod
    @abstractmethod
    def teaching_loss(cls, outputs: Tensor, taught: Sequence[Tensor], temperature: float) -> Tensor:
        """From frozen teachers, of each seed, `[S]`; ``temperature`` is for classes."""

    @staticmethod
    @abstractmethod
    def together(taught: Sequence[Tensor]) -> Tensor:
        """What teachers predict together."""

    @classmethod
    @abstractmethod
    def score(cls, outputs: Tensor, split: Any) -> Tensor:
        """Percent, `[S]`, of outputs `[S, N, ...]` for a whole split."""

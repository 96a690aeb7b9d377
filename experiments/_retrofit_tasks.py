"""What pretrained networks go on to learn: five other classes of CIFAR-10, and more English."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from cycledistill import CycleWrapper
from experiments._image_classes import cifar10
from experiments._images import Split, augment

if TYPE_CHECKING:
    from experiments._retrofit import RetrofitRun

WEIGHTS = Path(__file__).parent / "weights" / "pretrained"
_CLASSES = 5


class RetrofitTask(Protocol):
    """Data in memory, and the network that is trained on it.

    Attributes:
        steps_per_epoch: Steps that an epoch is said to have.
        example: One input of the model, `[1, ...]`.
    """

    steps_per_epoch: int
    example: Tensor

    def model(self) -> nn.Module:
        """A new plain model, pretrained unless the run pretrains."""

    def loss(self, prediction: Any, targets: Tensor) -> Tensor:
        """The task loss."""

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a training step, drawn with torch's generator."""

    def cycles_scored(self, training_cycles: int) -> int:
        """How many cycles are scored after training with so many."""

    def scores(self, model: CycleWrapper, split: str, cycles: int) -> list[float]:
        """The score after 1, 2, ... ``cycles`` cycles of a wrapped model in eval mode."""


def load_retrofit_task(config: RetrofitRun, work: Path) -> RetrofitTask:
    """The task of a run."""
    return FewImages(config, work) if config.task == "images" else Text(config)


def pretrained_file(task: str) -> Path:
    """Where the pretrained weights of a task stand."""
    return WEIGHTS / f"{task}.safetensors"


class FewImages:
    """CIFAR-10's classes 0 to 4 to pretrain on, few images of each of 5 to 9 to learn."""

    SCORED = 1000  # of the images to choose on

    def __init__(self, config: RetrofitRun, work: Path) -> None:
        self._pretrains = config.pretrains
        train, val, test, self._deviation, self._mean = _five_classes(work, not config.pretrains)
        if not config.pretrains:
            train = _few(train, config.per_class, config.seed % 1000)
        self._train = self._normalized(train)
        val, test = val.take(slice(0, self.SCORED)), test.take(slice(0, None, 2))
        self._splits = {"val": self._normalized(val), "test": self._normalized(test)}
        self._order = torch.zeros(0, dtype=torch.long)
        self.steps_per_epoch = len(train.labels) // config.batch_size
        self.example = self._train.images[:1]

    def _normalized(self, split: Split) -> Split:
        return split._replace(images=(split.images.float() - self._mean) / self._deviation)

    def model(self) -> nn.Module:
        """A ViT of six blocks x 64 on patches of 8 px; its head is new."""
        from timm.models.vision_transformer import VisionTransformer

        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=6, num_heads=4, num_classes=_CLASSES
        )
        if not self._pretrains:
            weights = load_file(pretrained_file("images"))
            body = {k: v.float() for k, v in weights.items() if not k.startswith("head.")}
            model.load_state_dict({**model.state_dict(), **body})
        return model

    def loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy."""
        return functional.cross_entropy(prediction, targets)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Shifted and mirrored images, each of them once in an epoch."""
        if len(self._order) < size:
            self._order = torch.randperm(len(self._train.labels))
        chosen, self._order = self._order[:size], self._order[size:]
        images, labels = self._train.take(chosen)
        return augment(images, 4), labels

    def cycles_scored(self, training_cycles: int) -> int:
        """Two at least."""
        return max(2, training_cycles)

    @torch.no_grad()
    def scores(self, model: CycleWrapper, split: str, cycles: int) -> list[float]:
        """Top-1 accuracy in percent."""
        images, labels = self._splits[split]
        right = torch.zeros(cycles)
        for batch, truth in zip(images.split(500), labels.split(500), strict=True):
            found = model.forward_cycles(batch, num_cycles=cycles).predictions
            right += torch.tensor([float((logits.argmax(1) == truth).sum()) for logits in found])
        return (100 * right / len(labels)).tolist()


class Text:
    """Bytes of the reference of the Python language, which comes with Python."""

    steps_per_epoch = 100
    LENGTH = 96
    SCORED = 100

    def __init__(self, config: RetrofitRun) -> None:
        self._pretrains = config.pretrains
        text = english()
        ends = [round(part * len(text)) for part in (0.8, 0.9)]
        self._train, *held_out = text.tensor_split(ends)
        self._splits = dict(zip(("val", "test"), held_out, strict=True))
        self.example = self._train[: self.LENGTH][None]

    def model(self) -> nn.Module:
        """A GPT-2 of six blocks x 64 without dropout."""
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=256,
            n_positions=self.LENGTH,
            n_embd=64,
            n_layer=6,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
        model = GPT2LMHeadModel(config)
        if not self._pretrains:
            weights = load_file(pretrained_file("text"))
            model.transformer.load_state_dict({k: v.float() for k, v in weights.items()})
        return model

    def loss(self, prediction: Any, targets: Tensor) -> Tensor:
        """Cross entropy of the next byte."""
        return functional.cross_entropy(prediction.logits[:, :-1].flatten(0, 1), targets.flatten())

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Windows of the text at random places, and the bytes that follow each of theirs."""
        starts = torch.randint(len(self._train) - self.LENGTH, (size,))
        windows = self._train[starts[:, None] + torch.arange(self.LENGTH)]
        return windows, windows[:, 1:]

    def cycles_scored(self, training_cycles: int) -> int:
        """Three, whatever training had."""
        return 3

    @torch.no_grad()
    def scores(self, model: CycleWrapper, split: str, cycles: int) -> list[float]:
        """Perplexity of a byte in windows that are spread evenly over the held-out text."""
        text = self._splits[split]
        starts = torch.linspace(0, len(text) - self.LENGTH, self.SCORED).long()
        windows = text[starts[:, None] + torch.arange(self.LENGTH)]
        losses = torch.zeros(cycles)
        for batch in windows.split(50):
            found = model.forward_cycles(batch, num_cycles=cycles).predictions
            losses += len(batch) * torch.stack([self.loss(own, batch[:, 1:]) for own in found])
        return [math.exp(loss) for loss in (losses / self.SCORED).tolist()]


def english() -> Tensor:
    """About 700,000 bytes, `[N]` int64; they differ from one version of Python to another."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()


@functools.cache
def _five_classes(work: Path, last: bool) -> tuple[Split, Split, Split, Tensor, Tensor]:
    """Of CIFAR-10 to train, to choose and to report; deviation and mean of all ten classes."""
    train, val, test = cifar10(work)
    deviation, mean = torch.std_mean(train.images.float(), dim=(0, 2, 3), keepdim=True)
    wanted = range(_CLASSES, 2 * _CLASSES) if last else range(_CLASSES)
    train, val, test = (_of_classes(split, wanted) for split in (train, val, test))
    return train, val, test, deviation, mean


def _of_classes(split: Split, wanted: range) -> Split:
    """The samples of some classes, numbered from 0."""
    own = split.take((split.labels >= wanted.start) & (split.labels < wanted.stop))
    return own._replace(labels=own.labels - wanted.start)


def _few(split: Split, per_class: int, seed: int) -> Split:
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))
    labels = split.labels[order]
    chosen = [order[labels == label][:per_class] for label in range(_CLASSES)]
    return split.take(torch.cat(chosen))

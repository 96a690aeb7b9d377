"""Small models and data, and what their gradients are in a trainer."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.trainers import CycleTrainer
from tests.core.models import Block


class Own(nn.Module):
    """A model that is none of a library's, and knows no labels: [B, T, 8] to [B, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class OwnWithLoss(Own):
    """The mean loss of a batch, whatever the number of items is."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        logits = super().forward(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def vit() -> ViTForImageClassification:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    return ViTForImageClassification(config).train()


def gpt() -> GPT2LMHeadModel:
    config = GPT2Config(
        n_layer=2,
        n_embd=16,
        n_head=2,
        vocab_size=40,
        n_positions=16,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).train()


def images(count: int = 16) -> list[dict[str, Any]]:
    return [
        {"pixel_values": torch.randn(3, 16, 16), "labels": i % 3, "name": i} for i in range(count)
    ]


def vectors(count: int = 16) -> list[dict[str, Any]]:
    return [{"x": torch.randn(6, 8), "labels": i % 5, "name": i} for i in range(count)]


def texts(count: int = 16) -> list[dict[str, Any]]:
    """Each has another number of words with a label; the first, which none predicts, has none."""
    rows = []
    for i in range(count):
        words = torch.randint(40, (12,))
        labels = words.clone()
        labels[: 1 + i % 10] = -100
        rows.append({"input_ids": words, "labels": labels})
    return rows


def arguments(folder: Any, **changed: Any) -> TrainingArguments:
    options: dict[str, Any] = {
        "max_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 16,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        **changed,
    }
    return TrainingArguments(str(folder), **options)


class KeepGradients(TrainerCallback):
    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        self.kept = {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }


def trained_gradients(
    trainer: type[Trainer],
    model: Any,
    data: Any,
    folder: Any,
    parts: int = 1,
    changed: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Gradients of one step of 16 samples, in so many parts."""
    keep = KeepGradients()
    args = arguments(
        folder,
        gradient_accumulation_steps=parts,
        per_device_train_batch_size=16 // parts,
        **(changed or {}),
    )
    trainer(model=model, args=args, train_dataset=data, callbacks=[keep], **options).train()
    assert keep.kept
    return keep.kept


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    assert found.keys() == expected.keys()
    assert max(float(tensor.abs().max()) for tensor in expected.values()) > 1e-3
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) <= bound, name


def text_run(folder: str, processes: int = 1) -> None:
    """Two cycles of a causal language model, in four parts; gradients into a file."""
    torch.manual_seed(0)
    model, data = CycleWrapper(gpt(), num_cycles=2, cycle_embedding=True), texts()
    backend = {"ddp_backend": "gloo"} if processes > 1 else {}
    keep = KeepGradients()
    trainer = CycleTrainer(
        model=model,
        args=arguments(
            folder,
            per_device_train_batch_size=4 // processes,
            gradient_accumulation_steps=4,
            **backend,
        ),
        train_dataset=data,
        callbacks=[keep],
        criterion=partial(CycleDistillLoss, token_weight=3.0),
    )
    trainer.train()
    trainer.save_model(folder)
    if trainer.is_world_process_zero():
        torch.save(keep.kept, f"{folder}/gradients.pt")


def one_of_two(rank: int, folder: str, port: int) -> None:
    """What each of two processes does."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    text_run(folder, processes=2)
    torch.distributed.destroy_process_group()

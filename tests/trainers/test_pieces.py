"""Pieces of other trainers, against loops written out here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.trainers import CycleTrainer
from tests.core.reference import equation_4, hand_fed
from tests.trainers.runs import (
    Own,
    OwnWithLoss,
    arguments,
    assert_close,
    images,
    trained_gradients,
    vit,
)

WHY = "a development dependency that is not installed"


def criterion() -> CycleDistillLoss:
    return CycleDistillLoss(cross_entropy, token_weight=0.5)


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 6, 8), torch.randint(5, (4,))) for _ in range(count)]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def by_hand(cycled: CycleWrapper, data: Any, decay: float) -> tuple[dict[str, Tensor], ...]:
    """State after plain gradient steps, and its moving average from the first step on."""
    optimizer, loss = torch.optim.SGD(cycled.parameters(), lr=0.1), criterion()
    averaged: dict[str, Tensor] = {}
    for x, y in data:
        optimizer.zero_grad()
        loss(cycled(x), y).total.backward()
        optimizer.step()
        for name, tensor in state_of(cycled).items():
            averaged[name] = averaged.get(name, tensor).lerp(tensor, 1 - decay)
    return state_of(cycled), averaged


def assert_same_state(found: Any, expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def teacher_cycled(model: nn.Module | None = None) -> CycleWrapper:
    return CycleWrapper(model or Own(), num_cycles=2, cycle_embedding=True)


def test_lightning(tmp_path: Path) -> None:
    L = pytest.importorskip("lightning", reason=WHY)
    callbacks = pytest.importorskip("lightning.pytorch.callbacks", reason=WHY)
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("lightning before 2.6 has no EMAWeightAveraging")
    start, data = teacher_cycled(), batches()

    class Module(L.LightningModule):
        def __init__(self, cycled: CycleWrapper) -> None:
            super().__init__()
            self.cycled, self.criterion = cycled, criterion()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.criterion(self.cycled(batch[0]), batch[1]).total

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("error", cross_entropy(self.cycled(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(*also: Any) -> Any:
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=list(also),
            default_root_dir=tmp_path,
        )
        module = Module(copy.deepcopy(start))
        loader = DataLoader(data, batch_size=None)
        trainer.fit(module, loader, loader)
        return trainer, module

    trained, averaged = by_hand(copy.deepcopy(start), data, decay=0.75)
    assert float(trained["cycle_teacher.embedding"].abs().max()) > 0
    trainer, module = fit()
    assert_same_state(state_of(module.cycled), trained)
    plain = copy.deepcopy(module.cycled).unwrap().eval()
    error = sum(cross_entropy(plain(x), y).item() for x, y in data) / len(data)
    assert float(trainer.callback_metrics["error"]) == pytest.approx(error, abs=1e-6)

    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "last.ckpt", cycled=teacher_cycled())
    assert_same_state(state_of(loaded.cycled), trained)

    _, module = fit(callbacks.EMAWeightAveraging(decay=0.75))
    assert_same_state(state_of(module.cycled), averaged)


def test_lightning_puts_the_model_back_into_training(tmp_path: Path) -> None:
    """After each validation, the first of which comes before all training."""
    L = pytest.importorskip("lightning", reason=WHY)
    modes: list[tuple[bool, bool]] = []

    class Watched(Own):
        def forward(self, x: Tensor) -> Tensor:
            modes.append((self.training, self.head.training))
            return super().forward(x)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.cycled = CycleWrapper(Watched(), num_cycles=2)

        def training_step(self, batch: Any, _: int) -> Tensor:
            assert len(self.cycled.blocks[0]._forward_hooks) == 1
            return criterion()(self.cycled(batch[0]), batch[1]).total

        def validation_step(self, batch: Any, _: int) -> None:
            assert not self.cycled.blocks[0]._forward_hooks
            cross_entropy(self.cycled(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    loader = DataLoader(batches(2), batch_size=None)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, **quiet)
    trainer.fit(Module(), loader, loader)
    on, off = (True, True), (False, False)
    assert modes == [off, off, *(4 * [on] + 2 * [off]), *(4 * [on] + 2 * [off])]


def test_timm_average_has_the_teacher_too() -> None:
    utils = pytest.importorskip("timm.utils", reason=WHY)
    cycled, data = teacher_cycled(), batches()
    before = state_of(cycled)
    ema = utils.ModelEmaV3(cycled, decay=0.75)
    optimizer, loss = torch.optim.SGD(cycled.parameters(), lr=0.1), criterion()
    expected = before
    for x, y in data:
        optimizer.zero_grad()
        loss(cycled(x), y).total.backward()
        optimizer.step()
        ema.update(cycled)
        now = state_of(cycled)
        expected = {name: expected[name].lerp(now[name], 0.25) for name in now}
    assert float(expected["cycle_teacher.embedding"].abs().max()) > 0
    assert_same_state(state_of(ema.module), expected)
    ema.module.eval()
    assert isinstance(ema.module(data[0][0]), Tensor)


def test_accelerate(tmp_path: Path) -> None:
    start, data = teacher_cycled(), batches(2)
    reference, loss = copy.deepcopy(start), criterion()
    for x, y in data:
        (loss(reference(x), y).total / 2).backward()
    expected = {name: p.grad for name, p in reference.named_parameters()}

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(start.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(start, optimizer)
    for x, y in data:
        with accelerator.accumulate(model):
            accelerator.backward(loss(model(x), y).total)
            if accelerator.sync_gradients:
                found = {name: p.grad.clone() for name, p in model.named_parameters()}
            optimizer.step()
            optimizer.zero_grad()
    assert_close(found, expected, 1e-6)

    accelerator.save_state(str(tmp_path))
    trained = state_of(start)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.zero_()
    accelerator.load_state(str(tmp_path))
    assert_same_state(state_of(start), trained)
    assert float(trained["cycle_teacher.embedding"].abs().max()) > 0
    assert accelerator.unwrap_model(model).unwrap().state_dict().keys() == Own().state_dict().keys()


def adapted(model: nn.Module) -> Any:
    peft = pytest.importorskip("peft", reason=WHY)
    config = peft.LoraConfig(
        target_modules=["proj"], modules_to_save=["head"], r=2, init_lora_weights=False
    )
    torch.manual_seed(7)
    return peft.get_peft_model(model, config)


def test_peft_inside_and_around() -> None:
    """Both are the adapted plain model, fed by hand."""
    model = OwnWithLoss()
    plain = adapted(copy.deepcopy(model))
    ((x, y),) = batches(1)
    fed = hand_fed(plain, "base_model.model.blocks", 2, (x,), {})
    equation_4(fed, lambda output: cross_entropy(output["logits"], y), weights=[0.5]).backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    loss = CycleDistillLoss(lambda output, y: cross_entropy(output["logits"], y), 0.5)

    inside = CycleWrapper(adapted(copy.deepcopy(model)), num_cycles=2)
    around = adapted(CycleWrapper(copy.deepcopy(model), num_cycles=2))
    for cycled in (inside, around):
        loss(cycled(x), y).total.backward()
        found = {name: p.grad for name, p in cycled.named_parameters() if p.requires_grad}
        assert_close(found, expected, 1e-6)
        cycled.eval()
        assert torch.equal(cycled(x)["logits"], plain.eval()(x)["logits"])


@pytest.mark.parametrize("around", [False, True])
def test_peft_in_the_trainer(around: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason=WHY)
    config = peft.LoraConfig(target_modules="all-linear", modules_to_save=["classifier"], r=2)
    base, data = vit(), images()

    def adapt(model: nn.Module) -> Any:
        torch.manual_seed(7)
        return peft.get_peft_model(model, config)

    plain = trained_gradients(Trainer, adapt(copy.deepcopy(base)), data, tmp_path / "plain", 4)
    one = copy.deepcopy(base)
    one_cycle: Any = adapt(CycleWrapper(one, 1)) if around else CycleWrapper(adapt(one), 1)
    assert_close(trained_gradients(CycleTrainer, one_cycle, data, tmp_path / "one", 4), plain, 1e-6)

    two = copy.deepcopy(base)
    cycled: Any = adapt(CycleWrapper(two, 2)) if around else CycleWrapper(adapt(two), 2)
    trainer = CycleTrainer(
        model=cycled,
        args=arguments(
            tmp_path / "two",
            max_steps=2,
            learning_rate=0.1,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=1,
            save_steps=1,
            load_best_model_at_end=True,
        ),
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    pixels = torch.stack([row["pixel_values"] for row in data])
    ours = cycled.eval()(pixel_values=pixels).logits
    saved = peft.PeftModel.from_pretrained(copy.deepcopy(base), trainer.state.best_model_checkpoint)
    torch.testing.assert_close(saved.eval()(pixel_values=pixels).logits, ours, rtol=0, atol=1e-6)
    assert float((base.eval()(pixels).logits - ours).detach().abs().max()) > 1e-3

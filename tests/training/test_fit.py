"""The loop against one written by hand, and the parts around it."""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import cycledistill.training
from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.training import (
    CycledConfig,
    TrainConfig,
    Trainer,
    WarmupCosine,
    WarmupSteps,
    budget_rows,
    fit,
    read_log,
    training_macs,
)
from cycledistill.training._sampler import GlobalOrder

PLAIN: dict[str, Any] = {
    "dropout": 0.0,
    "cycles": 2,
    "min_cycles": None,
    "teacher_only": True,
    "augment": False,
}


def plain_parts(toy: Any) -> Any:
    return toy.parts(dropout=0.0, cycles=2, min_cycles=None)


def by_hand(toy: Any, config: TrainConfig, schedule: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The same training, without microbatches, processes and the engine."""
    model, criterion = plain_parts(toy)
    data = toy.Points(augment=False)
    parameters = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr)
    order = GlobalOrder(config, len(data))
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(order.total_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule(step)
        chosen = [key.sample for key in order.batch(step)]
        optimizer.zero_grad()
        criterion(model(data.points[chosen]), data.labels[chosen]).total.backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
        if config.clip_grad_norm is not None and norm > config.clip_grad_norm:
            for p in parameters:
                p.grad *= config.clip_grad_norm / (norm + 1e-6)
        optimizer.step()
        for name, p in model.named_parameters():
            average[name] = 0.9 * average[name] + 0.1 * p.detach()
    return model, average


@pytest.mark.parametrize(
    ("accumulate", "clip", "ema"), [(1, None, None), (1, 0.5, 0.9), (3, 0.5, None), (3, None, 0.9)]
)
def test_equals_a_loop_written_by_hand(
    toy: Any, tmp_path: Path, accumulate: int, clip: float | None, ema: float | None
) -> None:
    config = toy.default_config(
        tmp_path, accumulate=accumulate, clip_grad_norm=clip, ema_decay=ema, lr=0.05
    )
    result = toy.train(config, **PLAIN)
    model, average = by_hand(toy, config, WarmupCosine(15, warmup_steps=3, start=0.1))
    expected = dict(model.named_parameters()) if ema is None else average
    for name, parameter in result.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-11)
    assert not result.model.training


@pytest.mark.parametrize("kind", ["torch", "timm", "function", "none"])
def test_kinds_of_schedules(toy: Any, tmp_path: Path, kind: str) -> None:
    model, criterion = plain_parts(toy)
    parameters = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.SGD(
        [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.2, "lr_scale": 0.5}], lr=0.1
    )

    class InUpdates:
        def step_update(self, num_updates: int) -> None:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * 0.5 ** (num_updates // 4)

    schedules = {
        "torch": StepLR(optimizer, step_size=4, gamma=0.5) if kind == "torch" else None,
        "timm": InUpdates(),
        "function": WarmupSteps(milestones=(4, 8), factor=0.5),
        "none": None,
    }
    crash_after = 9
    options: dict[str, Any] = {
        "model": model,
        "criterion": criterion,
        "optimizer": optimizer,
        "train_dataset": toy.Points(32),
        "schedule": schedules[kind],
    }

    def trained() -> list[dict[str, Any]]:
        return [r for r in read_log(tmp_path / "log.jsonl") if r["event"] == "train"]

    def stop(model: Any, criterion: Any, batch: Any) -> Any:
        if crash_after == len(trained()):
            raise InterruptedError
        return toy.forward_loss(model, criterion, batch)

    config = toy.default_config(tmp_path, checkpoint_every_steps=2, ema_decay=None)
    with pytest.raises(InterruptedError):
        fit(config, forward_loss=stop, **options)
    fit(config, forward_loss=toy.forward_loss, **options)
    rates = [record["lr"] for record in trained()]
    drops = [1.0 if kind == "none" else 0.5 ** (step // 4) for step in range(12)]
    assert rates == pytest.approx([0.1 * drop for drop in drops])
    second = optimizer.param_groups[1]["lr"]
    last = {"torch": 0.2 * 0.125, "timm": 0.025, "function": 0.2 * 0.5 * 0.25, "none": 0.1}
    assert second == pytest.approx(last[kind])


def test_schedules_that_would_never_change_the_rates(toy: Any, tmp_path: Path) -> None:
    """timm's own default counts epochs, and ignores the updates that it is told of."""
    scheduler = pytest.importorskip("timm.scheduler")
    model, criterion = plain_parts(toy)
    parameters = [*model.parameters(), *criterion.parameters()]
    optimizer, other = (torch.optim.SGD(parameters, lr=0.1) for _ in range(2))

    def trainer(schedule: Any) -> Trainer:
        return Trainer(
            toy.default_config(tmp_path),
            model=model,
            criterion=criterion,
            optimizer=optimizer,
            train_dataset=toy.Points(32),
            forward_loss=toy.forward_loss,
            schedule=schedule,
        )

    trainer(scheduler.CosineLRScheduler(optimizer, t_initial=12, t_in_epochs=False))
    with pytest.raises(ValueError, match="got one that counts epochs"):
        trainer(scheduler.CosineLRScheduler(optimizer, t_initial=12))
    with pytest.raises(ValueError, match="one of the run's optimizer, got one of another"):
        trainer(StepLR(other, step_size=4))


def test_hooks_progress_and_draws(toy: Any, tmp_path: Path) -> None:
    epochs, draws = [], []

    class Recording(toy.Points):
        def set_epoch(self, epoch: int) -> None:
            draws.append(epoch)
            super().set_epoch(epoch)

    model, criterion = plain_parts(toy)
    progress = []
    criterion.set_progress = progress.append
    config = toy.default_config(tmp_path, epochs=2, batch_size=16, repeated_augmentation=2)
    fit(
        config,
        model=model,
        criterion=criterion,
        optimizer=torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1),
        train_dataset=Recording(32),
        forward_loss=toy.forward_loss,
        before_epoch=[epochs.append],
    )
    assert epochs == [0, 1]
    assert progress == [0.0, 0.25, 0.5, 0.75]
    assert set(draws) == {0, 1, 2, 3}


def test_samples_that_do_not_come_are_counted(toy: Any, tmp_path: Path) -> None:
    """A dataset that delivers fewer samples: the mean is over those that came."""

    def some_missing(items: list[Any]) -> Any:
        return torch.utils.data.default_collate([i for i in items if i["index"] % 5 != 3])

    config = toy.default_config(tmp_path, batch_size=16, accumulate=2, epochs=1, drop_last=True)
    result = toy.train(
        config,
        size=16,
        collate_fn=some_missing,
        optimizer=torch.optim.SGD,
        **{**PLAIN, "augment": False},
        schedule=None,
        evaluate=None,
        best_metric=None,
    )
    assert [r["left_out"] for r in read_log(tmp_path / "log.jsonl")[1:]] == [3]
    model, criterion = plain_parts(toy)
    data = toy.Points(16, augment=False)
    chosen = [index for index in range(16) if index % 5 != 3]
    criterion(model(data.points[chosen]), data.labels[chosen]).total.backward()
    norm = math.sqrt(
        sum(float((p.grad**2).sum()) for p in [*model.parameters(), *criterion.parameters()])
    )
    factor = min(1.0, 1.0 / (norm + 1e-6))
    expected = {n: 0.1 * p.detach() * 9 for n, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        moved = parameter.detach() - config.lr * factor * parameter.grad
        expected[name] = 0.9 * parameter.detach() + 0.1 * moved
    for name, parameter in result.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-12)


def test_writes_what_it_promises(toy: Any, tmp_path: Path, capsys: Any) -> None:
    result = toy.train(
        toy.default_config(tmp_path, trackers=("tensorboard",)), summary={"people": 37}
    )
    output = capsys.readouterr().out
    assert "CycleWrapper(Net)" in output
    assert "195 + 12 teacher-only + 1 in the loss" in output
    assert "3 epochs x 5 steps x 8 samples = 15 steps on 37 samples" in output
    assert "people      37" in output
    assert "epoch 2/3 step 8/15 | loss" in output and "samples/s" in output and "MiB" in output
    assert "\x1b[" not in output  # no colours, no live bar when not in a terminal
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    records = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in records if r["event"] == "train"] == list(range(1, 16))
    assert {"lr", "loss", "task/1", "grad_norm", "samples_per_second"} <= records[1].keys()
    assert records[0]["event"] == "start" and records[0]["torch"] == torch.__version__
    assert records[0]["summary"]["people"] == "37" and "budget" in records[0]["summary"]
    assert result.steps == 15 and result.output_dir == tmp_path
    assert not [path for path in tmp_path.rglob(".*")]


def test_dtype_and_autocast(toy: Any, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        out = model(batch["points"])
        seen["train"] = out.predictions[0].dtype
        return criterion(out, batch["label"]), len(batch["label"])

    def evaluate(model: Any) -> dict[str, float]:
        model.blocks[0].register_forward_hook(lambda m, a, o: seen.update(inside=o.dtype))
        cycles = model.forward_cycles(torch.randn(2, 4, toy.WIDTH), num_cycles=2).predictions
        seen["cycles inside"], seen["cycles"] = seen.pop("inside"), cycles[1].dtype
        logits = model(torch.randn(2, 4, toy.WIDTH))
        seen["eval"], seen["outside"] = logits.dtype, (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        return {"accuracy/1": 0.0}

    config = toy.default_config(tmp_path, epochs=1, mixed_precision="bf16")
    result = toy.train(config, dtype=torch.float32, forward_loss=forward_loss, evaluate=evaluate)
    assert seen == {
        "train": torch.bfloat16,
        "inside": torch.bfloat16,
        "cycles inside": torch.bfloat16,
        "cycles": torch.float32,
        "eval": torch.float32,
        "outside": torch.float32,
    }
    assert not {"forward", "forward_cycles"} & result.model.__dict__.keys()


def test_compile(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graph capture and its guards, without the code generation that takes minutes."""
    compiled = []

    def compile_quickly(self: nn.Module, **options: Any) -> None:
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    config = toy.default_config(tmp_path, compile=True, epochs=2, ema_decay=None, batch_size=16)
    result = toy.train(config, size=32, **{**PLAIN, "min_cycles": None})
    plain = toy.train(
        toy.default_config(tmp_path / "plain", epochs=2, ema_decay=None, batch_size=16),
        size=32,
        **PLAIN,
    )
    for one, two in zip(result.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
    assert len(compiled) == 1


def test_deterministic_mode_is_put_back(toy: Any, tmp_path: Path) -> None:
    during = []

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        during.append(torch.are_deterministic_algorithms_enabled())
        return toy.forward_loss(model, criterion, batch)

    config = toy.default_config(tmp_path, epochs=1, deterministic=True)
    toy.train(config, forward_loss=forward_loss)
    assert all(during) and not torch.are_deterministic_algorithms_enabled()


def test_learns(tmp_path: Path, toy: Any) -> None:
    config = toy.default_config(tmp_path, epochs=100, batch_size=32, log_every=1000, ema_decay=None)
    result = toy.train(config, size=64, augment=False)
    records = [r for r in read_log(tmp_path / "log.jsonl") if r["event"] == "train"]
    assert records[-1]["task/1"] < 0.5 * records[0]["task/1"]
    assert result.best is not None and result.best.value > 0.8


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find, lacking = importlib.util.find_spec, ("accelerate", "tyro")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in lacking else find(name, *a)
    )
    text = r'training needs accelerate, tyro: pip install "cycledistill\[train\]"'
    with pytest.raises(ImportError, match=text):
        importlib.reload(cycledistill.training)


def test_runs_without_wrapper_evaluation_and_schedule(tmp_path: Path) -> None:
    """Any module with any loss that has total and scalars()."""

    class Loss(nn.Module):
        def forward(self, out: torch.Tensor, target: torch.Tensor) -> Any:
            value = (out - target).square().mean()

            class Result:
                total = value

                def scalars(self) -> dict[str, float]:
                    return {"loss": value.item()}

            return Result()

    model = nn.Linear(3, 1)
    result = fit(
        TrainConfig(tmp_path, epochs=1, batch_size=4, num_workers=0, device="cpu"),
        model=model,
        criterion=Loss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_dataset=torch.randn(8, 4),
        forward_loss=lambda m, c, batch: (c(m(batch[:, :3]), batch[:, 3:]), len(batch)),
    )
    assert result.model is model and result.best is None and result.metrics == {}


def test_wrapper_unwraps_after_training(toy: Any, tmp_path: Path) -> None:
    net = toy.Net(0.0)
    model = CycleWrapper(net)
    criterion = CycleDistillLoss(nn.CrossEntropyLoss())
    result = fit(
        toy.default_config(tmp_path, epochs=1, ema_decay=None),
        model=model,
        criterion=criterion,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_dataset=toy.Points(dtype=torch.float32),
        forward_loss=toy.forward_loss,
    )
    assert result.model.unwrap() is net
    assert all(type(module).__module__ != "cycledistill.training" for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_gpu(toy: Any, tmp_path: Path, precision: str) -> None:
    """Trains on the GPU in each precision, and a resumed run ends where the whole one does."""
    options: dict[str, Any] = {
        "device": "cuda",
        "mixed_precision": precision,
        "deterministic": True,
        "num_workers": 2,
    }

    def evaluate(model: Any) -> dict[str, float]:
        assert next(model.parameters()).is_cuda
        logits = model(torch.randn(2, 4, toy.WIDTH, device="cuda"))
        assert logits.dtype == torch.float32
        return {"accuracy/1": float(logits.isfinite().all())}

    def stop(epoch: int) -> None:
        if epoch == 2:
            raise InterruptedError

    arguments: dict[str, Any] = {"dtype": torch.float32, "evaluate": evaluate}
    whole = toy.train(toy.default_config(tmp_path / "whole", **options), **arguments)
    with pytest.raises(InterruptedError):
        toy.train(
            toy.default_config(tmp_path / "parts", **options), before_epoch=[stop], **arguments
        )
    parts = toy.train(toy.default_config(tmp_path / "parts", **options), **arguments)
    assert toy.losses(tmp_path / "parts") == toy.losses(tmp_path / "whole")
    for one, two in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert one.is_cuda and one.equal(two)


def test_the_budget_in_macs_is_what_the_run_computes():
    """Counted by hand for two linear blocks of 8 channels on 5 tokens, three cycles, no head."""
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2)]
    cycled = CycleWrapper(nn.Sequential(*blocks), num_cycles=3)
    tokens = torch.zeros(1, 5, 8)
    forward = 3 * 2 * 5 * 8 * 8
    for drop_last, samples in ((True, 8), (False, 10)):
        config = TrainConfig(epochs=7, batch_size=4, drop_last=drop_last)
        macs = training_macs(config, cycled, tokens, num_samples=10)
        assert macs == 3 * forward * 7 * samples
    rows = budget_rows(config, cycled, tokens, num_samples=10)
    assert rows == {
        "MACs": "640 a sample in use (640 with attention products), 1.92 k in a forward pass of "
        "training with 3 cycles",
        "training": "about 403 k MACs, forward and backward",
    }
    config = CycledConfig(mode="cycle", num_cycles=3, epochs=7, batch_size=4)
    assert budget_rows(config, cycled, tokens, num_samples=10)["MACs"].startswith("1.92 k a sample")


def test_a_damaged_log_is_cut_at_the_damage_when_the_run_goes_on(toy: Any, tmp_path: Path) -> None:
    toy.train(toy.default_config(tmp_path / "run", epochs=1))
    log = tmp_path / "run" / "log.jsonl"
    lines = log.read_text().splitlines()
    damaged = [*lines[:3], lines[3][:9] + "\x00" * 5, *lines[4:]]
    log.write_text("\n".join(damaged) + "\n")
    with pytest.raises(ValueError, match="line 4: no log record"):
        read_log(log)
    longer = toy.default_config(tmp_path / "run", allow_changes=True)
    with pytest.warns(UserWarning, match="line 4: no log record.* is cut off"):
        toy.train(longer)
    steps = [record["step"] for record in read_log(log) if record["event"] == "train"]
    assert steps == [1, 2, *range(6, 16)]


def test_trackers_write_into_the_run_folder(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def note(self: Any, name: str, config: Any = None, init_kwargs: Any = None) -> None:
        asked.update(name=name, init_kwargs=init_kwargs)

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", note)
    toy.train(toy.default_config(tmp_path, epochs=1))
    assert asked == {"name": tmp_path.name, "init_kwargs": {"wandb": {"dir": str(tmp_path)}}}

"""What is refused before the first step, and non-finite numbers on the way."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.training import (
    NonFiniteLossError,
    TrainingError,
    _output_dir,
    _trainer,
    fit,
    read_log,
    replay,
)
from cycledistill.training import _guards as guards
from cycledistill.training._accelerator import check_launcher_and_device
from cycledistill.training._sampler import GlobalOrder
from cycledistill.training._trainer import SKIPS_IN_A_ROW


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm must be above 0 or None, got -1.0"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1 or None, got 1.0"),
        ({"accumulate": 9}, "accumulate=9 is more than batch_size=8"),
        ({"batch_size": 38, "drop_last": True}, "batch_size=38 is more than the 37 samples"),
        ({"mixed_precision": "fp16"}, "mixed_precision=fp16 needs a CUDA GPU"),
        ({"trackers": ("wandb",)}, "trackers has 'wandb', which is not installed: pip install"),
    ],
)
def test_options_out_of_range(
    toy: Any, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: Any
) -> None:
    found = guards.importlib.util.find_spec
    monkeypatch.setattr(
        guards.importlib.util, "find_spec", lambda n, *a: None if n == "wandb" else found(n, *a)
    )
    with pytest.raises(ValueError, match=message):
        toy.train(toy.default_config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_missing_gpu(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device=cuda was asked for, but PyTorch"):
        toy.train(toy.default_config(tmp_path, device="cuda"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    with pytest.raises(ValueError, match=r"sees no GPU \(CUDA_VISIBLE_DEVICES='7'"):
        toy.train(toy.default_config(tmp_path, device="cuda"))
    with pytest.raises(ValueError, match="device=mps was asked for"):
        toy.train(toy.default_config(tmp_path, device="mps"))


def test_gpus_that_do_not_fit(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretended GPU: more processes than GPUs, and an old one."""
    config = toy.default_config(tmp_path, device="cuda", mixed_precision="bf16")
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "get_device_name", lambda i: "Old GPU")
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU: PyTorch sees 2"):
        check_launcher_and_device(config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"GPU 1 \(Old GPU\) has no bf16; use mixed_prec"):
        check_launcher_and_device(config)


def test_launcher_and_options_disagree(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.default_config(tmp_path)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="was told mixed_precision=bf16, the run has no"):
        toy.train(config)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed and Megatron are not supported"):
        toy.train(config)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ValueError, match="unset it, and give the script --accumulate 4"):
        toy.train(config)
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="asked for FSDP version 1; only version 2"):
        toy.train(config)


def test_optimizer_of_other_parameters(toy: Any, tmp_path: Path) -> None:
    def train(parameters: Any) -> None:
        model, criterion = toy.parts()
        fit(
            toy.default_config(tmp_path),
            model=model,
            criterion=criterion,
            optimizer=torch.optim.SGD(parameters(model, criterion), lr=0.1),
            train_dataset=toy.Points(),
            forward_loss=toy.forward_loss,
        )

    with pytest.raises(ValueError, match=r"expected one whose step needs no closure, got LBFGS"):
        toy.train(toy.default_config(tmp_path), optimizer=torch.optim.LBFGS)
    with pytest.raises(ValueError, match=r"lacks 1 trainable.*criterion\.task_loss\.log_scale"):
        train(lambda model, criterion: model.parameters())
    with pytest.raises(ValueError, match=r"lacks 1 trainable parameters: model\.position"):
        train(lambda m, c: [*list(m.parameters())[1:], *c.parameters()])
    with pytest.raises(ValueError, match="holds 2 parameters that belong neither"):
        train(lambda m, c: [*m.parameters(), *c.parameters(), *nn.Linear(1, 1).parameters()])


def test_datasets_and_folders(toy: Any, tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            yield from range(3)

    model, criterion = toy.parts()
    with pytest.raises(TypeError, match=r"with a length and indices.*got Stream"):
        fit(
            toy.default_config(tmp_path),
            model=model,
            criterion=criterion,
            optimizer=torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1),
            train_dataset=Stream(),
            forward_loss=toy.forward_loss,
        )
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match=r"output_dir .*file/run cannot be written: Not a dir"):
        toy.train(toy.default_config(blocked / "run"))


def test_processes_that_see_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_output_dir, "gather_over_processes", lambda items: [*items, True])
    with pytest.raises(ValueError, match="is not the same folder for all processes: 1 of them"):
        _output_dir.check_output_dir(tmp_path)
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_model(toy: Any, tmp_path: Path) -> None:
    toy.train(toy.default_config(tmp_path, epochs=1))
    with pytest.raises(
        ValueError, match=r"another model.*embedding has shape \(2, 6\), the model's has \(3, 6\)"
    ):
        toy.train(toy.default_config(tmp_path, epochs=1), cycles=4)
    with pytest.raises(ValueError, match=r"unknown: model\.cycle_teacher\.embedding"):
        toy.train(toy.default_config(tmp_path, epochs=1), teacher_only=False)
    with pytest.raises(ValueError, match=r"another optimiser: its parameter groups hold \[15\]"):
        toy.train(
            toy.default_config(tmp_path, epochs=1),
            optimizer=lambda p, lr: torch.optim.SGD([{"params": p[:3]}, {"params": p[3:]}], lr=lr),
        )


def test_metric_that_is_not_there(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluate: expected .* names to numbers, got NoneType"):
        toy.train(toy.default_config(tmp_path / "none"), evaluate=lambda _: None)
    with pytest.raises(ValueError, match=r"best_metric='AP' is not among.*accuracy/1, accuracy/2"):
        toy.train(toy.default_config(tmp_path), best_metric="AP")


def poisoned(toy: Any, *indices: int) -> Any:
    data = toy.Points(augment=False)
    data.points[list(indices)] = math.nan
    return data


def test_nonfinite_loss_stops(toy: Any, tmp_path: Path) -> None:
    config = toy.default_config(tmp_path, accumulate=2)
    with pytest.raises(NonFiniteLossError) as caught:
        toy.train(config, dataset=poisoned(toy, 5), cycles=2, min_cycles=None)
    text = str(caught.value)
    step = next(
        number
        for number in range(5)
        if any(key.sample == 5 for key in GlobalOrder(config, 37).batch(number))
    )
    assert f"non-finite loss in step {step + 1} (epoch 1)" in text
    assert "task of cycle 1 is nan; task of cycle 2 is nan; tokens/all of cycle 1 is nan" in text
    assert "; training samples 5." in text
    assert "--on-nonfinite skip" in text
    (file,) = (tmp_path / "nonfinite").iterdir()
    assert str(file) in text
    content = torch.load(file, weights_only=True)
    assert 5 in content["indices"] and 5 in content["batch"]["index"]
    model, criterion = toy.parts(seed=99, cycles=2, min_cycles=None)
    again = replay(file, model, criterion, toy.forward_loss)
    assert math.isnan(again.scalars()["task/2"])


def test_replay_repeats_the_computation(toy: Any, tmp_path: Path) -> None:
    """Same batch, weights and random numbers: dropout and the drawn number of cycles too."""
    seen = []

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        losses, count = toy.forward_loss(model, criterion, batch)
        if count > 1:
            seen.append(losses.task.tolist())
        if 5 in batch["index"].tolist():
            losses = losses._replace(total=losses.total * math.nan)
        return losses, count

    with pytest.raises(NonFiniteLossError, match="loss is nan; training samples 5"):
        toy.train(toy.default_config(tmp_path), forward_loss=forward_loss)
    (file,) = (tmp_path / "nonfinite").iterdir()
    model, criterion = toy.parts(seed=99)
    assert replay(file, model, criterion, forward_loss).task.tolist() == seen[-2] == seen[-1]


def test_nonfinite_steps_are_left_out_and_counted(toy: Any, tmp_path: Path, capsys: Any) -> None:
    config = toy.default_config(tmp_path, on_nonfinite="skip")
    result = toy.train(config, dataset=poisoned(toy, 5))
    assert result.skipped == 3  # once an epoch
    assert all(bool(p.isfinite().all()) for p in result.model.parameters())
    output = capsys.readouterr().out
    assert "left out (3 so far): non-finite loss in step" in output
    assert "3 steps skipped" in output
    records = read_log(tmp_path / "log.jsonl")
    assert sum(record["event"] == "incident" for record in records) == 3
    assert records[-1]["step"] == 15 and math.isfinite(records[-1]["loss"])
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN, which is no JSON
    assert [r["skipped"] for r in records if r["event"] == "train" and "skipped" in r][-1] == 3


def test_nothing_but_nonfinite_steps(toy: Any, tmp_path: Path) -> None:
    epochs = SKIPS_IN_A_ROW // 5 + 1
    config = toy.default_config(tmp_path, on_nonfinite="skip", epochs=epochs)
    with pytest.raises(TrainingError, match="100 steps in a row left out: non-finite loss"):
        toy.train(config, dataset=poisoned(toy, *range(37)), evaluate=None, best_metric=None)
    assert len(list((tmp_path / "nonfinite").iterdir())) == 3


class Explosive(torch.autograd.Function):
    """Passes its input on, but not its gradient."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def test_nonfinite_gradient_of_a_finite_loss(toy: Any, tmp_path: Path) -> None:
    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        out = model(Explosive.apply(model.embed(batch["points"]) * 0) + batch["points"])
        return criterion(out, batch["label"]), len(batch["label"])

    with pytest.raises(NonFiniteLossError, match=r"non-finite gradient in step 1 .*model\.embed"):
        toy.train(toy.default_config(tmp_path), forward_loss=forward_loss)
    assert list((tmp_path / "nonfinite").iterdir())


def test_nonfinite_gradient_at_any_scale_of_the_loss(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fp16, on a pretended GPU: a step is left out in silence only to lower the scale."""
    made = _trainer.make_accelerator

    def in_fp16(config: Any) -> Any:
        accelerator = made(dataclasses.replace(config, mixed_precision="no"))
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    monkeypatch.setattr(_trainer, "make_accelerator", in_fp16)
    monkeypatch.setattr(_trainer, "check_launcher_and_device", lambda config: config)

    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        out = model(Explosive.apply(model.embed(batch["points"]) * 0) + batch["points"])
        return criterion(out, batch["label"]), len(batch["label"])

    config = toy.default_config(tmp_path, mixed_precision="fp16", epochs=5, drop_last=True)
    with pytest.raises(NonFiniteLossError, match=r"gradient in step 17 .*model\.embed"):
        toy.train(config, forward_loss=forward_loss, evaluate=None, best_metric=None)


def test_nonfinite_weights_blame_no_sample(toy: Any, tmp_path: Path) -> None:
    net = toy.Net(0.0)
    nn.init.constant_(net.head.bias, math.nan)
    model = CycleWrapper(net)
    with pytest.raises(NonFiniteLossError, match=r"training samples (\d+, ){7}\d+\. Batch"):
        fit(
            toy.default_config(tmp_path),
            model=model,
            criterion=CycleDistillLoss(nn.CrossEntropyLoss()),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            train_dataset=toy.Points(dtype=torch.float32),
            forward_loss=toy.forward_loss,
        )


def test_two_processes_stop_together(runner: Any, tmp_path: Path) -> None:
    """One process has the bad sample; both end, with one explanation."""
    codes, output = runner(tmp_path, "--poison", 5, ranks=2)
    assert codes == [1, 1], output
    assert "error: non-finite loss in step" in output
    assert "training samples 5" in output

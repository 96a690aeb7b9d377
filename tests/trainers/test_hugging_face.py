"""CycleTrainer against Trainer with the plain model, and against losses written out here."""

from __future__ import annotations

import copy
import multiprocessing
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import (
    GPT2LMHeadModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    ViTForImageClassification,
)

from cycledistill import CycleDistillLoss, CycleWrapper
from cycledistill.trainers import CycleTrainer
from tests.core.reference import hand_fed
from tests.trainers.runs import (
    Own,
    OwnWithLoss,
    arguments,
    assert_close,
    gpt,
    images,
    one_of_two,
    text_run,
    texts,
    trained_gradients,
    vectors,
    vit,
)


def sum_over_items(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    logits = output if isinstance(output, Tensor) else output.logits
    return cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("kind", ["text", "mean", "compute_loss_func", "label smoothing"])
def test_one_cycle_has_the_plain_gradient(kind: str, parts: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if kind == "text":  # its loss is divided by the words of all parts
        model, data = gpt(), texts()
    elif kind == "mean":  # its loss knows the words of its own part alone
        model, data = OwnWithLoss(), vectors()
    elif kind == "compute_loss_func":
        model, data = vit(), images()
        options["compute_loss_func"] = sum_over_items
    else:
        model, data = gpt(), texts()
    args = {"label_smoothing_factor": 0.2} if kind == "label smoothing" else {}
    plain = trained_gradients(Trainer, copy.deepcopy(model), data, tmp_path, parts, args, **options)
    cycled = CycleWrapper(model, num_cycles=1)
    found = trained_gradients(CycleTrainer, cycled, data, tmp_path, parts, args, **options)
    assert_close(found, plain, 1e-6)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("text", [True, False])
def test_two_cycles_have_the_gradient_of_equation_4(text: bool, parts: int, tmp_path: Path) -> None:
    """Distances between cycles are averaged over the parts, however the task loss is."""
    model: Any = gpt() if text else OwnWithLoss()
    data = texts() if text else vectors()
    reference = copy.deepcopy(model)
    found = trained_gradients(
        CycleTrainer,
        CycleWrapper(model, num_cycles=2),
        data,
        tmp_path,
        parts,
        criterion=partial(CycleDistillLoss, token_weight=3.0),
    )
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in data]) for key in data[0]}
    words = int((batch["labels"][:, 1:] != -100).sum()) if text else 0
    for part in range(parts):
        rows = slice(part * 16 // parts, (part + 1) * 16 // parts)
        inputs = {key: batch[key][rows] for key in batch if key not in ("labels", "name")}
        path = "transformer.h" if text else "blocks"
        fed = hand_fed(reference, path, 2, (), inputs)
        loss = 3.0 * mse_loss(fed.tokens[0], fed.tokens[1].detach()) / parts
        for prediction in fed.predictions:
            labels = batch["labels"][rows]
            if text:
                logits = prediction.logits[:, :-1].flatten(0, 1)
                loss = (
                    loss + cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / words
                )
            else:
                loss = loss + cross_entropy(prediction["logits"], labels) / parts
        loss.backward()
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    assert_close(found, expected, 1e-6)


def test_the_defaults_hold(tmp_path: Path) -> None:
    """Columns, labels and losses are those of the plain model, without any setting."""
    seen: list[dict[str, Any]] = []

    class Spy(CycleTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(inputs)
            return super().compute_loss(model, inputs, *args, **kwargs)

    data = images(8)
    plain = vit()
    trainer = Spy(
        model=CycleWrapper(plain, num_cycles=2),
        args=arguments(tmp_path, label_names=None),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda found: {
            "right": float((found.predictions.argmax(1) == found.label_ids).mean())
        },
    )
    assert trainer.label_names == ["labels"]
    trainer.train()
    assert [sorted(inputs) for inputs in seen] == [["labels", "pixel_values"]]
    metrics = trainer.evaluate()
    plain.eval()
    with torch.no_grad():
        pixels = torch.stack([row["pixel_values"] for row in data])
        labels = torch.tensor([row["labels"] for row in data])
        logits = plain(pixels).logits
    assert metrics["eval_loss"] == pytest.approx(float(cross_entropy(logits, labels)), abs=1e-6)
    assert metrics["eval_right"] == float((logits.argmax(1) == labels).float().mean())


def test_a_model_without_labels(tmp_path: Path) -> None:
    """As with the plain model, it needs its label_names and a compute_loss_func."""
    found: list[type] = []

    def loss(output: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        found.append(type(output))
        return cross_entropy(output, labels)

    trainer = CycleTrainer(
        model=CycleWrapper(Own(), num_cycles=3),
        args=arguments(tmp_path, label_names=["labels"]),
        train_dataset=vectors(),
        eval_dataset=vectors(),
        compute_loss_func=loss,
    )
    before = trainer.evaluate()["eval_loss"]
    assert found.count(Tensor) == len(found) == 2
    trainer.train()
    assert found.count(Tensor) == len(found) == 5  # and one for each cycle
    assert trainer.evaluate()["eval_loss"] != before


def teacher_of(cycled: CycleWrapper) -> Tensor:
    return cycled.teacher_state_dict()["embedding"]


class GoBad(TrainerCallback):
    """Spoil the weights after the first evaluation, so that the first is the best."""

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 1:
            self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    cycled = CycleWrapper(vit(), num_cycles=2, cycle_embedding=True)
    teacher_of(cycled).normal_()
    callback = GoBad()
    trainer = CycleTrainer(
        model=cycled,
        args=arguments(
            tmp_path,
            max_steps=3,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=1,
            save_steps=1,
            load_best_model_at_end=True,
        ),
        train_dataset=images(),
        eval_dataset=images(8),
        callbacks=[callback],
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best == str(tmp_path / "checkpoint-1")
    saved = ViTForImageClassification.from_pretrained(best).state_dict()
    ours = cycled.state_dict()
    assert ours.keys() == {*saved, "cycle_teacher.embedding"}
    # A checkpoint is written after the evaluation's callbacks.
    for name, tensor in saved.items():
        assert torch.equal(ours[name], tensor)
    assert not torch.equal(
        ours["cycle_teacher.embedding"], callback.best["cycle_teacher.embedding"]
    )


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path: Path) -> None:
    data = images()

    def run(folder: Path, steps: int, resume: bool = False) -> CycleWrapper:
        torch.manual_seed(1)
        cycled = CycleWrapper(vit(), num_cycles=2, cycle_embedding=True, adapter_rank=2)
        args = arguments(
            folder,
            max_steps=4,
            save_strategy="steps",
            save_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
        )
        stop = StopAt(steps)
        CycleTrainer(model=cycled, args=args, train_dataset=data, callbacks=[stop]).train(
            resume_from_checkpoint=resume
        )
        return cycled

    whole = run(tmp_path / "whole", 4).state_dict()
    half = run(tmp_path / "parts", 2).state_dict()
    resumed = run(tmp_path / "parts", 4, resume=True).state_dict()
    assert float(whole["cycle_teacher.embedding"].abs().max()) > 0
    assert not torch.equal(half["cycle_teacher.embedding"], whole["cycle_teacher.embedding"])
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.parametrize("head", [nn.Sequential(nn.Dropout(), nn.Linear(16, 3)), nn.Linear(16, 5)])
def test_a_head_of_ones_own_is_resumed_and_the_best(head: nn.Module, tmp_path: Path) -> None:
    """``from_pretrained`` does not know it, and ``Trainer`` not the names of the rest."""

    def run(resume: bool) -> Any:
        model = vit()
        model.classifier = copy.deepcopy(head)
        args = arguments(
            tmp_path,
            max_steps=2,
            save_steps=1,
            eval_steps=1,
            save_strategy="steps",
            eval_strategy="steps",
            load_best_model_at_end=True,
            learning_rate=1e-2,
        )
        data = images()
        trainer = CycleTrainer(
            model=CycleWrapper(model, 2, gate=True),
            args=args,
            train_dataset=data,
            eval_dataset=data,
            compute_loss_func=lambda out, labels, **_: cross_entropy(out.logits, labels),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    trained, resumed = run(resume=False).state_dict(), run(resume=True).state_dict()
    for name, tensor in trained.items():
        assert torch.equal(resumed[name], tensor), name


class StopAt(TrainerCallback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.steps


@pytest.mark.parametrize("options", [{}, {"cycle_embedding": True}])
def test_the_folder_is_the_plain_models(options: dict[str, Any], tmp_path: Path) -> None:
    """With tied weights, which are saved once."""
    trainer = CycleTrainer(
        model=CycleWrapper(gpt(), num_cycles=2, **options),
        args=arguments(tmp_path, save_strategy="steps", save_steps=1),
        train_dataset=texts(),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert isinstance(trainer.model, CycleWrapper)
    plain = trainer.model.eval().plain
    words = torch.randint(40, (2, 8))
    for folder in ("checkpoint-1", "final"):
        loaded, report = GPT2LMHeadModel.from_pretrained(
            tmp_path / folder, output_loading_info=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert loaded.lm_head.weight is loaded.transformer.wte.weight
        assert torch.equal(loaded.eval()(words).logits, plain(words).logits)
        beside = (tmp_path / folder / "cycle_teacher.safetensors").is_file()
        assert beside == bool(options)
        assert not list((tmp_path / folder).glob("*.new"))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool, tmp_path: Path) -> None:
    """Of the model's own; a reentrant one is right or, where it goes around the hooks, refused."""
    model, data = gpt(), texts()
    kept = CycleWrapper(copy.deepcopy(model), num_cycles=2)
    expected = trained_gradients(CycleTrainer, kept, data, tmp_path)
    changed = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }
    cycled = CycleWrapper(model, num_cycles=2)
    try:
        found = trained_gradients(CycleTrainer, cycled, data, tmp_path, 1, changed)
    except RuntimeError as error:
        assert reentrant and "use_reentrant=False" in str(error)
        return
    assert model.transformer.gradient_checkpointing
    assert_close(found, expected, 1e-6)


def test_weights_follow_the_steps(tmp_path: Path) -> None:
    asked: list[float] = []

    def weight(progress: float) -> float:
        asked.append(progress)
        return progress

    CycleTrainer(
        model=CycleWrapper(OwnWithLoss()),
        args=arguments(tmp_path, max_steps=4),
        train_dataset=vectors(),
        criterion=partial(CycleDistillLoss, token_weight=weight),
    ).train()
    assert asked == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """Of task losses that are divided by the words of all processes, and distances that are not."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    text_run(str(tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(["tests.trainers.runs"])
    torch.multiprocessing.start_processes(
        one_of_two, args=(str(tmp_path / "two"), port), nprocs=2, start_method="forkserver"
    )
    one, two = (torch.load(tmp_path / name / "gradients.pt") for name in ("one", "two"))
    two = {name.removeprefix("module."): gradient for name, gradient in two.items()}
    assert float(one["cycle_teacher.embedding"].abs().max()) > 1e-6
    assert_close(two, one, 1e-6)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1] >= {"model.safetensors", "cycle_teacher.safetensors"}


def test_a_model_made_by_the_trainer(tmp_path: Path) -> None:
    trainer = CycleTrainer(
        model_init=lambda: CycleWrapper(vit(), num_cycles=2),
        args=arguments(tmp_path),
        train_dataset=images(),
        eval_dataset=images(),
    )
    trainer.train()
    assert "eval_loss" in trainer.evaluate()


def test_another_subclass_of_trainer_mixes_in(tmp_path: Path) -> None:
    """Generation is the plain model's, and so is the folder."""

    class Mixed(CycleTrainer, Seq2SeqTrainer):
        pass

    config = T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_heads=2,
        num_layers=2,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    model = T5ForConditionalGeneration(config).train()
    data = [
        {"input_ids": torch.randint(1, 40, (8,)), "labels": torch.randint(1, 40, (5,))}
        for _ in range(8)
    ]
    args = Seq2SeqTrainingArguments(
        str(tmp_path),
        max_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        predict_with_generate=True,
        generation_max_length=8,
    )
    trainer = Mixed(
        model=CycleWrapper(model, num_cycles=2, blocks="encoder.block"),
        args=args,
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    found = torch.as_tensor(trainer.predict(data).predictions)
    words = torch.stack([row["input_ids"] for row in data])
    expected = model.eval().generate(words, max_length=8)
    assert torch.equal(found[:, : expected.shape[1]], expected)
    trainer.save_model(str(tmp_path))
    saved = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(saved.generate(words, max_length=8), expected)


def test_label_smoothing_in_evaluation(tmp_path: Path) -> None:
    """A causal language model is known by its name, which shifts its labels."""
    model, data = gpt().eval(), texts()
    args = arguments(tmp_path, label_smoothing_factor=0.1, per_device_eval_batch_size=16)
    plain = Trainer(model=model, args=args, eval_dataset=data).evaluate()["eval_loss"]
    cycled = CycleTrainer(model=CycleWrapper(model), args=args, eval_dataset=data)
    assert cycled.evaluate()["eval_loss"] == plain


def test_what_is_refused(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    with pytest.raises(TypeError, match=r"expected CycleWrapper\(...\).*got GPT2LMHeadModel"):
        CycleTrainer(model=gpt(), args=args)
    criterion = CycleDistillLoss(nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match=r"partial.*got a CycleDistillLoss"):
        CycleTrainer(model=CycleWrapper(gpt()), args=args, criterion=criterion)
    several = copy.copy(args)
    several._n_gpu = 2
    with pytest.raises(ValueError, match="one process with 2 GPUs: start it with torchrun"):
        CycleTrainer(model=CycleWrapper(gpt()), args=several)
    saved = CycleTrainer(model=CycleWrapper(gpt()), args=args, train_dataset=texts())
    saved.save_model(str(tmp_path / "saved"))
    other = CycleTrainer(
        model=CycleWrapper(gpt(), cycle_embedding=True), args=args, train_dataset=texts()
    )
    with pytest.raises(ValueError, match=r"expected .*\['embedding'\], got \[\]"):
        other.train(resume_from_checkpoint=str(tmp_path / "saved"))

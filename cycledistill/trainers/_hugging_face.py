"""CycleTrainer: the Trainer of Hugging Face transformers for a CycleWrapper."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.utils.generic import can_return_loss, find_labels

from cycledistill._facade import TEACHER
from cycledistill._loss import CycleDistillLoss
from cycledistill._output import CycleOutput
from cycledistill._wrapper import CycleWrapper
from cycledistill.saving._files import replacing_file

_TEACHER_FILE = "cycle_teacher.safetensors"


class CycleTrainer(Trainer):
    """``transformers.Trainer`` that trains a `CycleWrapper` and saves the plain model.

    ::

        model = AutoModelForImageClassification.from_pretrained(...)
        trainer = CycleTrainer(
            model=CycleWrapper(model, num_cycles=2),
            args=TrainingArguments(...),
            train_dataset=...,
            criterion=partial(CycleDistillLoss, token_weight=1e-3),
        )
        trainer.train()
        trainer.save_model("folder")  # AutoModelForImageClassification.from_pretrained("folder")

    The task loss of each cycle is what ``Trainer`` takes as the loss of the plain model: the
    model's own, that of ``compute_loss_func`` (called with one cycle's prediction), or that with
    label smoothing. Gradient accumulation is the plain model's, too: the task loss is divided by
    the items of the whole batch where the plain model's is, and the distances between cycles,
    which are means over a part of the batch, are averaged over the parts. Evaluation is one plain
    pass. Checkpoints hold the plain model, and teacher-only parameters in
    ``cycle_teacher.safetensors`` beside it.

    Args:
        *args: Arguments of ``Trainer``. The model is a `CycleWrapper`, or a PEFT model around one.
        criterion: What makes the loss from the task loss: `CycleDistillLoss`, with
            ``functools.partial`` for its options. Weights that follow a schedule follow the
            steps of the run.
        **kwargs: Keyword arguments of ``Trainer``.

    Raises:
        TypeError: The model has no `CycleWrapper`, or ``criterion`` is a loss already.
        ValueError: Several GPUs are used by one process, or a checkpoint's teacher-only
            parameters are not the wrapper's.
    """

    def __init__(
        self,
        *args: Any,
        criterion: Callable[..., CycleDistillLoss] = CycleDistillLoss,
        **kwargs: Any,
    ) -> None:
        if isinstance(criterion, CycleDistillLoss):
            raise TypeError(
                "criterion: expected what makes a CycleDistillLoss from the task loss, such as "
                "partial(CycleDistillLoss, token_weight=1e-3), got a CycleDistillLoss. The task "
                "loss is the model's own, or compute_loss_func"
            )
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"CycleTrainer needs a process for each GPU, got one process with {self.args.n_gpu}"
                " GPUs: start it with torchrun, or choose a GPU with CUDA_VISIBLE_DEVICES"
            )
        self.criterion = criterion(_next_loss)
        # Trainer has looked at the class of the wrapper, and at no PEFT model within it.
        inner: Any = self._innermost
        this: Any = self
        if self.args.label_names is None:
            this.label_names = find_labels(type(inner))
        this.can_return_loss = can_return_loss(type(inner))
        if inner is not self._cycled.plain:
            parameters = inspect.signature(inner.forward).parameters
            this._signature_columns = [*parameters, "label", "label_ids", *self.label_names]
            this.model_accepts_loss_kwargs = getattr(
                inner,
                "accepts_loss_kwargs",
                any(p.kind is p.VAR_KEYWORD for p in parameters.values()),
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Loss of a batch: of all cycles in training, the plain model's in evaluation."""
        progress = min(1.0, self.state.global_step / max(1, self.state.max_steps))
        self._cycled.set_progress(progress)
        one = _OneByOne(model, self._innermost._get_name())
        loss, outputs = super().compute_loss(one, dict(inputs), True, num_items_in_batch)
        if isinstance(one.output, CycleOutput):
            outputs = one.output
            losses = [loss]
            for _ in outputs.predictions[1:]:
                losses.append(
                    super().compute_loss(one, dict(inputs), num_items_in_batch=num_items_in_batch)
                )
            # Where the task loss is divided by the items of the whole batch, Trainer does not
            # divide by the number of its parts, which the distances between cycles need.
            whole = getattr(self, "loss_is_scaled_for_ga", None)
            if whole is None:
                whole = self.model_accepts_loss_kwargs and num_items_in_batch is not None
                whole = whole or self.compute_loss_func is not None
            parts = self.current_gradient_accumulation_steps if whole else 1
            self.criterion.set_progress(progress)
            loss = self.criterion(outputs, iter([loss * parts for loss in losses])).total / parts
        return (loss, outputs) if return_outputs else loss

    @property
    def _cycled(self) -> CycleWrapper:
        model: Any = self.model
        for module in model.modules():
            if isinstance(module, CycleWrapper):
                return module
        raise TypeError(
            f"model: expected CycleWrapper(...), or a PEFT model around one, got "
            f"{type(model).__name__}"
        )

    @property
    def _innermost(self) -> Any:
        """The plain model, without a PEFT model around it."""
        plain: Any = self._cycled.plain
        return plain.get_base_model() if hasattr(plain, "get_base_model") else plain

    @contextmanager
    def _plain_model(self) -> Iterator[None]:
        """Replace the wrapper by the plain model for a while."""
        model = self.model
        self.model = model.plain if isinstance(model, CycleWrapper) else model
        try:
            yield
        finally:
            self.model = model

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        teacher = self._cycled.teacher_state_dict()
        if state_dict is not None:  # gathered from several processes
            names = [name for name in state_dict if f"{TEACHER}." in name]
            teacher = {n.split(f"{TEACHER}.")[1]: state_dict[n] for n in names}
            state_dict = {n: tensor for n, tensor in state_dict.items() if n not in names}
        with self._plain_model():
            super()._save(output_dir, state_dict)
        if teacher and self.args.should_save:
            folder = str(output_dir or self.args.output_dir)
            with replacing_file(Path(folder, _TEACHER_FILE)) as path:
                save_file({n: t.contiguous() for n, t in teacher.items()}, path)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load = partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        self._load(resume_from_checkpoint, load)

    def _load_best_model(self) -> None:
        self._load(str(self.state.best_model_checkpoint), super()._load_best_model)

    def _load(self, folder: str, load: Callable[[], None]) -> None:
        """Load what `_save` wrote.

        Trainer loads a file as it stands, and so leaves out the parameters of models that are
        saved under other names (ViT in transformers 5); ``from_pretrained`` does not.
        """
        if self.is_fsdp_enabled:  # its checkpoints are the wrapper's
            load()
            return
        self._load_teacher(folder)
        model: Any = self.model
        with self._plain_model():
            kind: Any = type(self.model)
            if not issubclass(kind, PreTrainedModel):
                load()
                return
        saved, report = kind.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
        resized = {name for name, *_ in report["mismatched_keys"]}
        state = saved.state_dict()
        for name in resized.union(report["missing_keys"]):
            state.pop(name, None)
        # Modules that the class does not have, such as a head of the user's own.
        own = resized.union(report["unexpected_keys"])
        missing = model.plain.state_dict().keys() - state.keys() - own
        if missing:
            raise ValueError(f"{folder} lacks parameters: {sorted(missing)}")
        if own:
            with self._plain_model():
                load()
        model.plain.load_state_dict({**model.plain.state_dict(), **state})

    def _load_teacher(self, folder: str) -> None:
        path = Path(folder, _TEACHER_FILE)
        expected = self._cycled.teacher_state_dict().keys()
        found = load_file(path) if path.is_file() else {}
        if found.keys() != expected:
            raise ValueError(
                f"{path}: expected the teacher-only parameters {sorted(expected)}, got "
                f"{sorted(found)}. Wrap the model with the options that it was trained with"
            )
        if found:
            self._cycled.get_submodule(TEACHER).load_state_dict(found)


class _OneByOne(nn.Module):
    """Stands in for the model in ``Trainer.compute_loss``, which takes one prediction's loss.

    The first call runs the model, and each call returns the prediction of the next cycle.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self._run = model.__call__
        self._name = name
        self._next: Iterator[Any] = iter(())
        self.output: Any = None

    def _get_name(self) -> str:
        return self._name  # Trainer shifts the labels of causal language models by it

    def forward(self, **inputs: Any) -> Any:
        if self.output is None:
            self.output = self._run(**inputs)
            if isinstance(self.output, CycleOutput):
                self._next = iter(self.output.predictions)
        return next(self._next, self.output)


def _next_loss(prediction: Any, losses: Iterator[Tensor]) -> Tensor:
    """The task loss: it has been computed already, in the order of the cycles."""
    return next(losses)

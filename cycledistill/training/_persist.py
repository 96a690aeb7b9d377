"""What a checkpoint holds, and whether it is of the run that wants to continue."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cycledistill.training._checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from cycledistill.training._config import TrainConfig
from cycledistill.training._config_file import plain
from cycledistill.training._ema import MovingAverage
from cycledistill.training._errors import CheckpointError
from cycledistill.training._log import WindowEntry
from cycledistill.training._parallel import LossModule, gather_lists, on_main
from cycledistill.training._schedule import RateSetter
from cycledistill.training._state import (
    load_module_state,
    load_optimizer_state,
    module_state,
    optimizer_state,
)


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Steps done.
        skipped: Steps among them that changed nothing, because of non-finite numbers.
        left_out: Samples that the dataset did not deliver.
        window: Loss terms of this process since the last line of the log.
    """

    step: int = 0
    skipped: int = 0
    left_out: int = 0
    window: list[WindowEntry] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class RunState:
    """Everything that changes while a run goes on; random numbers follow from the step."""

    accelerator: Accelerator
    module: LossModule
    optimizer: Any
    rates: RateSetter
    average: MovingAverage | None
    progress: Progress

    def capture(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The whole state as plain tensors and numbers. All processes must call it."""
        scaler = self.accelerator.scaler
        self.progress.window = gather_lists(self.progress.window)
        state = {
            "settings": settings,
            "step": self.progress.step,
            "skipped": self.progress.skipped,
            "left_out": self.progress.left_out,
            "window": self.progress.window,
            "module": module_state(self.module),
            "optimizer": optimizer_state(self.optimizer.optimizer),
            "schedule": self.rates.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        if not self.accelerator.is_main_process:
            self.progress.window = []
        return state

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take back what ``capture`` gave.

        Raises:
            ValueError: Model, criterion or optimiser are of other shapes.
        """
        state, what = checkpoint.state, f"checkpoint {checkpoint.folder}"
        load_module_state(self.module, state["module"], what)
        load_optimizer_state(self.optimizer.optimizer, state["optimizer"], what)
        self.rates.load_state_dict(state["schedule"])
        if self.average is not None:
            if state["average"] is None:
                self.average.restart(self.module.model)
            else:
                self.average.load_state(state["average"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        window = state["window"] if self.accelerator.is_main_process else []
        self.progress.step = state["step"]
        self.progress.skipped = state["skipped"]
        self.progress.left_out = state["left_out"]
        self.progress.window = [(weight, terms) for weight, terms in window]


def settings_of(config: TrainConfig, num_samples: int) -> dict[str, Any]:
    """What must not change between the parts of a run: the fields not marked ``free``."""
    names = [f.name for f in dataclasses.fields(config) if not f.metadata.get("free")]
    values = plain(dataclasses.asdict(config))
    return {**{name: values[name] for name in names}, "training samples": num_samples}


def find_checkpoint(
    config: TrainConfig, store: CheckpointStore, settings: dict[str, Any]
) -> Checkpoint | None:
    """The checkpoint that ``config.resume`` asks for, ``None`` to start anew.

    Chosen by the main process, then read by all of them.

    Raises:
        CheckpointError: There are checkpoints, all of them broken, or the one named is.
        FileNotFoundError: The one named does not exist.
        ValueError: ``never`` was asked for, and ``output_dir`` has a run; or the checkpoint's
            settings differ from these.
    """
    mine: list[Checkpoint | None] = []

    def choose() -> Path | None:
        mine.append(_choose(config, store))
        return None if mine[0] is None else mine[0].folder

    folder = on_main(choose)
    found = mine[0] if mine else None if folder is None else read_checkpoint(folder)
    if found is not None and not config.allow_changes:
        _check_settings(found, settings)
    return found


def _choose(config: TrainConfig, store: CheckpointStore) -> Checkpoint | None:
    if config.resume == "never":
        if store.steps():
            raise ValueError(
                f"output_dir {config.output_dir} has a run already ({store.steps()[-1]} steps "
                "done), and resume=never leaves it alone: choose another output_dir, or "
                "--resume auto to continue it"
            )
        return None
    if config.resume == "auto":
        return _newest(store)
    path = Path(config.resume)
    if (path / "meta.json").exists():
        return read_checkpoint(path)
    for folder in (path / "checkpoints", path):
        found = _newest(CheckpointStore(folder))
        if found is not None:
            return found
    raise FileNotFoundError(
        f"resume={config.resume}: there is no checkpoint there (auto, never, a folder such as "
        "runs/train/checkpoints/step-00000123, or the output_dir of a run)"
    )


def _check_settings(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    then = checkpoint.state["settings"]
    names = [*then, *(name for name in settings if name not in then)]
    differences = ", ".join(
        f"{name} ({then.get(name, 'absent')} then, {settings.get(name, 'absent')} now)"
        for name in names
        if then.get(name, "absent") != settings.get(name, "absent")
    )
    if differences:
        raise ValueError(
            f"cannot continue from {checkpoint.folder}: settings differ: {differences}. Use the "
            "same ones, another output_dir for a new run, or --allow-changes to continue all the "
            "same"
        )


def _newest(store: CheckpointStore) -> Checkpoint | None:
    found = store.newest()
    if found is None and store.steps():
        raise CheckpointError(
            f"all checkpoints in {store.folder} are broken (the warnings above say how); delete "
            "the folder to start anew"
        )
    return found

"""Which checkpoint a run continues from, and whether it belongs to this run."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from cycledistill.training._checkpoint import (
    META_FILE,
    Checkpoint,
    CheckpointStore,
    read_checkpoint,
)
from cycledistill.training._config import TrainConfig
from cycledistill.training._config_file import plain
from cycledistill.training.processes._communication import on_main


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
    chosen: list[Checkpoint | None] = []

    def choose() -> Path | None:
        chosen.append(_choose(config, store))
        return chosen[0] and chosen[0].folder

    folder = on_main(choose)
    if folder is None:
        return None
    found = (chosen and chosen[0]) or read_checkpoint(folder)
    if not config.allow_changes:
        _check_settings(found, settings)
    return found


def _choose(config: TrainConfig, store: CheckpointStore) -> Checkpoint | None:
    if config.resume == "auto":
        return store.newest()
    if config.resume == "never":
        if store.steps():
            raise ValueError(
                f"output_dir {config.output_dir} has a run already ({store.steps()[-1]} steps "
                "done), and resume=never leaves it alone: choose another output_dir, or "
                "--resume auto to continue it"
            )
        return None
    path = Path(config.resume)
    if (path / META_FILE).exists():
        return read_checkpoint(path)
    found = CheckpointStore(path / "checkpoints").newest() or CheckpointStore(path).newest()
    if found is None:
        raise FileNotFoundError(
            f"resume={config.resume}: there is no checkpoint there (auto, never, a folder such as "
            "runs/train/checkpoints/step-00000123, or the output_dir of a run)"
        )
    return found


def _check_settings(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    then = checkpoint.state["settings"]
    pairs = {
        name: (then.get(name, "absent"), settings.get(name, "absent"))
        for name in {**then, **settings}
    }
    differences = ", ".join(
        "{} ({} then, {} now)".format(name, *map(_short, _differing(*pair)))
        for name, pair in pairs.items()
        if pair[0] != pair[1]
    )
    if differences:
        raise ValueError(
            f"cannot continue from {checkpoint.folder}: settings differ: {differences}. Use the "
            "same ones, another output_dir for a new run, or --allow-changes to continue anyway"
        )


def _differing(then: Any, now: Any) -> tuple[Any, Any]:
    """Two values; of long lists, such as names of classes, only the items that differ."""
    if not isinstance(then, list) or not isinstance(now, list) or not len(then) == len(now) > 10:
        return then, now
    pairs = [pair for pair in zip(then, now, strict=True) if pair[0] != pair[1]]
    return [former for former, _ in pairs], [present for _, present in pairs]


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), 200, placeholder=" ...")

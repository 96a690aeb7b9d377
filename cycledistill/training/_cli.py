"""Command lines of the examples: presets, YAML files, flags, and errors in one line."""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch.distributed as dist
import tyro

from cycledistill._help import join_help_lines
from cycledistill.training._config import TrainConfig
from cycledistill.training._config_file import read_config
from cycledistill.training._errors import TrainingError
from cycledistill.training._seeding import seed_everything
from cycledistill.training.processes._communication import is_main_process, place_of_process

ConfigT = TypeVar("ConfigT")
USERS_ERRORS = (ValueError, TypeError, OSError, ImportError, TrainingError)


def parse_cli(
    config_class: type[ConfigT],
    presets: Mapping[str, ConfigT] | None = None,
    default: str | None = None,
    args: Sequence[str] | None = None,
    description: str | None = None,
) -> ConfigT:
    """Read a config dataclass from the command line.

    Example:
        >>> from cycledistill.training import TrainConfig
        >>> presets = {"paper": TrainConfig(), "demo": TrainConfig(epochs=3, lr=0.01)}
        >>> config = parse_cli(TrainConfig, presets, args=["--preset", "demo", "--epochs", "5"])
        >>> config.epochs, config.lr
        (5, 0.01)

    ``--preset NAME`` picks the values to start from, ``--config FILE.yaml`` replaces those in the
    file, and flags replace both. ``--help`` shows every field with its docstring and the preset's
    value. The seed of a ``TrainConfig`` seeds the global random generators, so that what is built
    from the config, such as the model's initial weights, is the same each time.

    Args:
        config_class: The dataclass.
        presets: Values to choose from by name.
        default: Preset when none is named; ``None`` for the dataclass's own defaults.
        args: The arguments; ``sys.argv[1:]`` when ``None``.
        description: Text at the top of ``--help``; the dataclass's docstring when ``None``.

    Raises:
        ValueError: The preset is unknown, the file has an unknown option, or a ``TrainConfig`` has
            a value out of range.
        FileNotFoundError: There is no such file.
        SystemExit: Flags are wrong (2), or ``--help`` was given (0).
    """
    presets = presets or {}
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=default)
    first.add_argument("--config")
    first.add_argument("--debug", action="store_true")
    chosen, rest = first.parse_known_args(sys.argv[1:] if args is None else list(args))
    if chosen.preset is not None and chosen.preset not in presets:
        raise ValueError(
            f"there is no preset {chosen.preset!r}; choose from {', '.join(presets) or 'none'}"
        )
    config = presets[chosen.preset] if chosen.preset is not None else config_class()
    join_help_lines(config)
    shown = is_main_process()
    if chosen.config is not None:
        values = read_config(chosen.config, config)
        try:
            config = tyro.cli(config_class, default=config, args=values, console_outputs=shown)
        except SystemExit:
            print(f"error: {chosen.config} has wrong values (see above)", file=sys.stderr)
            raise
    lines = [description or (config_class.__doc__ or "").split("\n\n")[0], ""]
    if presets:
        names = ", ".join(f"{name}{' (default)' * (name == default)}" for name in presets)
        lines.append(f"--preset NAME       start from the values of {names}")
    lines.append("--config FILE.yaml  values from a file, such as a run's config.yaml; flags win")
    lines.append("--debug             show the traceback of errors")
    text = "\n".join(lines)
    config = tyro.cli(
        config_class, default=config, args=rest, description=text, console_outputs=shown
    )
    if isinstance(config, TrainConfig):
        config.validate()
        seed_everything(config.seed)
    return config


def run_cli(main: Callable[[], object]) -> None:
    """Run a program's ``main``; users' errors end it with one line and exit status 1.

    The traceback is shown with ``--debug`` among the arguments, and for other errors, which are
    bugs.

    Args:
        main: Called without arguments.

    Raises:
        SystemExit: With status 1 after an error, 130 after Ctrl-C.
    """
    status = 0
    try:
        main()
    except USERS_ERRORS as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(_one_line(error), file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    finally:
        if dist.is_available() and dist.is_initialized():
            # A model that outlives its process group can hang as it is deleted (torch 2.7, gloo).
            gc.collect()
            dist.destroy_process_group()
    if status:
        raise SystemExit(status)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines) or type(error).__name__
    if lines and lines[0].startswith("Caught ") and " DataLoader worker " in lines[0]:
        text = lines[-1]
    rank, _ = place_of_process()
    return f"error (process {rank}): {text}" if rank else f"error: {text}"

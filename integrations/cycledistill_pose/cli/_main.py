"""The commands and their flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from cycledistill._help import join_argument_lines, join_help_lines
from cycledistill.training import run_cli
from cycledistill_pose.cli._convert import convert
from cycledistill_pose.cli._evaluate import evaluate
from cycledistill_pose.cli._inside import inside
from cycledistill_pose.cli._predict import predict
from cycledistill_pose.recipes import EvaluationOptions

# Their arguments become the flags.
COMMANDS = (convert, inside, evaluate, predict)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``cycledistill-pose``; a user's error is one line and exit status 1.

    Args:
        args: The arguments; ``sys.argv[1:]`` when ``None``.

    Raises:
        SystemExit: With status 2 for wrong flags, 1 after an error.
    """
    for command in COMMANDS:
        join_argument_lines(command)
    join_help_lines(EvaluationOptions())
    chosen = list(sys.argv[1:] if args is None else args)
    by_name = {command.__name__: command for command in COMMANDS}
    run_cli(
        lambda: tyro.extras.subcommand_cli_from_dict(by_name, prog="cycledistill-pose", args=chosen)
    )

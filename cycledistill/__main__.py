"""The command line: `cycledistill export`, or `python -m cycledistill export`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's error ends it with one line and exit status 1."""
    from cycledistill.export import _command

    parser = argparse.ArgumentParser(prog="cycledistill", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    export = commands.add_parser(
        "export",
        help="a saved plain model as ONNX (.onnx) or torch.export program (.pt2)",
        description="Write a saved plain model as ONNX or as a torch.export program, for batches "
        "of any size, and compare it with torch before it appears.",
    )
    _command.add_arguments(export)
    options = parser.parse_args(arguments)
    try:
        _command.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

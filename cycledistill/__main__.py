"""The command line: `cycledistill export`, or `python -m cycledistill export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cycledistill import _extras


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's error ends it with one line and exit status 1."""
    try:
        _extras.require("the command", "export", "tyro")
        import tyro

        from cycledistill._help import join_argument_lines
        from cycledistill.export._command import export

        join_argument_lines(export)
        tyro.extras.subcommand_cli_from_dict(
            {"export": export}, prog="cycledistill", args=arguments
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

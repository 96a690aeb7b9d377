"""The command ``cycledistill-pose``; a subcommand is one function in a file of its own."""

from cycledistill_pose.cli._main import main

__all__ = ["main"]

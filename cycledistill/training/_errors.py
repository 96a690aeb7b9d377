"""Errors that end a run with one clear line."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A run cannot go on; the text says why and what can be done."""


class CheckpointError(TrainingError):
    """A checkpoint could not be written or read."""


class NonFiniteLossError(TrainingError):
    """A loss or a gradient was infinite or not a number."""


class Interrupted(SystemExit):
    """The run was asked to stop (Ctrl-C or SIGTERM), and saved a checkpoint first.

    Ends the process with the usual code, 128 + the signal's number (130 or 143).
    """

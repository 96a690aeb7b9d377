"""Cycled transformer self-distillation: train a transformer better without making it bigger."""

from cycledistill._calibrate import ExitCalibration, calibrate_exit
from cycledistill._frozen import FoldLoss
from cycledistill._loss import CycleDistillLoss, CycleLosses
from cycledistill._macs import MacCount, count_macs
from cycledistill._output import CycleOutput
from cycledistill._schedule import Ramp
from cycledistill._suggest import BlockSuggestion, suggest_blocks
from cycledistill._wrapper import CycleWrapper

__all__ = [
    "BlockSuggestion",
    "CycleDistillLoss",
    "CycleLosses",
    "CycleOutput",
    "CycleWrapper",
    "ExitCalibration",
    "FoldLoss",
    "MacCount",
    "Ramp",
    "calibrate_exit",
    "count_macs",
    "suggest_blocks",
]

"""For functions that run on several processes, such as ``evaluate``."""

from cycledistill.training.processes._communication import (
    gather_over_processes,
    is_main_process,
    sum_over_processes,
)
from cycledistill.training.processes._evaluation import evaluation_loader

__all__ = [
    "evaluation_loader",
    "gather_over_processes",
    "is_main_process",
    "sum_over_processes",
]

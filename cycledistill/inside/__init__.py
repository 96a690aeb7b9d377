"""Look inside a model as it cycles: attention, weights, tokens and predictions.

Needs matplotlib, which the extra ``train`` brings: ``pip install "cycledistill[train]"``.
"""

from cycledistill import _extras

_extras.require("cycledistill.inside", "train", "matplotlib")

from cycledistill.inside._attention import AttentionMap, record_attention
from cycledistill.inside._changes import plot_token_changes, token_changes
from cycledistill.inside._maps import plot_attention_matrices, plot_attention_over_image
from cycledistill.inside._table import CycleTable, cycle_table, plot_cycle_table
from cycledistill.inside._weights import plot_weight_distributions

__all__ = [
    "AttentionMap",
    "CycleTable",
    "cycle_table",
    "plot_attention_matrices",
    "plot_attention_over_image",
    "plot_cycle_table",
    "plot_token_changes",
    "plot_weight_distributions",
    "record_attention",
    "token_changes",
]

"""Look inside a model while it cycles: what its blocks attend to, layer by layer."""

from cycledistill.inside._attention import AttentionMap, record_attention
from cycledistill.inside._matrices import plot_attention_matrices

__all__ = ["AttentionMap", "plot_attention_matrices", "record_attention"]

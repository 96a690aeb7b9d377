"""Look inside a model while it cycles: what its blocks attend to, layer by layer."""

from cycledistill.inside._attention import AttentionMap, record_attention

__all__ = ["AttentionMap", "record_attention"]

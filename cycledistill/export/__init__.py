"""Export plain models to ONNX and torch.export files, checked before they appear."""

from cycledistill.export._check import ExportReport
from cycledistill.export._export import export_model
from cycledistill.export._loaders import LOADERS, Exportable, load_exportable

__all__ = ["LOADERS", "ExportReport", "Exportable", "export_model", "load_exportable"]

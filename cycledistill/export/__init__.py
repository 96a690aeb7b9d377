"""Plain models as ONNX and torch.export files that are checked before they appear.

Loaded only by those who ask for it: ``import cycledistill`` does not lead here.
"""

from cycledistill.export._check import ExportReport
from cycledistill.export._export import export_model
from cycledistill.export._loaders import LOADERS, Exportable, load_exportable

__all__ = ["LOADERS", "ExportReport", "Exportable", "export_model", "load_exportable"]

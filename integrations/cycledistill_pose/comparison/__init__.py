"""Several plain networks on the same people: scores with intervals, and a page of cases."""

from __future__ import annotations

from cycledistill_pose.comparison._cases import Case
from cycledistill_pose.comparison._compare import Comparison, Row, compare_checkpoints
from cycledistill_pose.comparison._page import comparison_page

__all__ = ["Case", "Comparison", "Row", "compare_checkpoints", "comparison_page"]

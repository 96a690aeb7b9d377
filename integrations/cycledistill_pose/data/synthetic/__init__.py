"""Synthetic people, the data that is always there."""

from __future__ import annotations

from cycledistill_pose.data.synthetic._people import SyntheticPeople
from cycledistill_pose.data.synthetic._sheet import contact_sheet

__all__ = ["SyntheticPeople", "contact_sheet"]

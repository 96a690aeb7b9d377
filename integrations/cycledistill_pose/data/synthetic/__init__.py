"""Synthetic people: data that needs no download."""

from __future__ import annotations

from cycledistill_pose.data.synthetic._people import SyntheticPeople, contact_sheet

__all__ = ["SyntheticPeople", "contact_sheet"]

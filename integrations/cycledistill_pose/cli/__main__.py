"""``python -m cycledistill_pose.cli``."""

from cycledistill_pose.cli import main

main()

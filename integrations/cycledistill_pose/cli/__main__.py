"""``python -m cycledistill_pose.cli``."""

from cycledistill_pose.cli._main import main

main()

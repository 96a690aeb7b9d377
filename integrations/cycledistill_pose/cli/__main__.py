from cycledistill_pose.cli._main import main

main()

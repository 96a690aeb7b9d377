"""What a pose run prints at its end."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cycledistill_pose.recipes._config import PoseConfig
from cycledistill_pose.recipes._train import PoseRun

_SHOWN = ("AP", "AP50", "AP75", "APM", "APL", "AP_easy", "AP_medium", "AP_hard", "AR", "PCK")


def report(config: PoseConfig, run: PoseRun) -> None:
    """Say what happened, where the files are and what to try next."""
    found = dict.fromkeys(name.split("/")[0] for name in run.scores)
    names = [name for name in found if name in _SHOWN]
    table = Table(title="Percent by number of cycles in use")
    table.add_column("cycles", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for cycle in range(1, config.training_cycles + 1):
        values = [run.scores.get(f"{name}/{cycle}") for name in names]
        table.add_row(str(cycle), *("-" if v is None else f"{v:.1f}" for v in values))
    console = Console(markup=False, highlight=False)
    console.print(table if names else "No AP: nobody is annotated in the images to evaluate on")
    console.print(
        f"Predictions beside the truth:  {run.predictions}\n"
        f"The plain network:             {run.plain} (model.safetensors, config.json "
        "and a model card)\n"
        f"Predictions in COCO's format:  {run.results}\n"
        f"Log and curves:                {config.output_dir}/log.jsonl, curves.png\n"
        f"Try next:  cycledistill-pose predict IMAGE --checkpoint {run.plain} --out FOLDER;\n"
        "           the same with --mode plain and another --output-dir, then\n"
        "           cycledistill-pose evaluate with both; --data-root with a COCO folder;\n"
        "           --preset paper; --help for the rest (commands are beside this Python)",
        soft_wrap=True,
    )

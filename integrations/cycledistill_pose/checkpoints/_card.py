"""The text that goes with a shared network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from cycledistill.saving._card import results_sections

SHOWN_SCORES = ("AP", "AP50", "AP75", "APM", "APL", "AP_easy", "AP_medium", "AP_hard", "AR", "PCK")


def model_card(
    description: Mapping[str, Any],
    num_parameters: int,
    training: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
) -> str:
    """A model card as the Hugging Face Hub shows it: Markdown under a head of YAML.

    Paths are left out of ``training``: they belong to the machine where the run was.
    """
    skeleton = description["skeleton"]
    head = ModelCardData(
        library_name="cycledistill",
        pipeline_tag="keypoint-detection",
        tags=["pose-estimation", "cycledistill", str(description["model"])],
    )
    options = ", ".join(f"{key} {value}" for key, value in description["options"].items())
    lines = [
        f"---\n{head.to_yaml()}\n---",
        f"# {description['model']}, {len(skeleton['keypoint_names'])} keypoints "
        f"({skeleton['name']})",
        "A plain pose network: one pass, keypoints of one person in each box. "
        f"{num_parameters:,} parameters{f'; {options}' if options else ''}.",
        "```python\nfrom cycledistill_pose import PosePredictor\n\n"
        'predictor = PosePredictor.from_pretrained(".")  # this folder, or its name on the hub\n'
        'keypoints, scores = predictor("image.jpg", boxes_xyxy=[[10, 20, 110, 220]])\n```',
        f"Keypoints, in order: {', '.join(skeleton['keypoint_names'])}.",
    ]
    lines += results_sections(training, scores, SHOWN_SCORES)
    return "\n\n".join(lines) + "\n"

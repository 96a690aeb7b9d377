"""The text that goes with a shared classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from cycledistill.saving._card import results_sections


def model_card(
    architecture: str,
    num_parameters: int,
    class_names: tuple[str, ...],
    prepared: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
) -> str:
    """A model card as the Hugging Face hub shows it: Markdown under a head of YAML.

    Args:
        architecture: timm's name of the model.
        num_parameters: Trainable ones.
        class_names: Names of the K classes.
        prepared: How its images were prepared, in timm's words.
        training: Options of the run; paths are left out.
        scores: Percent by metric and number of cycles, such as ``{"accuracy/1": 72.0}``.
    """
    head = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "cycledistill", architecture],
    )
    few = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    channels, height, width = prepared["input_size"]
    lines = [
        f"---\n{head.to_yaml()}\n---",
        f"# {architecture}, {len(class_names):,} classes",
        f"A plain timm model: one pass. {num_parameters:,} parameters. It was trained in cycles "
        "through its own blocks; nothing of that is needed to use it.",
        "```python\nimport timm\n\n"
        'model = timm.create_model("local-dir:.", pretrained=True)  # this folder; a name on the\n'
        '# hub is "hf-hub:owner/name"\n```',
        f"Classes, in order: {few}.",
        f"Images: {channels} x {height} x {width}, {prepared['interpolation']}, "
        f"{prepared['crop_mode']} crop of {prepared['crop_pct']}, mean {list(prepared['mean'])}, "
        f"deviation {list(prepared['std'])}. `timm.data.resolve_model_data_config(model)` says so, "
        "and `timm.data.create_transform` makes it.",
        *results_sections(training, scores, ("accuracy",)),
    ]
    return "\n\n".join(lines) + "\n"

"""Candidates from the rows of models.yaml."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from benchmarks.families import _inputs
from benchmarks.families._candidate import Candidate

Sizes = dict[str, Any]
Build = Callable[..., nn.Module]


class _Loader(yaml.SafeLoader):
    """YAML with ``!object "module:name"``."""


_Loader.add_constructor(
    "!object", lambda loader, node: pkgutil.resolve_name(loader.construct_scalar(node))
)


@functools.cache
def _table() -> dict[str, list[Any]]:
    """The rows by library; those that name objects import timm."""
    loaded: dict[str, list[Any]] = yaml.load(
        (Path(__file__).parent / "models.yaml").read_text("utf-8"), _Loader
    )
    return loaded


def of_timm() -> list[Candidate]:
    import timm

    def build(target: str, sizes: Sizes) -> nn.Module:
        make = partial(timm.create_model, target)
        if ":" in target:
            make = pkgutil.resolve_name(f"timm.models.{target}")
        return make(num_classes=5, **_with_tuples(sizes))

    def named(label: str, target: str) -> str:
        return label if ":" in target else f"{label}: {target}"

    return _candidates("timm", build, named)


def of_transformers() -> list[Candidate]:
    def build(
        target: str, sizes: Sizes, experts: str | None = None, checkpointing: bool = False
    ) -> nn.Module:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        cls = getattr(transformers, target)
        made = cls(cls.config_class(**sizes))
        if experts is not None:  # the default does not run in float64
            made.set_experts_implementation(experts)
        if checkpointing:
            made.gradient_checkpointing_enable({"use_reentrant": False})
        return made

    return _candidates("transformers", build)


def of_diffusers() -> list[Candidate]:
    def build(target: str, sizes: Sizes) -> nn.Module:
        import diffusers

        return getattr(diffusers, target)(**_with_tuples(sizes))

    return _candidates("diffusers", build)


def of_vit_pytorch() -> list[Candidate]:
    def build(target: str, sizes: Sizes) -> nn.Module:
        return pkgutil.resolve_name(f"vit_pytorch.{target}")(**_with_tuples(sizes))

    def masked() -> nn.Module:
        from vit_pytorch.mae import MAE
        from vit_pytorch.vit import ViT

        sizes = {"dim": 16, "depth": 3, "heads": 2, "mlp_dim": 32, "num_classes": 5}
        encoder = ViT(**sizes, image_size=32, patch_size=8, dim_head=8, pool="mean")
        return MAE(encoder=encoder, decoder_dim=16, decoder_depth=2, decoder_heads=2)

    made = _candidates("vit_pytorch", build, lambda label, _: f"vit_pytorch.{label}")
    mae = Candidate("vit_pytorch.MAE", masked, _inputs.images, "encoder.transformer")
    return [*made, mae]


def _candidates(
    library: str, build: Build, named: Callable[[str, str], str] = lambda label, _: label
) -> list[Candidate]:
    made = []
    for label, target, inputs, sizes, *rest in _table()[library]:
        options = dict(rest[0]) if rest else {}
        blocks = options.pop("blocks", None)
        undo = "gradient_checkpointing_disable"
        reference = methodcaller(undo) if "checkpointing" in options else None
        kind, *numbers = inputs.split()
        given = partial(getattr(_inputs, kind), *map(int, numbers))
        make = partial(build, target, sizes, **options)
        made.append(Candidate(named(label or target, target), make, given, blocks, reference))
    return made


def _with_tuples(value: Any) -> Any:
    """Lists as tuples, as these libraries want them."""
    if isinstance(value, dict):
        return {key: _with_tuples(one) for key, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value

"""One small model of many families, with random weights: the rows of docs/compatibility.md."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """A model to try.

    Attributes:
        name: Family and representative, as the table shows it.
        make: Builds the model.
        inputs: Makes the arguments of a batch of two.
        blocks: The stack, where we know better than the search: its path, or those of its blocks.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    blocks: str | list[str] | None = None


@dataclass(frozen=True)
class Library:
    """Where models come from.

    Attributes:
        title: Heading of its table.
        package: Its name on PyPI.
        candidates: Makes the list of its models.
    """

    title: str
    package: str
    candidates: Callable[[], list[Candidate]]

    def is_installed(self) -> bool:
        try:
            version(self.package)
        except PackageNotFoundError:
            return False
        return True


@dataclass(frozen=True)
class Call:
    """What a row says of an object: its name, and what it is called with; "" for the object."""

    name: str
    arguments: Any

    def __call__(self) -> Any:
        found = pkgutil.resolve_name(self.name)
        if self.arguments == "":
            return found
        args, kwargs = arguments(self.arguments)
        return found(*args, **kwargs)


class _Loader(yaml.SafeLoader):
    """YAML with calls."""

    def call(self, name: str, node: yaml.Node) -> Call:
        if isinstance(node, yaml.MappingNode):
            return Call(name, self.construct_mapping(node, deep=True))
        if isinstance(node, yaml.SequenceNode):
            return Call(name, self.construct_sequence(node, deep=True))
        return Call(name, node.value)


_Loader.add_multi_constructor("!", _Loader.call)

# Headings, names on PyPI and where the models' names begin.
LIBRARIES = {
    "timm": ("timm", "timm.models."),
    "Hugging Face transformers": ("transformers", "transformers."),
    "sentence-transformers": ("sentence-transformers", ""),
    "diffusers": ("diffusers", "diffusers."),
    "vit-pytorch": ("vit-pytorch", "vit_pytorch."),
    "x-transformers": ("x-transformers", "x_transformers."),
    "open_clip": ("open_clip_torch", "open_clip."),
    "MONAI": ("monai", "monai.networks.nets."),
    "torch and torchvision": ("torchvision", ""),
    "Written for this page": ("torch", "benchmarks._foreign."),
}


def libraries() -> list[Library]:
    """In the order of the page."""
    rows = yaml.load(Path(__file__).with_suffix(".yaml").read_text("utf-8"), _Loader)
    return [
        Library(title, package, partial(_candidates, prefix, rows[title]))
        for title, (package, prefix) in LIBRARIES.items()
    ]


def arguments(given: Any) -> Inputs:
    """Positional ones and those by name, of a list or a mapping."""
    args, kwargs = ((), dict(given)) if isinstance(given, dict) else (given, {})
    return made([*args, *kwargs.pop("args", ())]), made(kwargs)


def made(value: Any) -> Any:
    """With all calls made, and lists as tuples."""
    if isinstance(value, Call):
        return value()
    if isinstance(value, dict):
        return {key: made(one) for key, one in value.items()}
    return tuple(map(made, value)) if isinstance(value, list) else value


def _candidates(prefix: str, rows: list[Any]) -> list[Candidate]:
    found = []
    for label, target, inputs, sizes, *rest in rows:
        options = dict(*rest)
        blocks = options.pop("blocks", None)
        by_name = prefix == "timm.models." and "." not in target
        name = f"{label}: {target}" if by_name else label or target
        make = partial(_model, prefix + target, sizes, **options)
        found.append(Candidate(name, make, partial(arguments, inputs), blocks))
    return found


def _model(
    name: str, sizes: Any, experts: str | None = None, reentrant: bool | None = None
) -> nn.Module:
    if name.startswith("transformers."):
        import transformers

        transformers.utils.logging.set_verbosity_error()
        make = getattr(transformers, name.split(".")[1])
        model = make(make.config_class(**sizes))
    elif name.startswith("timm."):
        registered = {} if name.count(".") > 2 else {"model_name": name.split(".")[2]}
        name = "timm.create_model" if registered else name
        model = Call(name, {**registered, **sizes, "num_classes": 5})()
    else:
        model = Call(name, sizes)()
    if experts is not None:  # the default does not run in float64
        model.set_experts_implementation(experts)
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


def sentence_transformer(**sizes: int) -> nn.Module:
    """Its parts are read from files."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    with TemporaryDirectory() as folder:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = Path(folder, "vocab.txt")
        words.write_text("\n".join([*special, *(f"word{i}" for i in range(45))]))
        BertTokenizerFast(str(words)).save_pretrained(folder)
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
        return SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")

"""A model to try, and the library that it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from torch import nn

from benchmarks.families._inputs import Inputs


@dataclass(frozen=True)
class Candidate:
    """A model to try.

    Attributes:
        name: Family and representative, as the table shows it.
        make: Builds the model.
        inputs: Makes the arguments of a batch of two.
        blocks: The stack, where we know better than the search: a path, or what gives its modules.
        reference: Changes the copy that is compared with. A model that runs its blocks again in
            the backward pass (activation checkpointing) must not do so there, since raw hooks
            would hand in other tokens by then.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    blocks: str | Callable[[nn.Module], list[nn.Module]] | None = None
    reference: Callable[[nn.Module], object] | None = None


@dataclass(frozen=True)
class Library:
    """Where models come from.

    Attributes:
        title: Heading of its table.
        package: Its name on PyPI.
        candidates: Makes the list of its models; imports the library.
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

"""Finding the block stack of a model."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

USUAL_NAMES = frozenset(
    {
        "block",
        "blocks",
        "encoder_layers",
        "h",
        "layer",
        "layers",
        "resblocks",
        "transformer_blocks",
        "transformer_layers",
    }
)

_SLICE = re.compile(r"^(?P<path>.*?)\.?(?P<start>\d*):(?P<stop>\d*)$")


class BlockStack(NamedTuple):
    """Consecutive blocks of a model.

    Attributes:
        path: Their path, such as ``"blocks"``, ``"encoder.layers"`` or ``"blocks.4:12"``.
        blocks: The modules, in the order of their calls.
        layers: Number of layers that a single block runs, if it is the parent of a list of lists;
            else 0.
    """

    path: str
    blocks: tuple[nn.Module, ...]
    layers: int = 0

    @property
    def depth(self) -> int:
        """Number of layers."""
        return max(self.layers, len(self.blocks))

    @property
    def container(self) -> str:
        """Path of the blocks' list, such as ``"blocks"`` for ``"blocks.4:12"``."""
        match = _SLICE.match(self.path)
        return match["path"] if match else self.path


def find_stack(model: nn.Module, blocks: str | Sequence[nn.Module] | None = None) -> BlockStack:
    """Return the stack named by ``blocks``, or search the model for one.

    Args:
        model: Any model.
        blocks: ``None`` (search), a dotted path, a slice of a stack such as ``"blocks.4:12"``
            (counted from 0, end excluded), or the modules themselves.

    Raises:
        ValueError: No stack, or more than one, was found; the message lists the candidates.
        TypeError: ``blocks`` is of another type.
    """
    if blocks is None:
        stack = _search(model)
        _warn_of_excluded_blocks(model, stack)
    elif isinstance(blocks, str):
        stack = _by_path(model, blocks)
    elif isinstance(blocks, (Sequence, nn.ModuleList, nn.Sequential)):
        stack = _by_modules(model, [*blocks])
    else:
        raise TypeError(
            "blocks: expected None, a dotted path, a slice such as 'blocks.4:12' or a list of "
            f"modules, got {type(blocks).__name__}"
        )
    if any(map(_is_list, stack.blocks)):
        raise ValueError(
            f"the stack {stack.path!r} holds lists of modules: expected modules that are called. "
            "Name one of the lists, or the module that runs them"
        )
    if len(set(stack.blocks)) < len(stack.blocks):
        raise ValueError(
            f"the stack {stack.path!r} holds the same module twice: blocks that share all their "
            "weights cannot be told apart. Name the module that runs them as one block, with "
            "blocks='path.to.it'"
        )
    return stack


def stacks_within(model: nn.Module, prefix: str = "", shortest: int = 2) -> list[BlockStack]:
    """All stacks with a usual name under ``prefix``, in lists of ``shortest`` or more modules."""
    found = []
    for path, container in _containers(model):
        names = [part for part in path.split(".") if not part.isdigit()]
        usual = path == "" or (bool(names) and names[-1] in USUAL_NAMES)
        if usual and (path == prefix or not prefix or path.startswith(prefix + ".")):
            if len(container) < shortest:
                continue
            children = [child for child in container if child is not None]
            run = _longest_run(path, container)
            if children and all(map(_is_layer_list, children)):
                path = path.rpartition(".")[0]
                if not path:
                    continue
                found.append(BlockStack(path, (model.get_submodule(path),), len(children)))
            elif _is_stack(run, container) and not _is_list(run.blocks[0]):
                found.append(run)
    return found


def _search(model: nn.Module) -> BlockStack:
    if isinstance(model, (nn.Sequential, nn.ModuleList)):
        run = _longest_run("", model)
        if _is_stack(run, model):
            return run
    candidates = stacks_within(model)
    whole = [stack for stack in candidates if not _is_nested(stack.path)]
    if whole:
        longest = max(stack.depth for stack in whole)
        best = [stack for stack in whole if stack.depth == longest]
        if len(best) == 1:
            return best[0]
        raise ValueError(
            f"{type(model).__name__} has several block stacks of the same length, choose one with "
            f"blocks=: {_listing(best)}"
        )
    if len(candidates) == 1 and not _is_stage(model, candidates[0].path):
        return candidates[0]
    if candidates:
        raise ValueError(
            f"{type(model).__name__} is hierarchical: its tokens change shape from stage to stage, "
            "so the whole cannot be cycled. One stage can, with blocks= one of: "
            f"{_listing(candidates)}"
        )
    longer = [
        path
        for path, container in _containers(model)
        if not _is_nested(path) and len(_longest_run(path, container).blocks) > 1
    ]
    alone = [s for s in stacks_within(model, shortest=1) if not _is_nested(s.path)]
    if len(alone) == 1 and not longer:
        return alone[0]
    looked_at = []
    for path, container in _containers(model):
        if "." not in path and path in USUAL_NAMES and all(map(_is_layer_list, container)):
            raise ValueError(
                f"{type(model).__name__} runs the parts of its {len(container)} layers in {path!r} "
                "itself, so none of its modules takes and returns the tokens: expected a module "
                "that runs a layer, or all of them. If the model as a whole takes and returns "
                "tokens, use blocks=''"
            )
        length = len(_longest_run(path, container).blocks)
        if length > 1 or path.rpartition(".")[2] in USUAL_NAMES:
            looked_at.append(f"{path!r} ({length} of {len(container)})")
    raise ValueError(
        f"no block stack found in {type(model).__name__}: looked for two or more same-shaped "
        "siblings, or a single list of one block, under the names "
        f"{', '.join(sorted(USUAL_NAMES))}. Lists that it has, with "
        f"the length of their longest such run: {', '.join(looked_at) or 'none'}. Name the stack "
        "with blocks='path.to.blocks' or blocks=[module, ...]"
    )


def _by_path(model: nn.Module, blocks: str) -> BlockStack:
    match = _SLICE.match(blocks)
    path = match["path"] if match else blocks
    try:
        target = model.get_submodule(path)
    except AttributeError as error:
        known = [stack.path for stack in stacks_within(model)]
        raise ValueError(
            f"blocks={blocks!r}: {type(model).__name__} has no module {path!r}. Stacks found: "
            f"{', '.join(known) or 'none'}"
        ) from error
    if not isinstance(target, (nn.Sequential, nn.ModuleList)):
        if match:
            raise ValueError(
                f"blocks={blocks!r}: {path!r} is a {type(target).__name__}, and only an "
                "nn.Sequential or nn.ModuleList can be sliced"
            )
        return BlockStack(path, (target,))
    children = tuple(target)  # an entry may be None
    if match:
        start = int(match["start"] or 0)
        stop = int(match["stop"] or len(children))
        if not 0 <= start < stop <= len(children):
            raise ValueError(
                f"blocks={blocks!r}: {path or type(model).__name__!r} has {len(children)} blocks, "
                f"expected a non-empty slice within 0:{len(children)}"
            )
        children = children[start:stop]
    children = tuple(child for child in children if child is not None)
    if not children:
        raise ValueError(f"blocks={blocks!r}: {path!r} is empty")
    return BlockStack(blocks, children)


def _by_modules(model: nn.Module, modules: Sequence[Any]) -> BlockStack:
    if not modules:
        raise ValueError("blocks is an empty list, expected at least one module")
    names = {module: name for name, module in model.named_modules()}
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"blocks: expected modules, got {type(module).__name__}")
        if module not in names:
            raise ValueError(
                f"blocks: expected modules of {type(model).__name__}, got another "
                f"{type(module).__name__}"
            )
    return BlockStack(", ".join(names[module] for module in modules), tuple(modules))


def _containers(model: nn.Module) -> Iterator[tuple[str, nn.Sequential | nn.ModuleList]]:
    for path, module in model.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and len(module):
            yield path, module


def _longest_run(path: str, container: nn.Sequential | nn.ModuleList) -> BlockStack:
    """The longest run of same-shaped modules; entries that are None are skipped."""
    children = {place: child for place, child in enumerate(container) if child is not None}
    shapes = {place: _shape_of(child) for place, child in children.items()}
    runs = [
        [*places] for shape, places in itertools.groupby(children, shapes.get) if shape is not None
    ]
    places = max(runs, key=len, default=[])
    blocks = tuple(children[place] for place in places)
    if len(blocks) == len(children):
        return BlockStack(path, blocks)
    piece = f"{places[0]}:{places[-1] + 1}" if places else "0:0"
    return BlockStack(f"{path}.{piece}" if path else piece, blocks)


def _is_stack(run: BlockStack, container: nn.Sequential | nn.ModuleList) -> bool:
    """Whether a container's longest run has two or more blocks, or is its only block."""
    return len(run.blocks) >= min(2, len(container))


def _shape_of(block: nn.Module) -> tuple[object, ...] | None:
    """Class and channel widths; siblings may differ in, say, the size of a position table."""
    shapes = [() if is_lazy(p) else tuple(p.shape) for p in block.parameters()]
    widths = [shape for shape in shapes if len(shape) == 1] or shapes
    return (type(block), frozenset(widths)) if shapes else None


def _is_list(child: nn.Module) -> bool:
    """Whether it is a list or dict of modules without ``forward``, which cannot be a block."""
    return isinstance(child, (nn.ModuleList, nn.ModuleDict)) and (
        type(child).forward is nn.Module.forward
    )


def _is_layer_list(child: nn.Module) -> bool:
    """Whether it is a list of a layer's parts, which the parent of the list runs one by one."""
    if not _is_list(child):
        return False
    return not isinstance(child, nn.ModuleList) or len(_longest_run("", child).blocks) < 2


def _warn_of_excluded_blocks(model: nn.Module, stack: BlockStack) -> None:
    """Warn if the stack excludes blocks of the same class in the same list."""
    if stack.container == stack.path:
        return
    siblings = enumerate(model.get_submodule(stack.container).children())
    kind = type(stack.blocks[0])
    left = [str(i) for i, child in siblings if type(child) is kind and child not in stack.blocks]
    if left:
        warnings.warn(
            f"{type(model).__name__}: found the stack {stack.path!r}; blocks {', '.join(left)} of "
            f"{stack.container!r} ({kind.__name__}) have other widths and are left out. Name a "
            "stack with blocks= to choose another",
            UserWarning,
            stacklevel=4,
        )


def _is_nested(path: str) -> bool:
    return any(part.isdigit() for part in path.split("."))


def _is_stage(model: nn.Module, path: str) -> bool:
    """Whether a part of a nested stack's path is one of several modules of the same class."""
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if part.isdigit():
            siblings = list(model.get_submodule(".".join(parts[:depth])).children())
            own = type(siblings[int(part)])
            if sum(type(sibling) is own for sibling in siblings) > 1:
                return True
    return False


def _listing(stacks: Sequence[BlockStack]) -> str:
    return ", ".join(f"{stack.path!r} ({stack.depth} blocks)" for stack in stacks)

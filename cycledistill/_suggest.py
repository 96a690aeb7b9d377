"""Choosing which blocks of a pretrained model to cycle."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cycledistill._call import call_plain
from cycledistill._find import BlockStack, find_stack
from cycledistill._mode import NoFastPath, eval_mode
from cycledistill._setup import Setup
from cycledistill._tokens import angles, tokens_of
from cycledistill._wrapper import CycleWrapper

_KEPT = 2  # blocks at each end that are never cycled
_SHALLOWEST = 2 * _KEPT + 2


class Turn(NamedTuple):
    """What consecutive blocks do to tokens.

    Attributes:
        start: Index of the first block in its list.
        stop: Index after the last one.
        angle: Angle between a token before the first and after the last block, in degrees from 0
            to 180, averaged over all tokens of all samples.
        ratio: Ratio of the token's norm after the last to before the first block, averaged
            likewise.
    """

    start: int
    stop: int
    angle: float
    ratio: float


@dataclass(frozen=True)
class BlockSuggestion:
    """Which blocks to cycle, and why; `str()` of it is a table.

    Attributes:
        path: Path of the list of blocks, such as ``"encoder.layers"``; ``""`` for a bare stack.
        per_block: What each block does, in order.
        windows: What each window of two or more consecutive blocks does, ordered by length and
            position; windows exclude the first two and the last two blocks.
        suggested: The suggested window.
    """

    path: str
    per_block: tuple[Turn, ...]
    windows: tuple[Turn, ...]
    suggested: Turn

    @property
    def blocks(self) -> str:
        """Value for ``CycleWrapper(blocks=...)``, such as ``"blocks.4:8"``."""
        return self._name(self.suggested)

    def _name(self, turn: Turn) -> str:
        place = f"{turn.start}" if turn.stop - turn.start == 1 else f"{turn.start}:{turn.stop}"
        return f"{self.path}.{place}" if self.path else place

    def __str__(self) -> str:
        by_length: dict[int, list[Turn]] = {}
        for turn in self.windows:
            by_length.setdefault(turn.stop - turn.start, []).append(turn)
        flattest = [min(turns, key=attrgetter("angle")) for turns in by_length.values()]
        width = max(len(self._name(turn)) for turn in (*self.per_block, *flattest))

        def row(turn: Turn) -> str:
            return f"{self._name(turn):{width}}  {turn.angle:7.1f}  {turn.ratio:14.2f}"

        return "\n".join(
            [
                f"{'block':{width}}  degrees  ratio of norms",
                *map(row, self.per_block),
                "Flattest window of each length:",
                *map(row, flattest),
                f"Suggested: {self.blocks}",
            ]
        )


def suggest_blocks(
    model: nn.Module,
    *args: Any,
    blocks: str | None = None,
    length: int | None = None,
    **kwargs: Any,
) -> BlockSuggestion:
    """Measure how far each block turns the tokens, and suggest which blocks to cycle.

    ```python
    found = suggest_blocks(pretrained, images)
    print(found)
    cycled = CycleWrapper(pretrained, num_cycles=2, blocks=found.blocks)
    ```

    A pretrained block expects the tokens that the previous block makes. Blocks that turn their
    tokens only a little return tokens similar to their input, so running them again disturbs the
    model least. The suggestion is therefore the window with the smallest angle. It never includes
    the first two or the last two blocks, which translate from the input and to the output; models
    made recurrent after pretraining keep them out of the loop, too (arXiv 2511.07384). The same
    angle, of the last token only, chooses layers to drop in arXiv 2403.17887.

    The plain model is called once, in eval mode and without gradients; modes and hooks are
    restored. Use a few real samples: a pretrained model treats noise differently.

    Args:
        model: A model or a `CycleWrapper`.
        *args: The model's arguments.
        blocks: Path of the stack, or a slice of one, as for `CycleWrapper`; ``None`` finds it.
            The first two and the last two blocks of a slice are left out as well.
        length: Number of blocks in the suggested window, from 2 to depth - 4. The angle cannot
            choose it, because longer windows nearly always turn further. ``None``: half of the
            blocks between the first and the last two (4 of 12, 10 of 24), so that a cycle has
            some depth and there are still several windows to choose from.
        **kwargs: The model's keyword arguments.

    Raises:
        ValueError: There are fewer than 6 blocks, ``length`` is out of range, or a block does not
            run exactly once, changes the shape of the tokens or makes them infinite.
        TypeError: ``blocks`` is not a path.
    """
    if blocks is not None and not isinstance(blocks, str):
        raise TypeError(f"blocks: expected a path or None, got {type(blocks).__name__}")
    plain = model.plain if isinstance(model, CycleWrapper) else model
    stack = find_stack(plain, blocks)
    depth = len(stack.blocks)
    if depth < _SHALLOWEST:
        raise ValueError(
            f"the stack {stack.path!r} of {type(plain).__name__} has a depth of {depth} blocks, "
            f"expected {_SHALLOWEST} or more, as the first two and the last two are never in the "
            "window. Cycle a shallow model as a whole"
        )
    middle = depth - 2 * _KEPT
    chosen = max(2, middle // 2) if length is None else length
    if not 2 <= chosen <= middle:
        raise ValueError(f"length: expected 2 to {middle} of the {depth} blocks, got {chosen}")
    container: Any = plain.get_submodule(stack.container)
    places = [place for place, block in enumerate(container) if block in stack.blocks]
    entering, leaving = _run(plain, stack, args, kwargs)

    def turn(start: int, stop: int) -> Turn:
        before, after = entering[start], leaving[stop - 1]
        ratio = after.norm(dim=-1) / before.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        angle = angles(before, after).mean()
        return Turn(places[start], places[stop - 1] + 1, float(angle), float(ratio.mean()))

    windows = {
        size: [turn(start, start + size) for start in range(_KEPT, depth - _KEPT - size + 1)]
        for size in range(2, middle + 1)
    }
    return BlockSuggestion(
        path=stack.container,
        per_block=tuple(turn(index, index + 1) for index in range(depth)),
        windows=tuple(chain(*windows.values())),
        suggested=min(windows[chosen], key=attrgetter("angle")),
    )


def _run(
    plain: nn.Module, stack: BlockStack, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Call the model, and return input and output tokens of each block in float32."""
    setup = Setup(type(plain).__name__, stack, batch_dim=0)
    entering: list[list[Tensor]] = [[] for _ in stack.blocks]
    leaving: list[list[Tensor]] = [[] for _ in stack.blocks]

    def enter(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens, _name = setup.split_tokens(index, args, kwargs)
        entering[index].append(tokens.to(torch.float32, copy=True))  # a block may modify them

    def leave(index: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        leaving[index].append(tokens_of(output).to(torch.float32, copy=True))

    with ExitStack() as exits:
        for index, block in enumerate(stack.blocks):
            before, after = partial(enter, index), partial(leave, index)
            handle = block.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
            exits.callback(handle.remove)
            exits.callback(block.register_forward_hook(after).remove)
        for context in (eval_mode(plain), torch.no_grad(), NoFastPath()):
            exits.enter_context(context)
        call_plain(plain, args, kwargs)
    for index in range(len(stack.blocks)):
        name = f"{setup.name_of(index)} of {stack.path!r}"
        if len(leaving[index]) != 1:
            raise ValueError(
                f"{name}: expected to run once in a call of {setup.model}, ran "
                f"{len(leaving[index])} times"
            )
        shape = entering[0][0].shape
        for tokens in (entering[index][0], leaving[index][0]):
            if tokens.shape != shape:
                raise ValueError(
                    f"{name}: expected tokens of the shape that enters the stack, {[*shape]}, got "
                    f"{[*tokens.shape]}"
                )
            if not tokens.isfinite().all():
                raise ValueError(f"{name}: expected finite tokens, got NaN or infinite ones")
    return [tokens for (tokens,) in entering], [tokens for (tokens,) in leaving]

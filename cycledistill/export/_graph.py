"""The module that is exported: a plain model with its cycles and decoding."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cycledistill import CycleWrapper


class Graph(nn.Module):
    """A copy of a model in eval mode, run in some number of cycles, then decoded.

    With one cycle it contains no wrapper: the graph is the plain model's own.

    Args:
        model: A plain model, or one in a `CycleWrapper`.
        num_cycles: Cycles, 1 or more.
        blocks: Path of the stack of blocks, as for `CycleWrapper`.
        decode: Takes the model's output, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        num_cycles: int,
        blocks: str | None,
        decode: nn.Module | None,
    ) -> None:
        super().__init__()
        if isinstance(num_cycles, bool) or not isinstance(num_cycles, int) or num_cycles < 1:
            raise ValueError(f"num_cycles must be a whole number of 1 or more, got {num_cycles!r}")
        if blocks is not None and not isinstance(blocks, str):
            raise ValueError("blocks must be a path such as 'encoder.layers', or None")
        wrapped = isinstance(model, CycleWrapper) and num_cycles > 1
        if wrapped and blocks not in (None, model.stack_path):
            raise ValueError(
                f"blocks: expected None or the {model.stack_path!r} of the wrapper, got {blocks!r}"
            )
        model = copy.deepcopy(model)
        if num_cycles > 1 and not isinstance(model, CycleWrapper):
            model = CycleWrapper(model, num_cycles, blocks)
        elif num_cycles == 1 and isinstance(model, CycleWrapper):
            model = model.unwrap()
        self.model = model
        self.cycles = {"num_cycles": num_cycles} if num_cycles > 1 else {}
        self.decode = copy.deepcopy(decode)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """Call the model with the plain model's arguments."""
        output = self.model(*inputs, **self.cycles)
        return output if self.decode is None else self.decode(output)


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Outputs by name: the keys of a mapping, `output`, or `output_0` and so on of a sequence.

    Raises:
        TypeError: The output is no tensor and no flat collection of tensors.
    """
    if isinstance(output, Tensor):
        named: dict[str, Any] = {"output": output}
    elif isinstance(output, Mapping):
        named = {str(key): value for key, value in output.items()}
    elif isinstance(output, Sequence):
        named = {f"output_{index}": value for index, value in enumerate(output)}
    else:
        named = {"output": output}
    strange = [name for name, value in named.items() if not isinstance(value, Tensor)]
    if strange or not named:
        found = type(named[strange[0]]).__name__ if strange else "nothing"
        raise TypeError(
            "an exported model must return a tensor, or tensors in a tuple or a dict; "
            f"{strange[0] if strange else 'the output'} is {found}"
        )
    return named

"""Batched cycles: one call of stem and tail for all cycles, and repeated calls of the blocks.

An optimisation of the ordinary calls for models with an expensive stem. The model runs the first
cycle itself, while its call records each block's other arguments. After the last block the later
cycles run: each is a call of the stack alone, with the recorded arguments. The tokens of all cycles
leave the stack in one batch, ``[N * B, T, D]``, so that one call of the model's tail serves all of
them, and its output is split. This equals the ordinary calls only if the model does nothing to the
tokens between its blocks and its tail treats samples independently, which `verify` checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from cycledistill._caches import check_no_cache
from cycledistill._call import CallResult, CycleCall, call_plain
from cycledistill._errors import raise_cycles_did_not_run, raise_own_checkpoint
from cycledistill._output import CycleOutput
from cycledistill._run import CycleRun, RunResult
from cycledistill._split import concatenate, split_output
from cycledistill._tokens import tokens_of


class _BlockCall(NamedTuple):
    """A block, and what it got besides its tokens in the first cycle.

    Attributes:
        block: The block.
        token_name: Keyword of the tokens, or None if they are the first argument.
        args: The other arguments.
        kwargs: The other keyword arguments.
    """

    block: nn.Module
    token_name: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class BatchedRun(CycleRun):
    """All cycles in one call of the model."""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunResult:
        """Call the model once; the later cycles run after its last block."""
        setup = self.setup
        check_no_cache(setup.model, [*args, *kwargs.values()])
        if self.exit_rule is not None and self.exit_rule.confidence is not None:
            raise ValueError(
                "exit_confidence needs the prediction of each cycle before the next one: expected "
                "batched=False, got batched=True"
            )
        call = _FirstCall(self, 1)
        try:
            prediction = call.run(call_plain, self.plain, args, kwargs).prediction
        except (RuntimeError, IndexError) as error:
            if (
                self.keep_all
                and call.stack is not None
                and type(error) in (RuntimeError, IndexError)
            ):
                raise RuntimeError(
                    f"{setup.model} failed after {setup.stack.path!r}, on one batch with the "
                    f"samples of all {self.num_cycles} cycles: {error}. What follows the stack "
                    "must not combine the tokens with tensors of the plain batch; with "
                    "batched=False it may"
                ) from error
            raise
        stack, call.stack = call.stack, None
        if stack is None:
            raise_cycles_did_not_run(setup, self.plain, call.blocks_run)
        tokens = stack.output.tokens
        predictions = (prediction,)
        if self.keep_all:
            predictions = split_output(setup, prediction, tokens, (args, kwargs))
        output = CycleOutput(predictions, tokens)
        return RunResult(output, stack.cycles_run, stack.pruned, stack.sample_cycles)

    def run_stack(self, first: CallResult, calls: list[_BlockCall]) -> RunResult:
        """Run the later cycles; the predictions of the result are the outputs of the stack."""

        def run_cycle(call: CycleCall, others: Any) -> CallResult:
            if call.cycle == 1:
                return first
            tokens, call.new_tokens = call.new_tokens, None
            return call.run_checkpointed(run_blocks, tokens, others)

        def run_blocks(tokens: Tensor, others: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Any:
            output: Any = tokens
            for call, (args, kwargs) in zip(calls, others, strict=True):
                tokens = tokens_of(output)
                if call.token_name is None:
                    output = call.block(tokens, *args, **kwargs)
                else:
                    output = call.block(*args, **{**kwargs, call.token_name: tokens})
            return output

        return self.run_cycles(run_cycle, [(call.args, call.kwargs) for call in calls], False)


@dataclass(eq=False)
class _FirstCall(CycleCall):
    """The call of the model, which runs the first cycle and, after the last block, all others."""

    of_run: BatchedRun

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recorded: list[_BlockCall] = []
        self.stack: RunResult | None = None

    @property
    def checkpoints_blocks(self) -> bool:
        """Whether each block is checkpointed; this cycle cannot be as a whole."""
        return self.setup.activation_checkpointing is not None

    def before_block(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], recomputed: bool
    ) -> None:
        """Record the arguments of a block."""
        super().before_block(index, args, kwargs, recomputed)
        if not recomputed:
            _, name = self.setup.split_tokens(index, args, kwargs)
            others = {key: value for key, value in kwargs.items() if key != name}
            block = self.setup.stack.blocks[index]
            self.recorded.append(_BlockCall(block, name, args if name else args[1:], others))

    def after_block(self, index: int, output: Any, recomputed: bool) -> Any:
        """Run the later cycles after the last block; returns the output of the stack."""
        super().after_block(index, output, recomputed)
        if not self._is_last(index):
            return None
        if recomputed or self.inside_reentrant:
            raise_own_checkpoint(self.setup)
        assert self.tokens_in is not None and self.tokens_out is not None
        recorded, self.recorded = self.recorded, []
        first = CallResult(output, self.tokens_in, self.tokens_out, False)
        self.stack = self.of_run.run_stack(first, recorded)
        outputs = self.stack.output.predictions
        return concatenate(self.setup, outputs) if self.of_run.keep_all else outputs[-1]

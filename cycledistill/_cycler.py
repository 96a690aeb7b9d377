"""Running a recorded block stack again.

The model itself makes the first cycle: it calls its blocks as it always does, while hooks note
what it passes to each of them. When the last block has answered, the later cycles run inside its
hook: every block is called again with its own noted arguments, its first argument being the
tokens of the block before. What the hook returns then goes on into the model's own tail.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.utils.checkpoint import checkpoint

from cycledistill._find import BlockStack
from cycledistill._pass import BlockCall, ForwardPass, Repeated
from cycledistill._refusals import (
    name_of,
    refuse_cache,
    refuse_changed_tokens,
    refuse_infinite,
    refuse_other_shape,
    refuse_second_state,
)
from cycledistill._switch import BlockSwitch
from cycledistill._teacher import TeacherOnly
from cycledistill._tokens import relative_change, tokens_of, version_of, with_tokens
from cycledistill._tree import map_tensors


@dataclass
class CyclerOptions:
    """How the later cycles run; see `CycleWrapper`."""

    activation_checkpointing: str | None
    grad_cycles: int | None
    input_injection: float
    check_finite: bool
    batch_dim: int


class Cycler:
    """Notes the first cycle of a stack and runs the later ones.

    Args:
        model: The plain model, for its name in errors.
        stack: The blocks.
        options: How the later cycles run.
        teacher: Parameters of the later cycles, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: BlockStack,
        options: CyclerOptions,
        teacher: TeacherOnly | None,
    ) -> None:
        self.model = model
        self.stack = stack
        self.options = options
        self.teacher = teacher
        self.switch = BlockSwitch(stack.blocks)
        self.switch.remove()  # what a copied model may have brought along
        self._token_names = [_first_parameter(block) for block in stack.blocks]
        self.current: ForwardPass | None = None
        self._passes: weakref.WeakSet[ForwardPass] = weakref.WeakSet()
        self._repeated = Repeated()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(current=None, _passes=None, _repeated=None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._passes = weakref.WeakSet()
        self._repeated = Repeated()

    def begin(self, forward: ForwardPass) -> None:
        """Start noting."""
        self.current = forward
        forward.differentiable = torch.is_grad_enabled()
        if not torch.compiler.is_compiling():
            forward.first_node = _get_sequence_nr()
            if not forward.apart:
                self._passes.add(forward)
        self.switch.recompute = self.options.activation_checkpointing is not None

    def end(self) -> None:
        """Stop noting, whatever happened."""
        if self.current is not None and not torch.compiler.is_compiling():
            self.current.end_node = _get_sequence_nr()
        self.current = None
        self.switch.recompute = False

    def before_block(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a block's call in the first cycle."""
        forward = self.current
        if forward is None:
            self._note_repeated(index, args, kwargs)
            return
        if forward.cycles_run:  # the later cycles' own calls
            if forward.folded is not None:
                raise ValueError(
                    f"{name_of(self.stack, index)} ran again after the cycles of "
                    f"{self.stack.path!r} were done: a stack that the model runs more than once in "
                    "a forward pass, or in another order than given, cannot be cycled as a whole"
                )
            return
        tokens, call = self._call(index, args, kwargs)
        if not forward.calls:
            forward.entered = tokens
        if not torch.compiler.is_compiling():
            passed = (*call.args, *call.kwargs.values())
            if forward.calls:
                refuse_changed_tokens(self.model, self.stack, forward, index, tokens)
                refuse_second_state(self.stack, forward, index, passed)
            if forward.num_cycles > 1:
                refuse_cache(self.stack, index, passed)
        forward.calls.append(call)

    def after_block(self, index: int, output: Any) -> Any:
        """Run the later cycles behind the last block; returns what leaves the stack, or None."""
        forward = self.current
        last = index == len(self.stack.blocks) - 1
        if forward is None:
            return self._after_repeated(index, output)
        if forward.cycles_run:
            return None
        if not last:
            forward.last_output = output
            forward.last_version = version_of(tokens_of(output))
            return None
        entered, forward.last_output = forward.entered, None
        assert entered is not None
        batch_dim = self.options.batch_dim
        refuse_other_shape(self.model, self.stack, entered, tokens_of(output), batch_dim)
        forward.cycles_run = 1
        forward.grad_at_end = torch.is_grad_enabled()
        if forward.apart:
            forward.last_output = output
            forward.folded = tokens_of(output)
            return None
        if self.options.activation_checkpointing == "cycle":
            self.switch.recompute = False
        result = self._leave(forward, self._run_cycles(forward, output))
        if not self.options.input_injection:
            forward.entered = None
        forward.folded = tokens_of(result)
        return result

    def run_later_cycles(self, forward: ForwardPass) -> list[Tensor]:
        """Run them behind a pass that kept the cycles apart; returns every cycle's tokens."""
        forward.folded = None
        self.current = forward  # its cycles_run makes the hooks pass by
        self.switch.recompute = self.options.activation_checkpointing == "block"
        try:
            outputs = self._run_cycles(forward, forward.last_output)
        finally:
            self.end()
        for states, output in zip(forward.states, outputs[1:], strict=True):
            states[len(self.stack.blocks) - 1] = output
        return [tokens_of(output) for output in outputs]

    def begin_tail(self, forward: ForwardPass, cycle: int) -> None:
        """Make the blocks answer as in a later cycle, for a call of the model's tail."""
        self.current = forward
        self.switch.answers = forward.states[cycle - 2]
        self.switch.answered = False

    def end_tail(self) -> None:
        """Let the blocks run again."""
        self.current = self.switch.answers = None

    def _run_cycles(self, forward: ForwardPass, output: Any) -> list[Any]:
        """What leaves the stack in each cycle, the first one's output being given."""
        options = self.options
        tokens = tokens_of(output)
        forward.token_ndim = tokens.ndim
        forward.batch_size = tokens.shape[options.batch_dim]
        if options.check_finite:
            refuse_infinite(self.stack, tokens, 1)
        outputs = [output]
        cycle = 1
        injected = None
        if options.input_injection and forward.num_cycles > 1:
            injected = self._injected(forward, tokens)
        while cycle < forward.num_cycles:
            cycle += 1
            before = tokens
            output = self._run_cycle(forward, before, injected, cycle)
            tokens = tokens_of(output)
            if tokens.shape != before.shape:
                raise ValueError(
                    f"cycle {cycle} of {self.stack.path!r} turned tokens {list(before.shape)} into "
                    f"{list(tokens.shape)}; from the second cycle on the shape must stay"
                )
            if options.check_finite:
                refuse_infinite(self.stack, tokens, cycle)
            outputs.append(output)
            if forward.exit_tolerance is not None:
                change = relative_change(before, tokens, options.batch_dim)
                if change < forward.exit_tolerance:
                    break
        forward.cycles_run = cycle
        return outputs

    def _leave(self, forward: ForwardPass, outputs: list[Any]) -> Any:
        """What the model's tail gets to see of the cycles' outputs."""
        if not forward.keep_all:
            return outputs[-1]
        if len(outputs) == 1:
            return self._touch_teacher(outputs[0])
        return self._fold(outputs, forward.batch_size)

    def _run_cycle(
        self, forward: ForwardPass, tokens: Tensor, injected: Tensor | None, cycle: int
    ) -> Any:
        calls = forward.calls
        whole = self.options.activation_checkpointing == "cycle" and torch.is_grad_enabled()
        states: dict[int, Any] = {}
        if forward.apart:
            forward.states.append(states)
        grad_cycles = self.options.grad_cycles
        if grad_cycles is not None and (cycle - 1) % grad_cycles == 0:
            tokens = tokens.detach()

        def run(tokens: Tensor) -> Any:
            if injected is not None:
                tokens = tokens + self.options.input_injection * injected
            if self.teacher is not None:
                tokens = self.teacher.enter(tokens, cycle)
            output: Any = tokens
            for call in calls:
                output = call.run(tokens)
                left = tokens_of(output)
                if self.teacher is not None:
                    left = self.teacher.adapt(tokens, left, cycle, call.index)
                    output = with_tokens(output, left)
                if forward.apart and not whole:
                    states[call.index] = output
                tokens = left
            return output

        def run_alone(tokens: Tensor) -> Any:
            if torch.compiler.is_compiling() or self.current is not None:
                return run(tokens)
            outer = self._repeated, self.switch.recompute
            self._repeated, self.switch.recompute = Repeated(inside_cycle=True), False
            try:
                return run(tokens)
            finally:
                self._repeated, self.switch.recompute = outer

        if whole:
            return checkpoint(run_alone, tokens, use_reentrant=False)
        return run(tokens)

    def _fold(self, outputs: list[Any], batch_size: int) -> Any:
        token_ndim = tokens_of(outputs[0]).ndim

        def fold(*cycles: Tensor) -> Tensor:
            dim = self.options.batch_dim if cycles[0].ndim == token_ndim else 0
            if cycles[0].ndim > dim and cycles[0].shape[dim] == batch_size:
                return torch.cat(cycles, dim)
            return cycles[-1]

        return map_tensors(fold, outputs[0], *outputs[1:])

    def _touch_teacher(self, output: Any) -> Any:
        """With one cycle, give teacher-only parameters the zero gradient that DDP waits for."""
        if self.teacher is None or not torch.is_grad_enabled():
            return output
        tokens = tokens_of(output)
        return with_tokens(output, tokens + self.teacher.zero().to(tokens.dtype))

    def _injected(self, forward: ForwardPass, tokens: Tensor) -> Tensor:
        entered = forward.entered
        assert entered is not None
        if entered.shape != tokens.shape:
            raise ValueError(
                f"input_injection adds the stack's input {list(entered.shape)} to later cycles' "
                f"tokens {list(tokens.shape)}: the shapes must be equal (a pruned stack cannot)"
            )
        return entered

    def _note_repeated(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a block's call that is none of a pass's own.

        A model that checkpoints its blocks calls them again in the backward pass. Which pass it
        repeats follows from the autograd node that asks for it.
        """
        if torch.compiler.is_compiling() or self._repeated.inside_cycle:
            return
        node = torch._C._current_autograd_node()
        if node is None:
            self._repeated = Repeated()
            self.switch.recompute = False
            return
        number = node._sequence_nr()
        cause = (torch._C._current_graph_task_id(), number)
        if cause != self._repeated.cause:
            passes = (p for p in self._passes if p.first_node <= number < p.end_node)
            self._repeated = Repeated(cause, next(passes, None))
        if self._repeated.forward is not None:
            self._repeated.calls[index] = self._call(index, args, kwargs)[1]
            self.switch.recompute = self.options.activation_checkpointing is not None

    def _after_repeated(self, index: int, output: Any) -> Any:
        forward = self._repeated.forward
        if forward is None or torch.compiler.is_compiling() or self._repeated.inside_cycle:
            return None
        if index < len(self.stack.blocks) - 1:
            return None
        repeated, self._repeated.forward = self._repeated.calls, None
        calls = forward.calls
        forward.calls = [repeated.get(call.index, call) for call in calls]
        self.switch.recompute = self.options.activation_checkpointing == "block"
        self.current = forward  # its cycles_run makes the hooks of the later cycles' calls pass by
        try:
            return self._leave(forward, self._run_cycles(forward, output))
        finally:  # checkpoints of blocks in later cycles may be repeated next
            self.current = None
            forward.calls = calls

    def _call(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, BlockCall]:
        tokens, name = self._tokens_in(index, args, kwargs)
        if name is None:
            args = args[1:]
        else:
            kwargs = {key: value for key, value in kwargs.items() if key != name}
        return tokens, BlockCall(index, self.stack.blocks[index], args, kwargs, name)

    def _tokens_in(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, str | None]:
        if args:
            if isinstance(args[0], Tensor):
                return args[0], None
            found = type(args[0]).__name__
        else:
            for name in (self._token_names[index], *kwargs):
                if isinstance(kwargs.get(name), Tensor):
                    return kwargs[name], name
            found = "no tensor"
        raise TypeError(
            f"{name_of(self.stack, index)} got {found} where its tokens were expected: a block "
            "must take them as its first argument, a tensor"
        )


def _first_parameter(block: nn.Module) -> str:
    return next(iter(inspect.signature(block.forward).parameters), "")

"""Running a recorded block stack again.

The model itself makes the first cycle: it calls its blocks as it always does, while hooks note
what it passes to each of them. When the last block has answered, the later cycles run inside its
hook: every block is called again with its own noted arguments, its first argument being the
tokens of the block before. What the hook returns then goes on into the model's own tail.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.utils.checkpoint import checkpoint

from cycledistill._find import BlockStack, stacks_within
from cycledistill._recompute import BlockRecompute
from cycledistill._teacher import TeacherOnly
from cycledistill._tree import map_tensors


@dataclass
class BlockCall:
    """One block and what it got beside the tokens."""

    index: int
    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    token_name: str | None

    def run(self, tokens: Tensor) -> Any:
        """Call the block again on other tokens."""
        if self.token_name is None:
            return self.block(tokens, *self.args, **self.kwargs)
        return self.block(*self.args, **{self.token_name: tokens}, **self.kwargs)


@dataclass(eq=False)
class ForwardPass:
    """What one forward pass of the wrapper notes.

    Attributes:
        num_cycles: Cycles asked for.
        keep_all: Whether all cycles' tokens leave the stack (folded into the batch), or the last's.
        exit_tolerance: Stop once the tokens' relative change falls below this.
        calls: The blocks that the model called, in order.
        folded: The tokens that left the stack.
        cycles_run: Cycles that ran.
        batch_size: Samples in one cycle.
        token_ndim: Dimensions of the tokens.
        first_node: Sequence number of the first autograd node that the pass made.
        end_node: Sequence number behind that of its last node.
        differentiable: Whether gradients were on when the pass began.
        grad_at_end: Whether they were on at the stack's end (not inside a reentrant checkpoint).
        later_norm_inputs: The later cycles' share of what a batch norm behind the stack got.
    """

    num_cycles: int
    keep_all: bool
    exit_tolerance: float | None = None
    calls: list[BlockCall] = field(default_factory=list)
    entered: Tensor | None = None
    last_output: Any = None
    last_version: int | None = None
    folded: Tensor | None = None
    cycles_run: int = 0
    batch_size: int = 0
    token_ndim: int = 0
    first_node: int = 0
    end_node: int = 0
    differentiable: bool = False
    grad_at_end: bool = False
    later_norm_inputs: tuple[Tensor, ...] = ()


@dataclass
class Repeated:
    """What a checkpoint of the model's own runs again in the backward pass.

    Attributes:
        cause: Graph task and autograd node that asked for it.
        forward: The pass that is repeated, until its cycles have been.
        calls: The blocks' calls, by index.
        inside_cycle: Whether it is but a cycle that we checkpoint ourselves.
    """

    cause: tuple[int, int] | None = None
    forward: ForwardPass | None = None
    calls: dict[int, BlockCall] = field(default_factory=dict)
    inside_cycle: bool = False


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
        self._token_names = [_first_parameter(block) for block in stack.blocks]
        self.current: ForwardPass | None = None
        self.recompute = BlockRecompute(stack.blocks)
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
            self._passes.add(forward)
        self.recompute.active = self.options.activation_checkpointing is not None

    def end(self) -> None:
        """Stop noting, whatever happened."""
        if self.current is not None and not torch.compiler.is_compiling():
            self.current.end_node = _get_sequence_nr()
        self.current = None
        self.recompute.active = False

    def before_block(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a block's call in the first cycle."""
        forward = self.current
        if forward is None:
            self._note_repeated(index, args, kwargs)
            return
        if forward.cycles_run:  # the later cycles' own calls
            if forward.folded is not None:
                raise ValueError(
                    f"{self._name(index)} ran again after the cycles of {self.stack.path!r} were "
                    "done: a stack that the model runs more than once in a forward pass, or in "
                    "another order than given, cannot be cycled as a whole"
                )
            return
        tokens, call = self._call(index, args, kwargs)
        if not forward.calls:
            forward.entered = tokens
        else:
            self._check_passed_on(forward, index, tokens, args, kwargs)
        if forward.num_cycles > 1 and not torch.compiler.is_compiling():
            self._check_no_cache(index, (*call.args, *call.kwargs.values()))
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
            forward.last_version = _version_of(_tokens_of(output))
            return None
        entered, forward.entered, forward.last_output = forward.entered, None, None
        assert entered is not None
        self._check_shape(entered, _tokens_of(output))
        forward.cycles_run = 1
        forward.grad_at_end = torch.is_grad_enabled()
        if self.options.activation_checkpointing == "cycle":
            self.recompute.active = False
        result, forward.cycles_run = self._run_cycles(forward, output, entered)
        forward.folded = _tokens_of(result)
        return result

    def _run_cycles(
        self, forward: ForwardPass, output: Any, entered: Tensor | None = None
    ) -> tuple[Any, int]:
        options = self.options
        tokens = _tokens_of(output)
        forward.token_ndim = tokens.ndim
        forward.batch_size = tokens.shape[options.batch_dim]
        if options.check_finite:
            self._check_finite(tokens, 1)
        outputs = [output]
        cycle = 1
        injected = None
        if options.input_injection and forward.num_cycles > 1:
            injected = self._injected(forward, entered, tokens)
        while cycle < forward.num_cycles:
            cycle += 1
            before = tokens
            output = self._run_cycle(forward, before, injected, cycle)
            tokens = _tokens_of(output)
            if tokens.shape != before.shape:
                raise ValueError(
                    f"cycle {cycle} of {self.stack.path!r} turned tokens {list(before.shape)} into "
                    f"{list(tokens.shape)}; from the second cycle on the shape must stay"
                )
            if options.check_finite:
                self._check_finite(tokens, cycle)
            outputs.append(output)
            if forward.exit_tolerance is not None:
                change = _relative_change(before, tokens, options.batch_dim)
                if change < forward.exit_tolerance:
                    break
        if not forward.keep_all:
            return outputs[-1], cycle
        if len(outputs) == 1:
            return self._touch_teacher(output), cycle
        return self._fold(outputs, forward.batch_size), cycle

    def _run_cycle(
        self, forward: ForwardPass, tokens: Tensor, injected: Tensor | None, cycle: int
    ) -> Any:
        calls = forward.calls
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
                left = _tokens_of(output)
                if self.teacher is not None:
                    left = self.teacher.adapt(tokens, left, cycle, call.index)
                    output = _with_tokens(output, left)
                tokens = left
            return output

        def run_apart(tokens: Tensor) -> Any:
            if torch.compiler.is_compiling() or self.current is not None:
                return run(tokens)
            outer = self._repeated, self.recompute.active
            self._repeated, self.recompute.active = Repeated(inside_cycle=True), False
            try:
                return run(tokens)
            finally:
                self._repeated, self.recompute.active = outer

        if self.options.activation_checkpointing == "cycle" and torch.is_grad_enabled():
            return checkpoint(run_apart, tokens, use_reentrant=False)
        return run(tokens)

    def _fold(self, outputs: list[Any], batch_size: int) -> Any:
        token_ndim = _tokens_of(outputs[0]).ndim

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
        tokens = _tokens_of(output)
        return _with_tokens(output, tokens + self.teacher.zero().to(tokens.dtype))

    def _injected(self, forward: ForwardPass, entered: Tensor | None, tokens: Tensor) -> Tensor:
        if entered is None:  # recomputation: the first cycle's input was kept for this
            entered = forward.entered
        assert entered is not None
        if entered.shape != tokens.shape:
            raise ValueError(
                f"input_injection adds the stack's input {list(entered.shape)} to later cycles' "
                f"tokens {list(tokens.shape)}: the shapes must be equal (a pruned stack cannot)"
            )
        forward.entered = entered
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
            self.recompute.active = False
            return
        number = node._sequence_nr()
        cause = (torch._C._current_graph_task_id(), number)
        if cause != self._repeated.cause:
            passes = (p for p in self._passes if p.first_node <= number < p.end_node)
            self._repeated = Repeated(cause, next(passes, None))
        if self._repeated.forward is not None:
            self._repeated.calls[index] = self._call(index, args, kwargs)[1]
            self.recompute.active = self.options.activation_checkpointing is not None

    def _after_repeated(self, index: int, output: Any) -> Any:
        forward = self._repeated.forward
        if forward is None or torch.compiler.is_compiling() or self._repeated.inside_cycle:
            return None
        if index < len(self.stack.blocks) - 1:
            return None
        repeated, self._repeated.forward = self._repeated.calls, None
        calls = forward.calls
        forward.calls = [repeated.get(call.index, call) for call in calls]
        self.recompute.active = self.options.activation_checkpointing == "block"
        self.current = forward  # its cycles_run makes the hooks of the later cycles' calls pass by
        try:
            return self._run_cycles(forward, output)[0]
        finally:
            self.current = None
            self.recompute.active = False
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
            f"{self._name(index)} got {found} where its tokens were expected: a block must take "
            "them as its first argument, a tensor"
        )

    def _check_no_cache(self, index: int, passed: tuple[Any, ...]) -> None:
        for value in passed:
            if not isinstance(value, Tensor) and hasattr(value, "get_seq_length"):
                raise ValueError(
                    f"{self._name(index)} got a key-value cache ({type(value).__name__}), which "
                    "every cycle would make longer: call the model with use_cache=False"
                )

    def _check_passed_on(
        self,
        forward: ForwardPass,
        index: int,
        tokens: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if torch.compiler.is_compiling():
            return
        previous = forward.calls[-1].index
        output = forward.last_output
        if not _unchanged(_tokens_of(output), forward.last_version, tokens):
            raise ValueError(
                f"{type(self.model).__name__} changes the tokens between {self._name(previous)} "
                f"and {self._name(index)}. A cycle repeats only what the blocks themselves do: "
                "move the change into a block, or cycle a part of the stack with blocks='path.a:b'"
            )
        if isinstance(output, (tuple, list)) and len(forward.calls) > 1:
            inputs = (*forward.calls[-1].args, *forward.calls[-1].kwargs.values())
            passed = (*args[1:], *kwargs.values())
            for extra in output[1:]:
                if (
                    isinstance(extra, Tensor)
                    and any(extra is value for value in passed)
                    and not any(extra is value for value in inputs)
                ):
                    raise ValueError(
                        f"{self._name(previous)} hands more than tokens to {self._name(index)} (a "
                        f"second tensor of shape {list(extra.shape)} that every block changes); "
                        "only one sequence of tokens can be cycled"
                    )

    def _check_shape(self, entered: Tensor, left: Tensor) -> None:
        same = entered.ndim == left.ndim and all(
            a == b or (entered.ndim == 3 and dim == 1 - self.options.batch_dim and b < a)
            for dim, (a, b) in enumerate(zip(entered.shape, left.shape, strict=True))
        )
        if same:
            return
        inner = stacks_within(self.model, prefix=self.stack.path)
        inner = [stack for stack in inner if stack.path != self.stack.path]
        hint = (
            f" Stages within it that could be cycled: {', '.join(repr(s.path) for s in inner)}."
            if inner
            else ""
        )
        raise ValueError(
            f"the stack {self.stack.path!r} of {type(self.model).__name__} turns tokens "
            f"{list(entered.shape)} into {list(left.shape)}; cycling needs the output's shape to "
            f"be the input's.{hint}"
        )

    def _check_finite(self, tokens: Tensor, cycle: int) -> None:
        if torch.isfinite(tokens).all():
            return
        bad = int((~torch.isfinite(tokens)).sum())
        raise FloatingPointError(
            f"cycle {cycle} of {self.stack.path!r} gave {bad} of {tokens.numel()} token values "
            "that are NaN or infinite"
        )

    def _name(self, index: int) -> str:
        return f"block {index} ({type(self.stack.blocks[index]).__name__})"


def _first_parameter(block: nn.Module) -> str:
    return next(iter(inspect.signature(block.forward).parameters), "")


def _tokens_of(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        elif isinstance(output, dict) and output:
            output = next(iter(output.values()))
        else:
            raise TypeError(
                "a block must return its tokens as a tensor, or first in a tuple; got "
                f"{type(output).__name__}"
            )
    return output


def _with_tokens(output: Any, tokens: Tensor) -> Any:
    replaced = False

    def first(tensor: Tensor) -> Tensor:
        nonlocal replaced
        if replaced:
            return tensor
        replaced = True
        return tokens

    return map_tensors(first, output)


def _version_of(tensor: Tensor) -> int | None:
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return tensor._version


def _unchanged(left: Tensor, version: int | None, entered: Tensor) -> bool:
    """Whether the tokens that enter a block are those that left the one before.

    Checkpointing and sharding pass on an alias, not the object itself.
    """
    if type(left) is not Tensor or type(entered) is not Tensor:
        return True
    alias = left is entered or (
        left.data_ptr() == entered.data_ptr()
        and left.shape == entered.shape
        and left.stride() == entered.stride()
    )
    return alias and (version is None or version == _version_of(entered))


def _relative_change(before: Tensor, after: Tensor, batch_dim: int) -> float:
    """Largest relative change of any sample's tokens."""
    dims = [dim for dim in range(before.ndim) if dim != batch_dim]
    change = torch.linalg.vector_norm((after - before).float(), dim=dims)
    size = torch.linalg.vector_norm(before.float(), dim=dims)
    return float((change / size.clamp_min(torch.finfo(torch.float32).tiny)).max())

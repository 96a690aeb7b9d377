"""CycleWrapper: any model with a block stack, cycled in training, plain in use."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cycledistill._cycler import Cycler, CyclerOptions
from cycledistill._find import find_stack
from cycledistill._hooks import attach, comes_last, detach_copies
from cycledistill._independence import refuse_mixed_cycles
from cycledistill._output import CycleOutput
from cycledistill._pass import ForwardPass
from cycledistill._refusals import refuse_constant_tokens, refuse_labels
from cycledistill._split import split_output
from cycledistill._teacher import TeacherOnly, find_token_dim

_TEACHER = "cycle_teacher"
_wrappers: weakref.WeakKeyDictionary[nn.Module, weakref.ref[CycleWrapper]] = (
    weakref.WeakKeyDictionary()
)


class CycleWrapper(nn.Module):
    """Pass a model's tokens through its own blocks several times while it trains.

    >>> import torch
    >>> from torch import nn
    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> model = nn.TransformerEncoder(layer, num_layers=3, enable_nested_tensor=False)
    >>> cycled = CycleWrapper(model, num_cycles=2)
    >>> out = cycled(torch.randn(4, 5, 8))
    >>> [tuple(tokens.shape) for tokens in out.tokens]
    [(4, 5, 8), (4, 5, 8)]
    >>> tuple(cycled.eval()(torch.randn(4, 5, 8)).shape)
    (4, 5, 8)
    >>> cycled.unwrap() is model
    True

    The Multi-Cycled Transformer of SDPose (arXiv 2404.03518, section 3.1) for any model. In
    training the model makes the first cycle itself, and hooks note what it passes to each block.
    Behind the last block the hooks call the blocks again, each with its own noted arguments, so
    that masks, position embeddings and the like reach every cycle. The tokens of all cycles leave
    the stack folded into the batch, `[N * B, T, D]`: the model's own norm and head serve all
    cycles in one call, and the wrapper splits what comes out. Nothing of the model is replaced or
    renamed: ``state_dict()``, the names of parameters, and every attribute are the plain model's,
    and in eval mode there are no hooks, so that the output is bit-equal to the plain model's.

    The model must hand each block its tokens as the first argument and must not change them
    between blocks, and what follows the stack must treat samples independently (or be called once
    for each cycle, with ``head_per_cycle=True``). Where this does not hold, an error says so;
    cycles that did not run are an error too.

    Args:
        model: A model with a block stack, or the bare stack (``nn.Sequential``,
            ``nn.ModuleList``). It is used as it is, not copied.
        num_cycles: Cycles N in training, 1 or more. May be assigned to later.
        blocks: The stack: ``None`` (found: the longest run of same-shaped siblings under the usual
            names, or else the only list of one block), a dotted path (``"encoder.layers"``), a
            slice of one (``"blocks.4:12"``, counted from 0, end excluded) or a list of modules.
        min_cycles: If given, each training step draws its number of cycles uniformly from
            ``min_cycles..num_cycles`` with torch's global CPU generator.
        activation_checkpointing: ``"block"`` keeps each block's input alone, in every cycle, and
            computes the rest again in the backward pass; ``"cycle"`` keeps each block's input in
            the first cycle and the cycle's input in the others. ``None`` keeps everything.
        grad_cycles: Truncated back-propagation: gradients pass through at most this many
            consecutive cycles (cycles 1..k, k+1..2k, ... are cut from each other).
        input_injection: This factor times the tokens that entered the stack is added to the
            tokens that enter each later cycle.
        cycle_embedding: Learn a vector for each later cycle, added to the tokens that enter it.
            Teacher-only: zero at first, dropped by ``unwrap``.
        adapter_rank: Rank of low-rank adapters beside every block in the later cycles, 0 for none.
            Teacher-only.
        token_dim: Channels D of the tokens, where the teacher-only options cannot read it off.
        head_per_cycle: Run what follows the stack once for each cycle, instead of once with all
            cycles in one batch. For a tail that mixes samples (batch norms in training), or that
            counts on the plain batch (it reshapes by a batch size taken before the stack, uses a
            mask of the input, adds the stack's input). For each later cycle the model is called
            again while its blocks answer with that cycle's outputs, so what stands before the
            stack runs again too (its batch norms do not count twice).
        check_finite: Raise ``FloatingPointError`` with the cycle at which tokens became NaN or
            infinite. Costs a synchronisation for each cycle.
        batch_dim: Batch dimension of the tokens: 0, or 1 for `[T, B, D]`. ``None``: 1 where the
            blocks hold an ``nn.MultiheadAttention`` with ``batch_first=False``, else 0.

    Raises:
        ValueError: No stack, or more than one, was found, or an argument is out of range.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        num_cycles: int = 2,
        blocks: str | Sequence[nn.Module] | None = None,
        *,
        min_cycles: int | None = None,
        activation_checkpointing: str | None = None,
        grad_cycles: int | None = None,
        input_injection: float = 0.0,
        cycle_embedding: bool = False,
        adapter_rank: int = 0,
        token_dim: int | None = None,
        head_per_cycle: bool = False,
        check_finite: bool = False,
        batch_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        _check_no_wrapper_within(model)
        _check_count("num_cycles", num_cycles)
        if min_cycles is not None:
            _check_count("min_cycles", min_cycles)
            if min_cycles > num_cycles:
                raise ValueError(f"min_cycles={min_cycles} is above num_cycles={num_cycles}")
        if grad_cycles is not None:
            _check_count("grad_cycles", grad_cycles)
        if activation_checkpointing not in (None, "block", "cycle"):
            raise ValueError(
                "activation_checkpointing must be None, 'block' or 'cycle', got "
                f"{activation_checkpointing!r}"
            )
        if adapter_rank < 0:
            raise ValueError(f"adapter_rank must be 0 or more, got {adapter_rank}")
        if batch_dim not in (None, 0, 1):
            raise ValueError(f"batch_dim must be None, 0 or 1, got {batch_dim}")
        stack = find_stack(model, blocks)
        _check_not_wrapped(model, stack.blocks)
        self.model = model
        self.num_cycles = num_cycles
        self.min_cycles = min_cycles
        self.head_per_cycle = head_per_cycle
        self.stack_path = stack.path
        self.cycles_run = 0
        self._tail_checked = False
        self._labels_position = _position_of("labels", model)
        teacher = None
        if (cycle_embedding or adapter_rank) and num_cycles > 1:
            width = token_dim if token_dim is not None else find_token_dim(model, stack.blocks)
            teacher = TeacherOnly(
                num_cycles, len(stack.blocks), width, cycle_embedding, adapter_rank
            )
            self.add_module(_TEACHER, teacher)
        options = CyclerOptions(
            activation_checkpointing,
            grad_cycles,
            input_injection,
            check_finite,
            _find_batch_dim(stack.blocks) if batch_dim is None else batch_dim,
        )
        self._cycler = Cycler(model, stack, options, teacher)
        self._handles: list[RemovableHandle] = []
        self._attached = False
        self.training = model.training
        detach_copies(model)
        _wrappers[model] = weakref.ref(self)
        self._attach(self.training)

    def forward(
        self,
        *args: Any,
        num_cycles: int | None = None,
        exit_tolerance: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the model.

        Args:
            *args: The plain model's arguments.
            num_cycles: Cycles of this call. In training the default is the wrapper's
                ``num_cycles`` (or a random number, with ``min_cycles``), in eval mode 1.
            exit_tolerance: Eval mode only: stop cycling once no sample's tokens change by more
                than this part of their norm. ``cycled.cycles_run`` tells how many cycles ran.
            **kwargs: The plain model's keyword arguments.

        Returns:
            In training a `CycleOutput`; in eval mode the plain model's own output, made from the
            last cycle's tokens.
        """
        if self.training:
            if exit_tolerance is not None:
                raise ValueError("exit_tolerance is for eval mode; this wrapper is in training")
            return self._collect(self._cycles(num_cycles), args, kwargs)
        cycles = 1 if num_cycles is None else num_cycles
        _check_count("num_cycles", cycles)
        if cycles == 1:
            self.cycles_run = 1
            return self._call_model(*args, **kwargs)
        forward = ForwardPass(cycles, keep_all=False, exit_tolerance=exit_tolerance)
        return self._run(forward, args, kwargs)

    def forward_cycles(
        self, *args: Any, num_cycles: int | None = None, **kwargs: Any
    ) -> CycleOutput:
        """All cycles' predictions and tokens in one pass, in training and in eval mode."""
        cycles = self.num_cycles if num_cycles is None else num_cycles
        _check_count("num_cycles", cycles)
        return self._collect(cycles, args, kwargs)

    def unwrap(self) -> nn.Module:
        """Take everything of ours off the model and return it: the very object that came in.

        Teacher-only parameters are dropped. The wrapper cannot be used afterwards.
        """
        model = self.model
        self._attach(False)
        _wrappers.pop(model, None)
        del self._modules["model"]
        del self._cycler
        self._modules.pop(_TEACHER, None)
        return model

    def train(self, mode: bool = True) -> CycleWrapper:
        """Switch to training (cycles) or, with ``mode=False``, to use (one plain pass)."""
        super().train(mode)
        if "_cycler" in self.__dict__:
            self._attach(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The plain model's state: its keys, nothing else."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a plain model's state."""
        return self.model.load_state_dict(state_dict, strict=strict, assign=assign)

    def teacher_state_dict(self) -> dict[str, Tensor]:
        """The teacher-only parameters, which `state_dict` leaves out; empty without any."""
        teacher = self._modules.get(_TEACHER)
        return {} if teacher is None else teacher.state_dict()

    def load_teacher_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load what `teacher_state_dict` gave, for resuming a training run."""
        teacher = self._modules.get(_TEACHER)
        if teacher is not None:
            teacher.load_state_dict(state_dict)
        elif state_dict:
            raise ValueError(
                f"this wrapper has no teacher-only parameters, the state holds {list(state_dict)}"
            )

    def named_modules(
        self,
        memo: set[nn.Module] | None = None,
        prefix: str = "",
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, nn.Module]]:
        """The plain model's modules under their own names, then the teacher-only ones.

        Names of parameters follow from this, so that rules that go by name (no weight decay for
        ``pos_embed``, layer-wise learning rates) work as on the plain model.
        """
        memo = set() if memo is None else memo
        if remove_duplicate and self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                below = prefix if name == "model" else f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def extra_repr(self) -> str:
        """What stands in the wrapper's ``repr``."""
        return f"num_cycles={self.num_cycles}, blocks={self.stack_path!r}"

    def _fqn_modifiers(self) -> dict[str, str]:
        """Tell torch.distributed.checkpoint that no key of the state says "model"."""
        return {"model": "model"}

    def _cycles(self, num_cycles: int | None) -> int:
        if num_cycles is not None:
            _check_count("num_cycles", num_cycles)
            return num_cycles
        _check_count("num_cycles", self.num_cycles)
        if self.min_cycles is None:
            return self.num_cycles
        return _draw_cycles(min(self.min_cycles, self.num_cycles), self.num_cycles)

    def _collect(self, cycles: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CycleOutput:
        if self.head_per_cycle and cycles > 1:
            return self._collect_apart(cycles, args, kwargs)
        refuse_labels(self._labels_position, args, kwargs)
        forward = ForwardPass(cycles, keep_all=True)
        output = self._run(forward, args, kwargs)
        tokens = forward.folded
        assert tokens is not None
        stack, batch_dim = self._cycler.stack, self._cycler.options.batch_dim
        refuse_constant_tokens(self.model, stack, forward, tokens)
        if not torch.compiler.is_compiling() and tokens.grad_fn is not None:
            forward.folded = None
            metadata: Any = tokens.grad_fn.metadata
            metadata["cycledistill"] = forward
        if forward.cycles_run == 1:
            return CycleOutput((output,), (tokens,))
        predictions = split_output(self.model, stack, forward, output, (args, kwargs), batch_dim)
        checkable = forward.differentiable and tokens.requires_grad
        if checkable and not self._tail_checked and not torch.compiler.is_compiling():
            self._tail_checked = True
            refuse_mixed_cycles(self.model, stack, forward, predictions[-1], tokens, batch_dim)
        sizes = [forward.batch_size] * forward.cycles_run
        return CycleOutput(predictions, tokens.split(sizes, batch_dim))

    def _collect_apart(
        self, cycles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> CycleOutput:
        """Call the model for the first cycle, then its tail for each of the others."""
        attached = self._attached
        if not attached:
            self._attach(True)
        try:
            forward = ForwardPass(cycles, keep_all=True, apart=True)
            predictions = [self._run(forward, args, kwargs)]
            assert forward.folded is not None
            refuse_constant_tokens(self.model, self._cycler.stack, forward, forward.folded)
            tokens = self._cycler.run_later_cycles(forward)
            for cycle in range(2, cycles + 1):
                self._cycler.begin_tail(forward, cycle)
                try:
                    predictions.append(self._call_model(*args, **kwargs))
                finally:
                    self._cycler.end_tail()
        finally:
            if not attached:
                self._attach(False)
        self.cycles_run = cycles
        return CycleOutput(tuple(predictions), tuple(tokens))

    def _run(self, forward: ForwardPass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        attached = self._attached  # a bool: compilation cannot look at handles
        if not attached:
            self._attach(True)
        elif not torch.compiler.is_compiling() and not comes_last(self._cycler.stack.blocks[-1]):
            self._attach(False)
            self._attach(True)
        self._cycler.begin(forward)
        try:
            output = self._call_model(*args, **kwargs)
        except (RuntimeError, IndexError) as error:
            ours = type(error) not in (RuntimeError, IndexError)
            folded = forward.folded is not None and forward.cycles_run > 1
            if not ours and folded and forward.keep_all:
                raise RuntimeError(
                    f"{type(self.model).__name__} failed behind {self.stack_path!r}, where the "
                    f"samples of all {forward.cycles_run} cycles come in one batch of "
                    f"{forward.cycles_run} x {forward.batch_size}: {error}. What follows the stack "
                    "must not combine the tokens with something of the plain batch; with "
                    "head_per_cycle=True it may"
                ) from error
            raise
        finally:
            self._cycler.end()
            if not attached:
                self._attach(False)
        if forward.folded is None:
            called = sorted({call.index for call in forward.calls})
            raise RuntimeError(
                f"the cycles did not run: {type(self.model).__name__} did not call the last of the "
                f"{len(self._cycler.stack.blocks)} blocks of {self.stack_path!r} (it called "
                f"{called or 'none'}). Were the blocks replaced after wrapping, or does the model "
                "skip some in training?"
            )
        self.cycles_run = forward.cycles_run
        return output

    def _call_model(self, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self.model, nn.ModuleList):
            return self.model(*args, **kwargs)
        tokens, *rest = args
        for block in self.model:
            output = block(tokens, *rest, **kwargs)
            tokens = output if isinstance(output, Tensor) else output[0]
        return tokens

    def _attach(self, on: bool) -> None:
        if on and not self._attached:
            self._handles = attach(self.model, self._cycler, self.head_per_cycle)
            if self.head_per_cycle or self._cycler.options.activation_checkpointing is not None:
                self._cycler.switch.install()
        elif not on:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            self._cycler.switch.remove()
        self._attached = on

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}model.{key[len(prefix) :]}"] = state_dict.pop(key)
        for key, value in self.teacher_state_dict().items():
            state_dict[f"{prefix}{_TEACHER}.{key}"] = value
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = self.__dict__.get("_modules", {}).get("model")
            if model is None:
                if name in ("model", "_cycler"):
                    raise RuntimeError(
                        "this CycleWrapper was unwrapped; wrap the model again to cycle it"
                    ) from None
                raise
            return getattr(model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        model = self.__dict__.get("_modules", {}).get("model")
        own = name in self.__dict__ or name in ("model", _TEACHER) or hasattr(type(self), name)
        private = name.startswith("_")  # what frameworks note on the wrapper itself
        if own or private or model is None or not hasattr(model, name):
            super().__setattr__(name, value)
        else:
            setattr(model, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__ or name in self._modules:
            super().__delattr__(name)
        else:
            delattr(self.model, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_handles": [], "_attached": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "model" in self._modules:
            detach_copies(self.model)
            _wrappers[self.model] = weakref.ref(self)
            self._attach(self.training)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")


def _check_no_wrapper_within(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, CycleWrapper):
            where = f"its module {name!r}" if name else "it"
            raise ValueError(
                f"cannot wrap {type(model).__name__}: {where} is a CycleWrapper already. "
                "Call unwrap() first"
            )


def _check_not_wrapped(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    for other, known in list(_wrappers.items()):
        wrapper = known()
        if wrapper is None:
            continue
        if other is model or not set(blocks).isdisjoint(wrapper._cycler.stack.blocks):
            part = "this" if other is model else "a part of this"
            raise ValueError(
                f"{part} {type(model).__name__} is inside another CycleWrapper. Call its unwrap() "
                "first, or assign to its num_cycles"
            )


def _position_of(name: str, model: nn.Module) -> int | None:
    names = list(inspect.signature(model.forward).parameters)
    return names.index(name) if name in names else None


def _find_batch_dim(blocks: Sequence[nn.Module]) -> int:
    attention = [
        module
        for block in blocks
        for module in block.modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    return int(bool(attention) and not any(module.batch_first for module in attention))


def _draw_cycles(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))

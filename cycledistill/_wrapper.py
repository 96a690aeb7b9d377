"""CycleWrapper: any model with a block stack, cycled in training, plain in use."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cycledistill._batched import BatchedPass
from cycledistill._calls import call_plain, run_ordinary_calls
from cycledistill._facade import PLAIN, TEACHER, Facade
from cycledistill._find import find_stack
from cycledistill._hooks import Attachment, NoFastPath, detach_copies, detach_stale
from cycledistill._output import CycleOutput
from cycledistill._setup import Setup, find_batch_dim, first_parameter
from cycledistill._teacher import TeacherOnly, find_token_dim
from cycledistill._verify import Verification, compare

_wrappers: weakref.WeakKeyDictionary[nn.Module, weakref.ref[CycleWrapper]] = (
    weakref.WeakKeyDictionary()
)


class CycleWrapper(Facade):
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

    The Multi-Cycled Transformer of SDPose (arXiv 2404.03518, section 3.1) for any model. The
    prediction of cycle k is what the model itself returns when the tokens that enter its first
    block are those that left its last block in cycle k - 1. In training the model is therefore
    called N times; hooks on its blocks hand the tokens in and note them, and whatever the model
    does between, beside and behind its blocks is its own. In eval mode it is called once, without
    hooks, and its output is bit-equal to the plain model's. Nothing of it is replaced or renamed:
    ``state_dict()``, the names of parameters, attributes and the signature of ``forward`` are the
    plain model's, which is ``cycled.plain``.

    With ``batched=True`` the stem runs once, the blocks are called again, and the tokens of all
    cycles go through what follows the stack in one batch, `[N * B, T, D]`. That saves the stem's
    cost and suits models that do nothing to the tokens between their blocks and treat samples
    independently behind them; `verify` compares it with the ordinary calls, and is called once on
    the first batch unless the model's class declares that its cycles can be batched.

    Each block must take its tokens as the first argument and return them first. What cannot be
    cycled is an error that says so, and so are cycles that did not run.

    Args:
        model: A model with a block stack, or the bare stack (``nn.Sequential``,
            ``nn.ModuleList``). It is used as it is, not copied.
        num_cycles: Cycles N in training, 1 or more. May be assigned to later.
        blocks: The stack: ``None`` (found: the longest run of same-shaped siblings under the usual
            names, or else the only list of one block), a dotted path (``"encoder.layers"``), a
            slice of one (``"blocks.4:12"``, counted from 0, end excluded) or a list of modules.
        batched: Whether the cycles run in one batch. ``None``: what the model's class says with an
            attribute ``batched_cycles``, else no.
        min_cycles: If given, each training step draws its number of cycles uniformly from
            ``min_cycles..num_cycles`` with torch's global CPU generator.
        activation_checkpointing: ``"block"`` keeps each block's input alone and computes the rest
            again in the backward pass; ``"cycle"`` keeps each cycle's input alone (batched: each
            block's in the first cycle; compiled: each block's). ``None`` keeps everything.
        grad_cycles: Truncated back-propagation: gradients pass through at most this many
            consecutive cycles (cycles 1..k, k+1..2k, ... are cut from each other).
        input_injection: This factor times the tokens that entered the stack is added to the
            tokens that enter each later cycle.
        cycle_embedding: Learn a vector for each later cycle, added to the tokens that enter it.
            Teacher-only: zero at first, dropped by ``unwrap``.
        adapter_rank: Rank of low-rank adapters beside every block in the later cycles, 0 for none.
            Teacher-only.
        token_dim: Channels D of the tokens, where the teacher-only options cannot read it off.
        check_finite: Raise ``FloatingPointError`` with the cycle at which tokens became NaN or
            infinite. Costs a synchronisation for each cycle.
        batch_dim: Batch dimension of the tokens: 0, or 1 for `[T, B, D]`. ``None``: 1 where the
            blocks hold an ``nn.MultiheadAttention`` with ``batch_first=False``, else 0.
        head_per_cycle: The former name of ``not batched``, deprecated.

    Raises:
        ValueError: No stack, or more than one, was found, or an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        num_cycles: int = 2,
        blocks: str | Sequence[nn.Module] | None = None,
        *,
        batched: bool | None = None,
        min_cycles: int | None = None,
        activation_checkpointing: str | None = None,
        grad_cycles: int | None = None,
        input_injection: float = 0.0,
        cycle_embedding: bool = False,
        adapter_rank: int = 0,
        token_dim: int | None = None,
        check_finite: bool = False,
        batch_dim: int | None = None,
        head_per_cycle: bool | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        _check_no_wrapper_within(model)
        _check_child_names(model)
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
        if head_per_cycle is not None:
            warnings.warn(
                "head_per_cycle is now batched, with the opposite meaning and False by default",
                DeprecationWarning,
                stacklevel=2,
            )
            batched = not head_per_cycle if batched is None else batched
        stack = find_stack(model, blocks)
        _check_not_wrapped(model, stack.blocks)
        super().__init__(model, ("num_cycles", "exit_tolerance"))
        self.num_cycles = num_cycles
        self.min_cycles = min_cycles
        declared = bool(getattr(model, "batched_cycles", False))
        self.batched = declared if batched is None else batched
        self.stack_path = stack.path
        self.cycles_run = 0
        self._verified = declared
        if (cycle_embedding or adapter_rank) and num_cycles > 1:
            width = token_dim if token_dim is not None else find_token_dim(model, stack.blocks)
            depth = len(stack.blocks)
            teacher = TeacherOnly(num_cycles, depth, width, cycle_embedding, adapter_rank)
            super().add_module(TEACHER, teacher)
        self._setup = Setup(
            model=type(model).__name__,
            stack=stack,
            token_names=tuple(map(first_parameter, stack.blocks)),
            batch_dim=find_batch_dim(stack.blocks) if batch_dim is None else batch_dim,
            activation_checkpointing=activation_checkpointing,
            grad_cycles=grad_cycles,
            input_injection=input_injection,
            check_finite=check_finite,
            skips_blocks=_skips_blocks(model),
            has_fast_path=any(isinstance(m, nn.TransformerEncoder) for m in model.modules()),
        )
        if self._setup.skips_blocks:
            warnings.warn(
                f"{type(model).__name__} has {self._setup.skips_blocks} and skips blocks at random "
                "in training: a cycle then begins with the first block that runs and ends with the "
                "last. Set it to 0 for cycles through all blocks",
                UserWarning,
                stacklevel=2,
            )
        self._attachment = Attachment(self._setup)
        self._attached = False
        self.training = model.training
        detach_copies(model)
        detach_stale(stack.blocks)
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
            return self._run(self._draw_cycles(num_cycles), args, kwargs)
        cycles = 1 if num_cycles is None else num_cycles
        _check_count("num_cycles", cycles)
        if cycles == 1:
            self.cycles_run = 1
            return call_plain(self.plain, args, kwargs)
        return self._use(cycles, args, kwargs, exit_tolerance, keep_all=False).predictions[0]

    def forward_cycles(
        self, *args: Any, num_cycles: int | None = None, **kwargs: Any
    ) -> CycleOutput:
        """All cycles' predictions and tokens in one pass, in training and in eval mode."""
        cycles = self.num_cycles if num_cycles is None else num_cycles
        _check_count("num_cycles", cycles)
        return (self._run if self.training else self._use)(cycles, args, kwargs)

    def verify(self, *args: Any, num_cycles: int | None = None, **kwargs: Any) -> Verification:
        """Compare batched cycles with ordinary calls of the model, on one example.

        Dropout and other chance are held still; tokens, every tensor of the predictions and, where
        gradients are on and no other process takes part, the gradient of every parameter are
        compared. It costs two training steps and leaves parameters, gradients, buffers and random
        generators as they were. A wrapper with ``batched=True`` does it once by itself, on the
        first batch that it sees; it cannot inside of ``torch.compile``, so compile afterwards.

        Args:
            *args: The plain model's arguments, such as a few images.
            num_cycles: Cycles to compare, ``cycled.num_cycles`` (2 at least) by default.
            **kwargs: The plain model's keyword arguments.

        Raises:
            ValueError: They differ; the text says in what, the likely reason, and what to do.
        """
        cycles = max(2, self.num_cycles) if num_cycles is None else num_cycles
        _check_count("num_cycles", cycles)
        self._attachment.hold(self.plain)
        try:
            teacher: Any = self._modules.get(TEACHER)
            result = compare(self._setup, self.plain, teacher, cycles, args, kwargs)
        finally:
            self._attachment.release()
        self._verified = True
        return result

    def unwrap(self) -> nn.Module:
        """Take everything of ours off the model and return it: the very object that came in.

        Teacher-only parameters are dropped. The wrapper cannot be used afterwards.
        """
        plain = self.plain
        self._attach(False)
        _wrappers.pop(plain, None)
        del self._modules[PLAIN]
        self._modules.pop(TEACHER, None)
        self.__dict__.update(_original=(), _parameters={}, _buffers={})
        return plain

    def train(self, mode: bool = True) -> CycleWrapper:
        """Switch to training (cycles) or, with ``mode=False``, to use (one plain pass)."""
        super().train(mode)
        if PLAIN in self._modules:
            self._attach(mode)
        return self

    def teacher_state_dict(self) -> dict[str, Tensor]:
        """The teacher-only parameters alone, by their own names; empty without any."""
        teacher = self._modules.get(TEACHER)
        return {} if teacher is None else teacher.state_dict()

    def extra_repr(self) -> str:
        """What stands in the wrapper's ``repr``."""
        return f"num_cycles={self.num_cycles}, blocks={self.stack_path!r}, batched={self.batched}"

    def _run(
        self,
        cycles: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        exit_tolerance: float | None = None,
        keep_all: bool = True,
    ) -> CycleOutput:
        """All cycles' predictions and tokens, or the last one's."""
        setup, plain = self._setup, self.plain
        teacher: Any = self._modules.get(TEACHER)
        held = self._attached  # a bool: compilation cannot look at handles
        if not held:
            self._attachment.hold(plain)
        compiling = torch.compiler.is_compiling()
        try:
            if not compiling:
                self._attachment.keep_places()
            if self.batched and cycles > 1:
                if not self._verified:
                    self._verify_once(compiling, cycles, args, kwargs)
                batched = BatchedPass(setup, plain, teacher, cycles, exit_tolerance, keep_all)
                output, self.cycles_run = batched.run(args, kwargs)
            else:
                output, self.cycles_run = run_ordinary_calls(
                    setup, plain, teacher, cycles, args, kwargs, exit_tolerance, keep_all
                )
        finally:
            if not held:
                self._attachment.release()
        return output

    def _use(self, *args: Any, **kwargs: Any) -> CycleOutput:
        """`_run` in eval mode."""
        if torch.compiler.is_compiling() or not self._setup.has_fast_path:
            return self._run(*args, **kwargs)
        with NoFastPath():
            return self._run(*args, **kwargs)

    def _verify_once(
        self, compiling: bool, cycles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if compiling:
            _say_compiled_unverified()
            return
        unchecked = ""
        if torch._C._functorch.peek_interpreter_stack() is not None:
            unchecked = "nothing was compared: a functional transform is running"
        else:
            try:
                unchecked = self.verify(*args, num_cycles=cycles, **kwargs).unchecked
            except torch.OutOfMemoryError:
                unchecked = "nothing was compared: it ran out of memory"
        self._verified = True
        if unchecked.startswith("nothing"):
            warnings.warn(
                f"batched cycles of {self._setup.model} were not verified ({unchecked}). Call "
                "cycled.verify(*example) on a small example, or use batched=False",
                UserWarning,
                stacklevel=4,
            )

    def _draw_cycles(self, num_cycles: int | None) -> int:
        """Cycles of a training step."""
        if num_cycles is not None:
            _check_count("num_cycles", num_cycles)
            return num_cycles
        _check_count("num_cycles", self.num_cycles)
        if self.min_cycles is None:
            return self.num_cycles
        low = min(self.min_cycles, self.num_cycles)
        return int(torch.randint(low, self.num_cycles + 1, ()))

    def _attach(self, on: bool) -> None:
        if on and not self._attached:
            self._attachment.hold(self.plain)
        elif self._attached and not on:
            self._attachment.release()
        self._attached = on

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_attachment": None, "_attached": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._attachment = Attachment(self._setup)
        if PLAIN in self._modules:
            detach_copies(self.plain)
            _wrappers[self.plain] = weakref.ref(self)
            self._attach(self.training)


def _say_compiled_unverified() -> int:
    warnings.warn(
        "batched cycles are compiled before they were verified, and inside of torch.compile they "
        "cannot be: call cycled.verify(*example) first, or use batched=False",
        UserWarning,
        stacklevel=2,
    )
    return 0


# As torch.compiler.assume_constant_result, without importing the compiler: it runs once, while
# torch compiles.
_say_compiled_unverified._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")


def _check_child_names(model: nn.Module) -> None:
    """A child or tensor of the model must not have a name that is taken by the wrapper's own."""
    own = {PLAIN, TEACHER, "num_cycles", "min_cycles", "batched", "stack_path", "cycles_run"}
    own.update(name for name in dir(CycleWrapper) if not hasattr(nn.Module, name))
    for name in (*model._modules, *model._parameters, *model._buffers):
        if name in own:
            raise ValueError(
                f"{type(model).__name__} has a child named {name!r}, which is a name of "
                "CycleWrapper itself: expected another name for the child"
            )


def _check_no_wrapper_within(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, CycleWrapper):
            where = f"its module {name!r}" if name else "it"
            raise ValueError(
                f"cannot wrap {type(model).__name__}: {where} is a CycleWrapper already. "
                "Call unwrap() first"
            )


def _check_not_wrapped(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    if _wrapper_of(model, blocks) is None:
        return
    gc.collect()  # a wrapper that nobody holds any longer
    found = _wrapper_of(model, blocks)
    if found is not None:
        part = "this" if found is model else "a part of this"
        raise ValueError(
            f"{part} {type(model).__name__} is inside another CycleWrapper. Call its unwrap() "
            "first, or assign to its num_cycles"
        )


def _wrapper_of(model: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module | None:
    """A wrapped model that is this one, or has some of these blocks."""
    for other, known in list(_wrappers.items()):
        wrapper = known()
        if wrapper is None:
            continue
        if other is model or not set(blocks).isdisjoint(wrapper._setup.stack.blocks):
            return other
    return None


def _skips_blocks(model: nn.Module) -> str:
    """The setting by which a model of transformers skips blocks at random, or ""."""
    for module in model.modules():
        for owner, prefix in ((getattr(module, "config", None), "config."), (module, "")):
            for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
                value = getattr(owner, name, 0)
                if isinstance(value, float) and value > 0:
                    return f"{prefix}{name}={value}"
    return ""

"""CycleWrapper: any model with a block stack, cycled in training, plain at inference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cycledistill._batched import BatchedRun
from cycledistill._call import call_plain
from cycledistill._checks import check_count, check_fraction, check_span
from cycledistill._errors import (
    check_no_block_is_new,
    raise_cycles_did_not_run,
    raise_not_for_wrappers,
)
from cycledistill._exit import ExitRule
from cycledistill._facade import PLAIN, TEACHER, Facade
from cycledistill._find import find_stack
from cycledistill._hooks import Attachment, detach_stale
from cycledistill._mode import NoFastPath
from cycledistill._ordinary import OrdinaryRun
from cycledistill._output import CycleOutput
from cycledistill._patch import forwards_patched
from cycledistill._rng import generators_in
from cycledistill._schedule import cycles_at, warn_of_no_progress
from cycledistill._setup import Setup, find_batch_dim, find_layerdrop
from cycledistill._teacher import find_token_dim, make_teacher
from cycledistill._verify import Verification, compare
from cycledistill._wrapped import (
    check_children,
    check_names_are_free,
    check_no_wrapper_within,
    check_not_wrapped,
    register,
    unregister,
)


class CycleWrapper(Facade):
    """Pass a model's tokens through its own blocks several times in training.

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
    prediction of cycle k is the model's output when its first block gets the tokens that its last
    block returned in cycle k - 1. In training, the model is therefore called N times; hooks on its
    blocks replace and record the tokens, and everything else runs as usual. In eval mode, it is
    called once, without hooks, and its output is bit-equal to the plain model's. Nothing is
    replaced or renamed: ``state_dict()``, the names of parameters, attributes and the signature of
    ``forward`` are those of the plain model, which is available as ``cycled.plain``.

    With ``batched=True`` the stem runs once, the blocks are called again, and the tokens of all
    cycles pass through the rest of the model in one batch, `[N * B, T, D]`. This saves the cost of
    the stem and suits models that do nothing to the tokens between their blocks and treat samples
    independently after them. `verify` compares it with the ordinary calls; it runs once on the
    first batch, unless the model's class declares that its cycles can be batched.

    Each block must take its tokens as the first argument and return them first. Models that cannot
    be cycled, and cycles that did not run, raise an error that says why.

    Args:
        model: A model with a block stack, or the bare stack (``nn.Sequential``,
            ``nn.ModuleList``). It is not copied.
        num_cycles: Number of cycles N in training, 1 or more. Can be reassigned later.
        blocks: The stack: ``None`` (search for the longest run of same-shaped siblings under the
            usual names, else for the only list of one block), a dotted path
            (``"encoder.layers"``), a slice of one (``"blocks.4:12"``, counted from 0, end excluded)
            or a list of modules.
        batched: Whether the cycles run in one batch. ``None``: the attribute ``batched_cycles`` of
            the model's class if it has one, else no.
        min_cycles: If given, each train step draws its number of cycles uniformly from
            ``min_cycles..num_cycles`` with torch's global CPU generator.
        cycles_from: Fraction of training after which all cycles run; before it, their number rises
            from 1 in equal steps. Needs `set_progress` at every step.
        cycles_until: Fraction of training after which one cycle runs, to the end. Needs
            `set_progress`, too.
        activation_checkpointing: ``"block"`` keeps only the input of each block and recomputes the
            rest in the backward pass; ``"cycle"`` keeps only the input of each cycle (batched: also
            of each block in the first cycle; compiled: of each block). ``None`` keeps everything.
        grad_cycles: Truncated back-propagation: gradients pass through at most this many
            consecutive cycles (cycles 1..k, k+1..2k, ... are detached from each other).
        input_injection: Factor of the stack's (or slice's) input tokens, which are added to the
            input of each later cycle.
        cycle_norm: Scale the input of each later cycle, before anything is added to it, token by
            token over the channels (the last dimension): ``"rms"`` to a root mean square of 1,
            ``"input"`` to that of the same token in the stack's input. Pre-norm stacks make tokens
            larger in each pass.
        gate: Learn how much of each later cycle counts: its output becomes
            ``x + alpha * (f(x) - x)``, where x is the previous cycle's output and f the cycle with
            all other options. Alpha is 0 at first, so every cycle of a pretrained model starts with
            the plain model's prediction. ``True`` for one alpha, ``"channel"`` for one per channel.
            Teacher-only.
        cycle_embedding: Learn a vector for each later cycle, added to its input tokens.
            Teacher-only: zero at first, dropped by ``unwrap``.
        adapter_rank: Rank of low-rank adapters in parallel with every block in the later cycles, 0
            for none. Teacher-only.
        token_dim: Channels D of the tokens, if the options that need it cannot infer it.
        check_finite: Raise ``FloatingPointError`` with the cycle in which tokens became NaN or
            infinite. Costs a synchronisation for each cycle.
        batch_dim: Batch dimension of the tokens: 0, or 1 for `[T, B, D]`. ``None``: 1 if the
            blocks contain an ``nn.MultiheadAttention`` with ``batch_first=False``, else 0.

    Raises:
        TypeError: ``model`` is not a module.
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
        cycles_from: float = 0.0,
        cycles_until: float = 1.0,
        activation_checkpointing: str | None = None,
        grad_cycles: int | None = None,
        input_injection: float = 0.0,
        cycle_norm: str | None = None,
        gate: bool | str = False,
        cycle_embedding: bool = False,
        adapter_rank: int = 0,
        token_dim: int | None = None,
        check_finite: bool = False,
        batch_dim: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("model: expected a model that Python runs, got one of torch.jit")
        check_no_wrapper_within(model)
        check_names_are_free(model, _OWN_NAMES)
        check_count("num_cycles", num_cycles)
        if min_cycles is not None:
            check_count("min_cycles", min_cycles)
            if min_cycles > num_cycles:
                raise ValueError(f"min_cycles={min_cycles} is above num_cycles={num_cycles}")
        check_span(cycles_from=cycles_from, cycles_until=cycles_until)
        stack = find_stack(model, blocks)
        check_not_wrapped(model, stack.blocks)
        super().__init__(model, ("num_cycles", "exit_tolerance", "exit_confidence"))
        self.__dict__.update(dict.fromkeys(_OWN_ATTRIBUTES))  # the model may have others
        self.num_cycles = num_cycles
        self.min_cycles = min_cycles
        self.cycles_from, self.cycles_until = cycles_from, cycles_until
        declared = bool(getattr(model, "batched_cycles", False))
        self.batched = declared if batched is None else batched
        self.stack_path = stack.path
        self.cycles_run = 0
        self.sample_cycles: Tensor | None = None
        self._progress: float | None = None
        self._cycles_in_use = 1
        self._verified = declared
        self._setup = Setup(
            model=type(model).__name__,
            stack=stack,
            batch_dim=find_batch_dim(stack.blocks) if batch_dim is None else batch_dim,
            activation_checkpointing=activation_checkpointing,
            grad_cycles=grad_cycles,
            input_injection=input_injection,
            cycle_norm=cycle_norm,
            gate=gate,
            cycle_embedding=cycle_embedding,
            adapter_rank=adapter_rank,
            check_finite=check_finite,
            layerdrop=find_layerdrop(model),
            has_fast_path=any(isinstance(m, nn.TransformerEncoder) for m in model.modules()),
            token_dim=token_dim,
        )
        if token_dim is None and (
            cycle_norm or gate == "channel" or cycle_embedding or adapter_rank
        ):
            self._setup.token_dim = find_token_dim(model, stack.blocks)
        if self._setup.layerdrop:
            warnings.warn(
                f"{type(model).__name__} has {self._setup.layerdrop} and skips blocks at random in "
                "training: a cycle then starts at the first block that runs and ends at the last. "
                "Set it to 0 for cycles through all blocks",
                UserWarning,
                stacklevel=2,
            )
        teacher = make_teacher(self._setup, num_cycles)
        if teacher is not None:
            super().add_module(TEACHER, teacher)
        self._attachment = Attachment(self._setup)
        self._attached = False
        detach_stale(*model.modules())
        register(model, self)
        self.training = model.training

    def forward(
        self,
        *args: Any,
        num_cycles: int | None = None,
        exit_tolerance: float | None = None,
        exit_confidence: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the model.

        Args:
            *args: The plain model's arguments.
            num_cycles: Number of cycles of this call. The default is the wrapper's ``num_cycles``
                in training (or a random number, with ``min_cycles``) and 1 in eval mode.
            exit_tolerance: Eval mode only: each sample stops, and leaves the batch, once its
                tokens change by less than this part of their norm, at the earliest after the second
                cycle; see `calibrate_exit`. ``cycled.sample_cycles`` `[B]` is the number of cycles
                that each sample ran, and ``cycled.cycles_run`` the largest of them.
            exit_confidence: Eval mode only: each sample stops once the highest probability of its
                prediction is at least this, also after the first cycle. For models that return
                logits `[B, classes]`, as a tensor or by the name ``logits``; not with batched
                cycles.
            **kwargs: The plain model's keyword arguments.

        Returns:
            In training, a `CycleOutput`; in eval mode, the plain model's own output, computed from
            the last cycle's tokens.
        """
        check_children(self)
        if isinstance(num_cycles, torch.fx.Proxy):
            raise_not_for_wrappers("torch.fx")
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        if tracing and args[-3:] == 3 * (None,):
            raise_not_for_wrappers("torch.onnx.export with dynamo=False")
        exit_rule = None
        if exit_tolerance is not None or exit_confidence is not None:
            exit_rule = ExitRule(exit_tolerance, exit_confidence)
        if self.training:
            if exit_rule is not None:
                raise ValueError(
                    "exit_tolerance and exit_confidence are for eval mode; this is training mode"
                )
            return self._run(self._draw_cycles(num_cycles), args, kwargs)
        cycles = self._cycles_in_use if num_cycles is None else num_cycles
        check_count("num_cycles", cycles)
        if cycles == 1 and self._cycles_in_use == 1 and exit_rule is None:
            self.cycles_run, self.sample_cycles = 1, None
            return call_plain(self.plain, args, kwargs)
        return self._use(cycles, args, kwargs, exit_rule, keep_all=False).predictions[0]

    def forward_cycles(
        self, *args: Any, num_cycles: int | None = None, **kwargs: Any
    ) -> CycleOutput:
        """All cycles' predictions and tokens, in training and in eval mode."""
        check_children(self)
        cycles = self.num_cycles if num_cycles is None else num_cycles
        check_count("num_cycles", cycles)
        return (self._run if self.training else self._use)(cycles, args, kwargs)

    @contextmanager
    def cycles(self, num_cycles: int) -> Iterator[None]:
        """Use several cycles in every call inside of this context, in eval mode.

        This includes calls that the plain model, or a part of it, makes of itself, as in
        generation::

            with cycled.cycles(2):
                text = cycled.generate(**inputs, max_new_tokens=20)

        A decoder then keeps a key-value cache for each cycle, in one object. It generates the same
        tokens as without a cache, each at the cost of ``num_cycles`` plain passes.

        Args:
            num_cycles: Number of cycles of each call.
        """
        check_count("num_cycles", num_cycles)
        if self.training:
            raise RuntimeError("cycles() is for eval mode; this wrapper is in training")

        calls, ran = 0, False

        def call(module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            nonlocal calls, ran
            if self._setup.calls.running() is not None:  # a call of one cycle
                return forward(*args, **kwargs)
            output = self._use(num_cycles, args, kwargs, keep_all=False, called=module)
            calls, ran = calls + 1, ran or len(output.tokens) > 0
            return output.predictions[0]

        before, self._cycles_in_use = self._cycles_in_use, num_cycles
        try:
            with forwards_patched(self.plain, self._setup.stack.blocks, call):
                yield
        finally:
            self._cycles_in_use = before
        if calls and not ran:
            raise_cycles_did_not_run(self._setup, self.plain, ())

    def verify(self, *args: Any, num_cycles: int | None = None, **kwargs: Any) -> Verification:
        """Compare batched cycles with ordinary calls of the model on an example.

        Compares tokens, every tensor of the predictions and, if gradients are enabled and training
        is not distributed, the gradient of every parameter, with dropout and other randomness
        disabled. It costs two train steps and leaves parameters, gradients, buffers and random
        generators unchanged. A wrapper with ``batched=True`` verifies itself once, on its first
        batch. It cannot do so inside of ``torch.compile``, so verify first and compile afterwards.

        Args:
            *args: The plain model's arguments, such as a few images.
            num_cycles: Number of cycles to compare, by default ``cycled.num_cycles`` (at least 2).
            **kwargs: The plain model's keyword arguments.

        Raises:
            ValueError: They differ; the message says where, the likely reason, and what to do.
        """
        cycles = max(2, self.num_cycles) if num_cycles is None else num_cycles
        check_count("num_cycles", cycles)
        self._setup.generators = generators_in(self.plain)
        self._attachment.hold(self.plain)
        try:
            result = compare(self._setup, self.plain, self._teacher, cycles, args, kwargs)
        finally:
            self._attachment.release()
        self._verified = True
        return result

    def set_progress(self, progress: float) -> None:
        """Set the training progress, from 0 to 1, for ``cycles_from`` and ``cycles_until``."""
        self._progress = check_fraction("progress", progress)

    def unwrap(self) -> nn.Module:
        """Remove all hooks and return the original model: the same object, not a copy.

        Teacher-only parameters are dropped. The wrapper cannot be used afterwards.
        """
        plain = self.plain
        check_children(self)
        self._attach(False)
        unregister(plain)
        del self._modules[PLAIN]
        self._modules.pop(TEACHER, None)
        self.__dict__.update(_original=(), _parameters={}, _buffers={})
        return plain

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; ``training``, which some trainers assign to each module, as `train`."""
        super().__setattr__(name, value)
        if name == "training" and PLAIN in self._modules:
            self.plain.training = value
            self._attach(value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child to the plain model; its batch norms, as after a conversion, get our hooks."""
        super().add_module(name, module)
        if self._attached:
            self._attach(False)
            self._attach(True)

    def teacher_state_dict(self) -> dict[str, Tensor]:
        """The teacher-only parameters by their own names; empty if there are none."""
        return {} if self._teacher is None else self._teacher.state_dict()

    def extra_repr(self) -> str:
        """Options in the wrapper's ``repr``."""
        return f"num_cycles={self.num_cycles}, blocks={self.stack_path!r}, batched={self.batched}"

    def _run(
        self,
        cycles: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        exit_rule: ExitRule | None = None,
        keep_all: bool = True,
        called: nn.Module | None = None,
    ) -> CycleOutput:
        """All cycles' predictions and tokens, or the last one's, of the model or a part of it."""
        plain = called or self.plain
        held = self._attached  # a bool, because torch.compile cannot trace the attachment's lock
        if not held:
            self._attachment.hold(self.plain)
        compiling = torch.compiler.is_compiling()
        try:
            if not compiling:
                self._attachment.keep_places()
                self._setup.generators = generators_in(self.plain)
            if self.batched and cycles > 1 and plain is self.plain:
                if not self._verified:
                    self._verify_once(compiling, cycles, args, kwargs)
                kind: type[BatchedRun | OrdinaryRun] = BatchedRun
            else:
                kind = OrdinaryRun
            run = kind(self._setup, plain, self._teacher, cycles, exit_rule, keep_all)
            run.may_skip = called is not None
            if not compiling:
                run.in_backward = partial(self._attachment.hold_in_backward, self.plain)
            result = run.run(args, kwargs)
            if not compiling:
                check_no_block_is_new(self._setup, *self._original)
        finally:
            if not held:
                self._attachment.release()
        self.cycles_run, self.sample_cycles = result.cycles_run, result.sample_cycles
        return result.output

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
            _warn_unverified_when_compiled()
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
        """The number of cycles of a train step."""
        if num_cycles is not None:
            check_count("num_cycles", num_cycles)
            return num_cycles
        check_count("num_cycles", self.num_cycles)
        follows = self.cycles_from > 0 or self.cycles_until < 1
        if self._progress is None and follows and not torch.compiler.is_compiling():
            warn_of_no_progress("cycles_from and cycles_until of CycleWrapper")
            self._progress = 0.0
        progress = self._progress or 0.0
        cycles = cycles_at(self.num_cycles, self.cycles_from, self.cycles_until, progress)
        if self.min_cycles is None or self.min_cycles >= cycles:
            return cycles
        return int(torch.randint(self.min_cycles, cycles + 1, ()))

    @property
    def _teacher(self) -> Any:
        return self._modules.get(TEACHER)

    def _attach(self, on: bool) -> None:
        if on and not self._attached:
            self._attachment.hold(self.plain)
        elif self._attached and not on:
            self._attachment.release()
        self._attached = on

    def __getstate__(self) -> dict[str, Any]:
        fresh = {"_attachment": None, "_attached": False, "_cycles_in_use": 1}
        return {**super().__getstate__(), **fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._attachment = Attachment(self._setup)
        if PLAIN in self._modules:
            detach_stale(*self.plain.modules())
            register(self.plain, self)
            self._attach(self.training)


def _warn_unverified_when_compiled() -> int:
    warnings.warn(
        "batched cycles are compiled before they were verified, and torch.compile prevents that: "
        "call cycled.verify(*example) first, or use batched=False",
        UserWarning,
        stacklevel=2,
    )
    return 0


# The effect of torch.compiler.assume_constant_result, without importing the compiler: the function
# runs once, during compilation.
_warn_unverified_when_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


_OWN_ATTRIBUTES = (
    *("num_cycles", "min_cycles", "cycles_from", "cycles_until", "batched"),
    *("stack_path", "cycles_run", "sample_cycles"),
)
_OWN_NAMES = {
    *(name for name in dir(CycleWrapper) if not hasattr(nn.Module, name)),
    *(PLAIN, TEACHER, *_OWN_ATTRIBUTES),
}

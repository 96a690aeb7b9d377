"""Ordinary calls: each cycle is one call of the model.

The model runs as a whole, once for each cycle, so whatever it does before, between and after its
blocks is right without our knowing about it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cycledistill._caches import CycleCaches, caches_in
from cycledistill._call import CallResult, OrdinaryCall
from cycledistill._errors import (
    check_tokens,
    raise_exit_with_cache,
    raise_inputs_changed,
    raise_shape_changed,
)
from cycledistill._exit import EarlyExit
from cycledistill._output import CycleOutput
from cycledistill._rng import RngState
from cycledistill._run import CycleRun, RunResult
from cycledistill._tree import fresh_containers, iter_tensors, map_leaves


class OrdinaryRun(CycleRun):
    """All cycles of a run, one after another."""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunResult:
        """Call the model once for each cycle."""
        if self.num_cycles == 1:
            only = self._call((args, kwargs), 1, None, None, None, None)
            return RunResult(CycleOutput((only.prediction,), (only.tokens_out,)), 1)
        training = self.plain.training
        caches = CycleCaches(self.setup.model, self.num_cycles, training, args, kwargs)
        if caches.given is not None and self.exit_tolerance is not None:
            raise_exit_with_cache(self.setup)
        versions = _versions(args, kwargs)
        rng = None if torch.compiler.is_compiling() else RngState()
        predictions: list[Any] = []
        tokens: list[Tensor] = []
        made: list[list[Any]] = []
        early_exit: EarlyExit | None = None
        first = previous = new_tokens = None
        for cycle in range(1, self.num_cycles + 1):
            if previous is not None and first is not None:
                new_tokens = self.next_input(previous, first, cycle)
            if early_exit is None:
                inputs = caches.inputs(cycle, args, kwargs)
            else:
                inputs = early_exit.inputs()
            done = self._call(inputs, cycle, first, previous, new_tokens, rng)
            # The model may fill and return the same dict in every call.
            prediction, tokens_out = fresh_containers(done.prediction), done.tokens_out
            made.append(caches_in(prediction))
            if first is None:
                first = done.tokens_in
                rng = rng if done.stem_draws else None
                if versions and versions != _versions(args, kwargs):
                    raise_inputs_changed(self.setup)
            of_batch = tokens_out
            if self.exit_tolerance is not None:
                prediction = _without(made[-1], prediction)
                if early_exit is None or previous is None:
                    early_exit = EarlyExit(
                        self.exit_tolerance, tokens_out, self.setup.batch_dim, (args, kwargs), True
                    )
                else:
                    prediction = early_exit.merge(predictions[-1], prediction)
                    of_batch = early_exit.merge(tokens[-1], tokens_out)
                    tokens_out, first = early_exit.update(previous, tokens_out, first)
            if not self.keep_all:
                predictions.clear()
                tokens.clear()
            predictions.append(prediction)
            tokens.append(of_batch)
            previous = tokens_out
            if early_exit is not None and early_exit.done:
                break
        if early_exit is None and not training and (caches.given is not None or not self.keep_all):
            predictions = caches.join(predictions, made)
        output = CycleOutput(tuple(predictions), tuple(tokens))
        return RunResult(output, cycle, None if early_exit is None else early_exit.cycles)

    def _call(
        self,
        inputs: tuple[tuple[Any, ...], dict[str, Any]],
        cycle: int,
        first: Tensor | None,
        previous: Tensor | None,
        new_tokens: Tensor | None,
        rng: RngState | None,
    ) -> CallResult:
        """Run one cycle and check its tokens."""
        setup = self.setup

        def run() -> CallResult:
            only = self.num_cycles == 1
            call = OrdinaryCall(setup, cycle, previous, new_tokens, rng, self.teacher, only)
            return call.run(self.plain, *inputs)

        by_cycle = setup.activation_checkpointing == "cycle" and torch.is_grad_enabled()
        try:
            if by_cycle and not torch.compiler.is_compiling():
                done: CallResult = checkpoint(run, use_reentrant=False)
            else:
                done = run()
        except RuntimeError as error:
            if first is None or previous is None or first.shape == previous.shape:
                raise
            raise_shape_changed(setup, first, previous, error)
        check_tokens(setup, self.plain, done.tokens_in, done.tokens_out, cycle)
        return done


def _without(caches: list[Any], prediction: Any) -> Any:
    """The prediction without caches, which are incomplete where samples have stopped early."""
    return map_leaves(lambda x: None if any(x is one for one in caches) else x, prediction)


def _versions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """How often each input tensor was changed in place; empty where torch does not count it."""
    if torch.compiler.is_compiling():
        return []
    tensors = [*iter_tensors(args), *iter_tensors(kwargs)]
    return [tensor._version for tensor in tensors if not tensor.is_inference()]

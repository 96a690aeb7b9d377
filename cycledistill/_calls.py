"""Ordinary calls: each cycle is one call of the model.

The model runs itself, whole, once for each cycle. Whatever it does between, beside and behind its
blocks is therefore right without our knowing of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cycledistill._caches import CycleCaches, caches_in
from cycledistill._call import OneCycle, OrdinaryCall
from cycledistill._chance import Chance
from cycledistill._cycled_call import Cycled, CycledCall
from cycledistill._exit import EarlyExit
from cycledistill._output import CycleOutput
from cycledistill._refusals import (
    refuse_changed_inputs,
    refuse_cycles_of_another_shape,
    refuse_exit_with_cache,
    refuse_infinite,
    refuse_other_shape,
)
from cycledistill._tree import fresh_containers, iter_tensors, map_leaves


class OrdinaryCalls(CycledCall):
    """All cycles of a call, one after another."""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cycled:
        """Call the model once for each cycle."""
        if self.num_cycles == 1:
            only = self._call((args, kwargs), 1, None, None, None, None)
            return Cycled(CycleOutput((only.prediction,), (only.left,)), 1)
        training = self.plain.training
        caches = CycleCaches(self.setup.model, self.num_cycles, training, args, kwargs)
        if caches.given is not None and self.exit_tolerance is not None:
            refuse_exit_with_cache(self.setup)
        versions = _versions(args, kwargs)
        chance = None if torch.compiler.is_compiling() else Chance()
        predictions: list[Any] = []
        tokens: list[Tensor] = []
        made: list[list[Any]] = []
        leaving: EarlyExit | None = None
        first = before = entering = None
        for cycle in range(1, self.num_cycles + 1):
            if before is not None and first is not None:
                entering = self.entering(before, first, cycle)
            inputs = caches.inputs(cycle, args, kwargs) if leaving is None else leaving.inputs()
            done = self._call(inputs, cycle, first, before, entering, chance)
            # The model may fill and return the same dict in every call.
            prediction, left = fresh_containers(done.prediction), done.left
            made.append(caches_in(prediction))
            if first is None:
                first = done.entered
                chance = chance if done.stem_draws else None
                if versions and versions != _versions(args, kwargs):
                    refuse_changed_inputs(self.setup)
            whole = left
            if self.exit_tolerance is not None:
                prediction = _without(made[-1], prediction)
                if leaving is None or before is None:
                    leaving = self.begin_exit(left, (args, kwargs), first_is_batch=True)
                else:
                    prediction = leaving.put(predictions[-1], prediction)
                    whole = leaving.put(tokens[-1], left)
                    left, first = leaving.settle(before, left, first)
            if not self.keep_all:
                predictions.clear()
                tokens.clear()
            predictions.append(prediction)
            tokens.append(whole)
            before = left
            if leaving is not None and leaving.done:
                break
        if leaving is None and not training and (caches.given is not None or not self.keep_all):
            predictions = caches.join(predictions, made)
        output = CycleOutput(tuple(predictions), tuple(tokens))
        return Cycled(output, cycle, None if leaving is None else leaving.cycles)

    def _call(
        self,
        inputs: tuple[tuple[Any, ...], dict[str, Any]],
        cycle: int,
        first: Tensor | None,
        before: Tensor | None,
        entering: Tensor | None,
        chance: Chance | None,
    ) -> OneCycle:
        """One cycle, checked."""
        setup = self.setup

        def run() -> OneCycle:
            alone = self.num_cycles == 1
            call = OrdinaryCall(setup, cycle, before, entering, chance, self.teacher, alone)
            return call.run(self.plain, *inputs)

        by_cycle = setup.activation_checkpointing == "cycle" and torch.is_grad_enabled()
        try:
            if by_cycle and not torch.compiler.is_compiling():
                done: OneCycle = checkpoint(run, use_reentrant=False)
            else:
                done = run()
        except RuntimeError as error:
            if first is None or before is None or first.shape == before.shape:
                raise
            refuse_cycles_of_another_shape(setup, first, before, error)
        refuse_other_shape(setup, self.plain, done.entered, done.left, cycle)
        if setup.check_finite:
            refuse_infinite(setup, done.left, cycle)
        return done


def _without(caches: list[Any], prediction: Any) -> Any:
    """Samples that stop at different cycles leave no cache that a next call could go on with."""
    return map_leaves(lambda x: None if any(x is one for one in caches) else x, prediction)


def _versions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """How often each given tensor was changed in place; empty where that is not counted."""
    if torch.compiler.is_compiling():
        return []
    tensors = [*iter_tensors(args), *iter_tensors(kwargs)]
    return [tensor._version for tensor in tensors if not tensor.is_inference()]

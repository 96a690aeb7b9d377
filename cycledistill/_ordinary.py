"""Ordinary calls: each cycle is one call of the model.

The model runs as a whole, once for each cycle, so whatever it does before, between and after its
blocks is right without our knowing about it.
"""

from __future__ import annotations

from typing import Any

import torch

from cycledistill._caches import CycleCaches, caches_in
from cycledistill._call import CallResult, CycleCall, call_plain, kept, version_of
from cycledistill._errors import raise_exit_with_cache, raise_inputs_changed, raise_no_cache
from cycledistill._output import CycleOutput
from cycledistill._rng import RngState, generators_in
from cycledistill._run import CycleRun, RunResult
from cycledistill._tree import fresh_containers, iter_tensors, map_leaves, map_tensors


class OrdinaryRun(CycleRun):
    """All cycles of a run, each a call of the model."""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunResult:
        """Call the model once for each cycle."""
        setup, plain, training = self.setup, self.plain, self.plain.training
        inputs = (args, kwargs)
        if self.num_cycles == 1:
            return self.run_cycles(
                lambda call, _: call.run_checkpointed(call_plain, plain, *inputs), inputs, True
            )
        caches = CycleCaches(setup.model, self.num_cycles, training, args, kwargs)
        if caches.given is not None and self.exit_rule is not None:
            raise_exit_with_cache(setup)
        versions = _versions(inputs)
        rng = None
        if not torch.compiler.is_compiling():
            rng = RngState((*setup.generators, *generators_in(inputs)))
        made: list[list[Any]] = []

        def run_cycle(call: CycleCall, active: Any) -> CallResult:
            nonlocal rng
            call.rng = rng
            args, kwargs = caches.inputs(call.cycle, *map_tensors(kept, active))
            done = call.run_checkpointed(call_plain, plain, args, kwargs)
            if call.cycle == 1:
                rng = rng if done.stem_draws else None
                if versions != _versions(inputs):
                    raise_inputs_changed(setup)
            # The model may fill and return the same dict in every call.
            prediction = fresh_containers(done.prediction)
            made.append(caches_in(prediction))
            # A model may leave out the cache that it was given, but not if it has a state, too.
            keeps_state = caches.given is None or getattr(plain, "_is_stateful", False)
            if kwargs.get("use_cache") and keeps_state and not training and not made[-1]:
                raise_no_cache(setup)
            if self.exit_rule is not None:
                prediction = _without(made[-1], prediction)
            # Not `_replace`, which torch 2.6 cannot compile.
            return CallResult(prediction, done.tokens_in, done.tokens_out, done.stem_draws)

        result = self.run_cycles(run_cycle, inputs, True)
        if training or self.exit_rule is not None:
            return result
        if caches.given is None and self.keep_all:
            return result
        predictions = caches.join([*result.output.predictions], made)
        output = CycleOutput(tuple(predictions), result.output.tokens)
        return RunResult(output, result.cycles_run, result.pruned)


def _without(caches: list[Any], prediction: Any) -> Any:
    """The prediction without caches, which are incomplete where samples have stopped early."""
    return map_leaves(lambda x: None if any(x is one for one in caches) else x, prediction)


def _versions(inputs: Any) -> list[int]:
    """How often each input tensor was changed in place."""
    return [version_of(tensor) for tensor in iter_tensors(inputs)]

"""What a generated token costs in several cycles: the time of n cycles over n plain passes.

Greedy tokens of a decoder of GPT-2's shape (6 blocks x 384, random weights) with one key-value
cache for each cycle; beside it the same without a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks._frame import Row, in_turn, ratio
from cycledistill import CycleWrapper

PROMPT, NEW = 64, 64


def measure(rounds: int, device: str = "cpu") -> Iterator[Row]:
    config = GPT2Config(n_embd=384, n_layer=6, n_head=6, bos_token_id=None, eos_token_id=None)
    cycled = CycleWrapper(GPT2LMHeadModel(config).to(device).eval())
    prompt = torch.randint(config.vocab_size, (1, PROMPT), device=device)

    def generate(num_cycles: int, use_cache: bool = True) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with cycled.cycles(num_cycles):
                tokens: Tensor = cycled.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=NEW,
                    do_sample=False,
                    use_cache=use_cache,
                )
            return tokens

        return run

    calls: dict[str, Callable[[], Tensor]] = {str(n): generate(n) for n in (1, 2, 3)}
    calls["uncached"] = generate(2, use_cache=False)
    taken = in_turn(calls, rounds)
    for n in (2, 3):
        what = f"generation, {NEW} tokens: {n} cycles / {n} times one"
        yield Row.of(what, ratio(taken[str(n)], taken["1"], 1 / n), "", 1.1)
    what = f"generation, {NEW} tokens in 2 cycles: without a cache / with one for each cycle"
    yield Row.of(what, ratio(taken["uncached"], taken["2"]))

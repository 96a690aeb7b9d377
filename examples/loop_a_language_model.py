"""Train a causal language model in gated cycles, and generate with one cycle and with two.

python examples/loop_a_language_model.py    # offline: a tiny GPT-2 on the bytes of Python's manual
python examples/loop_a_language_model.py --model NAME_OR_FOLDER    # any of transformers
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from torch import Tensor

from cycledistill import CycleDistillLoss, CycleWrapper

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--model", help="a name on the Hub or a folder; default: a tiny GPT-2")
parser.add_argument("--text", type=Path, help="a file to train on; default: Python's manual")
parser.add_argument("--blocks", help="blocks to cycle, such as model.layers.4:12")
parser.add_argument("--steps", type=int, default=300, help="in cycles; without --model plain first")
parser.add_argument("--lr", type=float, default=2e-3, help="use 1e-5 or so with --model")
options = parser.parse_args()

torch.manual_seed(0)
if options.model:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(options.model)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(options.model)
else:
    tokenizer = transformers.ByT5Tokenizer()  # one token for each byte
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=4, n_head=4)
    config.update({"bos_token_id": None, "eos_token_id": 1})
    model = transformers.GPT2LMHeadModel(config)


def encode(text: str) -> Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False))


tokens = encode(options.text.read_text("utf-8") if options.text else "\n".join(topics.values()))
tokens, held_out = tokens.tensor_split([len(tokens) * 9 // 10])


def windows(source: Tensor, count: int, length: int = 64) -> Tensor:
    starts = torch.randint(len(source) - length, (count, 1))
    return source[starts + torch.arange(length)]


def train(cycled: CycleWrapper, steps: int) -> None:
    criterion = CycleDistillLoss(lambda output: output.loss, task_cycles="mean")
    optimizer = torch.optim.AdamW(cycled.parameters(), lr=options.lr)
    cycled.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = options.lr * (1 - step / steps)
        ids = windows(tokens, 16)
        optimizer.zero_grad()
        criterion(cycled(input_ids=ids, labels=ids)).total.backward()
        optimizer.step()


if not options.model:
    pretraining = CycleWrapper(model, num_cycles=1)
    train(pretraining, options.steps)
    pretraining.unwrap()
cycled = CycleWrapper(model, num_cycles=2, blocks=options.blocks, gate=True)
train(cycled, options.steps)

cycled.eval()
ids = windows(held_out, 32)
prompt = encode("The statement is ")[None]
for n in (1, 2, 3):
    with torch.no_grad(), cycled.cycles(n):
        perplexity = cycled(input_ids=ids, labels=ids).loss.exp()
        print(f"perplexity {perplexity:.3f} with {n} cycle(s)")
for n in (1, 2):
    with cycled.cycles(n):  # one key-value cache for each cycle
        made = cycled.generate(prompt, max_new_tokens=60, do_sample=False, pad_token_id=0)
    print(f"{n} cycle(s): {tokenizer.decode(made[0])!r}")

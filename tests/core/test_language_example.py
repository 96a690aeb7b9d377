"""The example of a language model, run as a user runs it."""

from __future__ import annotations

import re

import pytest

from tests.examples import EXAMPLES, run_example

NAME = "loop_a_language_model.py"


def run(*arguments: object) -> str:
    done = run_example(NAME, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def perplexities(output: str) -> list[float]:
    return [float(found) for found in re.findall(r"^perplexity (\S+) with", output, re.MULTILINE)]


@pytest.mark.slow
def test_a_tiny_model_learns_and_generates_in_one_cycle_and_in_two(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh " * 200, "utf-8")
    output = run("--text", text, "--steps", 20)
    found = perplexities(output)
    assert len(found) == 3 and max(found) < 200  # of 384, untrained
    written = re.findall(r"^(\d) cycle\(s\): 'The statement is (.*)'$", output, re.MULTILINE)
    assert [n for n, _ in written] == ["1", "2"] and all(len(said) > 40 for _, said in written)
    assert len((EXAMPLES / NAME).read_text("utf-8").splitlines()) < 80


@pytest.mark.slow
def test_a_model_of_a_folder_begins_as_what_it_is(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.ByT5Tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh " * 200, "utf-8")
    output = run(
        "--model", tmp_path / "llama", "--text", text, "--blocks", "model.layers.1:2",
        "--steps", 1, "--lr", 0,
    )  # fmt: skip
    found = perplexities(output)
    assert len(found) == 3 and len(set(found)) == 1  # closed gates

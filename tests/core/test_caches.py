"""Decoders of transformers: a key-value cache for each cycle, in training and in generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.models import holder, sequential
from tests.core.reference import hand_fed

tf = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 89,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
NO_DROPOUT = {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}
EAGER = {"experts_implementation": "eager"}  # the others take no float64
MODELS = {
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=89, n_embd=16, n_layer=3, n_head=4, n_positions=64, **NO_DROPOUT)
    ),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SIZES)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**SIZES, sliding_window=4)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**SIZES, sliding_window=4)),
    "mixtral": lambda: tf.MixtralForCausalLM(
        tf.MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None, **EAGER)
    ),
}


def make(name: str) -> nn.Module:
    """A decoder whose predictions differ from cycle to cycle."""
    torch.manual_seed(0)
    model: nn.Module = MODELS[name]().double().eval()
    model.generation_config.pad_token_id = 0  # type: ignore[union-attr]
    model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    return model


def prompt(name: str) -> dict[str, Tensor]:
    """Three sentences, the second of which is padded on its left.

    Not for Gemma 2, whose softcapped attention gives NaN where a row of the mask is empty.
    """
    ids = torch.randint(1, 89, (3, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if name != "gemma2":
        mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("num_cycles", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_generated_tokens_are_those_without_a_cache(name: str, num_cycles: int) -> None:
    cycled = CycleWrapper(make(name), 2).eval()
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"do_sample": False},
        "sampled": {"do_sample": True, "top_k": 20},
        "beams": {"do_sample": False, "num_beams": 3},
    }
    for way, options in ways.items():
        found = []
        for use_cache in (True, False):
            torch.manual_seed(2)
            with cycled.cycles(num_cycles):
                found.append(
                    cycled.generate(
                        **prompt(name), max_new_tokens=8, use_cache=use_cache, **options
                    )
                )
        assert torch.equal(*found), way


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_generation_is_that_of_cycles_fed_by_hand(name: str) -> None:
    model = make(name)
    ids = prompt(name)["input_ids"]
    cycled = CycleWrapper(model, 2).eval()
    texts = []
    for num_cycles in (1, 2, 3):
        expected = ids
        with torch.no_grad():
            for _ in range(6):
                fed = hand_fed(
                    model, cycled.stack_path, num_cycles, (expected,), {"use_cache": False}
                )
                token = fed.predictions[-1].logits[:, -1:].argmax(-1)
                expected = torch.cat([expected, token], 1)
        with cycled.cycles(num_cycles):
            # The plain model generates in cycles, too.
            found = model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
            )
        assert torch.equal(found, expected)
        texts.append(expected)
    assert not torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[1], texts[2])


@pytest.mark.filterwarnings("ignore:.*`past_key_values`:FutureWarning")  # what PEFT does
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_learnt_prefix_generates_with_one_cycle(use_cache: bool) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    cycled = CycleWrapper(peft.get_peft_model(make("llama").float(), config), 2).eval()
    options = {**prompt("llama"), "max_new_tokens": 2, "use_cache": use_cache}
    with cycled.cycles(1):
        assert cycled.generate(**options).shape == (3, 7)
    with (
        pytest.raises(ValueError, match=r"A learnt prefix, .*, generates with one cycle only"),
        cycled.cycles(2),
    ):
        cycled.generate(**options)


@pytest.mark.parametrize("peft_kind", ["lora", "plain part"])
def test_a_model_that_has_another_one_generate(peft_kind: str) -> None:
    ids = prompt("llama")["input_ids"]
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    model: Any = make("llama")
    expected = CycleWrapper(make("llama"), 2).eval()
    if peft_kind == "lora":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
        model = peft.get_peft_model(model, config).eval()  # its adapters add 0 at first
        cycled = CycleWrapper(model, 2, "base_model.model.model.layers").eval()
        generates = cycled
    else:  # the part is wrapped, the whole generates
        cycled = CycleWrapper(model.model, 2).eval()
        generates = model
    found = []
    for num_cycles in (1, 2):
        with cycled.cycles(num_cycles):
            found.append(generates.generate(input_ids=ids, **options))
        with expected.cycles(num_cycles):
            assert torch.equal(expected.generate(input_ids=ids, **options), found[-1])
    assert not torch.equal(*found)


@pytest.mark.parametrize("blocks", [None, "model.layers.1:2"])
def test_a_cache_goes_on_where_it_ended(blocks: str | None) -> None:
    cycled = CycleWrapper(make("llama"), 2, blocks).eval()
    ids = torch.randint(0, 89, (2, 9))
    with torch.no_grad():
        whole = cycled(ids, num_cycles=2, use_cache=False).logits
        first = cycled(ids[:, :4], num_cycles=2)
        cache = first.past_key_values
        assert len(cache.layers) == 2 * 3
        second = cycled(ids[:, 4:7], num_cycles=2, past_key_values=cache)
        assert second.past_key_values is cache
        cache.crop(-1)
        third = cycled(ids[:, 6:], num_cycles=2, past_key_values=cache)
    torch.testing.assert_close(first.logits, whole[:, :4], atol=1e-10, rtol=0)
    torch.testing.assert_close(second.logits, whole[:, 4:7], atol=1e-10, rtol=0)
    torch.testing.assert_close(third.logits, whole[:, 6:], atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["static", "without a config"])
def test_other_caches(kind: str) -> None:
    cycled = CycleWrapper(make("llama"), 2).eval()
    ids = torch.randint(0, 89, (2, 7))
    with torch.no_grad():
        whole = cycled(ids, num_cycles=2, use_cache=False).logits
        if kind == "static":
            cache = tf.StaticCache(config=cycled.config, max_cache_len=10)
        else:
            cache = tf.DynamicCache()  # makes its layers as they are needed
        first = cycled(ids[:, :4], num_cycles=2, past_key_values=cache)
        second = cycled(ids[:, 4:], num_cycles=2, past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, whole[:, 4:], atol=1e-10, rtol=0)


@pytest.mark.parametrize("blocks", ["decoder.block", "encoder.block"])
def test_an_encoder_decoder_generates(blocks: str) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 3, "num_heads": 4}
    config = tf.T5Config(vocab_size=89, decoder_start_token_id=0, eos_token_id=None, **sizes)
    model = tf.T5ForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4)
    cycled = CycleWrapper(model, 2, blocks).eval()
    texts = []
    for num_cycles in (1, 2, 3):
        for options in ({"num_beams": 3}, {"num_beams": 1}):
            found = []
            for use_cache in (True, False):
                with cycled.cycles(num_cycles):
                    found.append(
                        cycled.generate(
                            **prompt("t5"),
                            max_new_tokens=6,
                            do_sample=False,
                            use_cache=use_cache,
                            **options,
                        )
                    )
            assert torch.equal(*found)
        expected = torch.zeros(3, 1, dtype=torch.int64)
        for _ in range(6):
            logits = cycled(
                **prompt("t5"), decoder_input_ids=expected, use_cache=False, num_cycles=num_cycles
            ).logits
            expected = torch.cat([expected, logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(found[0], expected)
        texts.append(found[0])
    assert not torch.equal(texts[0], texts[1])


def test_calls_that_run_no_block_are_plain_unless_all_are() -> None:
    model = holder(first=sequential(2), second=sequential(2))
    model.forward = lambda x, second: model.second(x) if second else model.first(x)  # type: ignore
    cycled = CycleWrapper(model, 2, "first").eval()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    with cycled.cycles(2):
        one, other = model(x, second=False), model(x, second=True)
    torch.testing.assert_close(one, model.first(model.first(x)))
    torch.testing.assert_close(other, model.second(x))
    with pytest.raises(RuntimeError, match="the cycles did not run"), cycled.cycles(2):
        model(x, second=True)


def test_a_cycled_encoder_fills_a_cache_of_its_own_in_each_cycle() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 3, "num_heads": 4}
    cycled = CycleWrapper(
        tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=89, **sizes)).double().eval(),
        2,
        "encoder.block",
    ).eval()
    ids = torch.randint(1, 89, (2, 5))
    inputs = {"input_ids": ids, "num_cycles": 2}
    with torch.no_grad():
        whole = cycled(decoder_input_ids=ids, use_cache=False, **inputs).logits
        cache = tf.EncoderDecoderCache(tf.DynamicCache(), tf.DynamicCache())
        first = cycled(decoder_input_ids=ids[:, :3], past_key_values=cache, **inputs)
        second = cycled(decoder_input_ids=ids[:, 3:], past_key_values=cache, **inputs)
    found = torch.cat([first.logits, second.logits], 1)
    torch.testing.assert_close(found, whole, atol=1e-10, rtol=0)


def test_a_cache_of_other_cycles_is_refused() -> None:
    cycled = CycleWrapper(make("llama"), 2).eval()
    ids = torch.randint(0, 89, (2, 5))
    with torch.no_grad():
        cache = cycled(ids).past_key_values
        with pytest.raises(ValueError, match=r"5 tokens of 1 cycle, and this call has 2"):
            cycled(ids[:, :1], num_cycles=2, past_key_values=cache)
        cache = cycled(ids, num_cycles=3).past_key_values
        with pytest.raises(ValueError, match=r"5 tokens of 3 cycles, and this call has 2"):
            cycled(ids[:, :1], num_cycles=2, past_key_values=cache)
        cycled(ids[:, :1], past_key_values=cache)  # cycle 1 alone
        with pytest.raises(ValueError, match=r"\[6, 5, 5\] tokens of the cycles 1 to 3"):
            cycled(ids[:, :1], num_cycles=3, past_key_values=cache)
        cache = cycled(ids, num_cycles=2).past_key_values
        with pytest.raises(ValueError, match="key-value cache and early exit"):
            cycled(ids[:, :1], num_cycles=2, past_key_values=cache, exit_tolerance=0.1)


def test_a_foreign_cache_is_refused_by_name() -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x: Tensor, kv_cache: Any = None) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    cycled = CycleWrapper(Foreign(), 2).eval()
    with pytest.raises(ValueError, match=r"Foreign got a key-value cache \(list\)"):
        cycled(torch.ones(2, 3, 4), num_cycles=2, kv_cache=[])
    cycled(torch.ones(2, 3, 4), kv_cache=[])


def linear_attention(name: str) -> nn.Module:
    """A decoder with linear attention, alone or beside the usual one."""
    if not hasattr(tf.cache_utils, "LinearAttentionLayer"):
        pytest.skip("this version of transformers has other caches for linear attention")
    torch.manual_seed(0)
    model: nn.Module
    if name == "mamba":
        sizes = {"vocab_size": 89, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
        model = tf.MambaForCausalLM(tf.MambaConfig(**sizes))
    else:
        ssm = {"mamba_d_ssm": 16, "mamba_n_heads": 4, "mamba_d_head": 4, "mamba_d_state": 4}
        model = tf.FalconH1ForCausalLM(tf.FalconH1Config(**SIZES, **ssm, mamba_n_groups=1))
    model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("name", ["mamba", "falcon-h1"])
def test_generation_with_linear_attention(name: str) -> None:
    cycled = CycleWrapper(linear_attention(name), 2).eval()
    ids = torch.randint(1, 89, (3, 5))
    texts = []
    for num_cycles in (1, 2):
        for use_cache in (True, False):
            with cycled.cycles(num_cycles):
                texts.append(
                    cycled.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use_cache)
                )
        assert torch.equal(texts[-1], texts[-2])
    assert not torch.equal(texts[0], texts[-1])


@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpoints_with_linear_attention(kind: str) -> None:
    found = []
    ids = torch.randint(1, 89, (3, 5))
    for checkpointing, use_cache in ((None, False), (kind, True)):
        model = linear_attention("falcon-h1").double()
        cycled = CycleWrapper(model, 2, activation_checkpointing=checkpointing).train()
        output = cycled(input_ids=ids, labels=ids, use_cache=use_cache)
        sum(prediction.loss for prediction in output.predictions).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found[1], found[0], atol=1e-10, rtol=0)


CHECKPOINTS = pytest.mark.parametrize("kind", [None, "block", "cycle"])


@CHECKPOINTS
@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_training_with_the_default_use_cache(name: str, kind: str | None) -> None:
    model = make(name)
    ids = prompt(name)["input_ids"]
    expected = {}
    for use_cache in (None, False):
        cycled = CycleWrapper(
            model, 2, activation_checkpointing=None if use_cache is False else kind
        ).train()
        model.zero_grad()
        output = cycled(**prompt(name), labels=ids, use_cache=use_cache)
        if use_cache is None:
            caches = [prediction.past_key_values for prediction in output.predictions]
            assert caches[0] is not caches[1]
            assert [len(cache.layers) for cache in caches] == [3, 3]
        criterion = CycleDistillLoss(lambda prediction: prediction.loss, token_weight=0.1)
        criterion(output).total.backward()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        for key, gradient in expected.items():
            torch.testing.assert_close(found[key], gradient, atol=1e-12, rtol=0)
        expected = found
        assert cycled.unwrap() is model


@CHECKPOINTS
def test_a_learnt_prefix_enters_every_cycle(kind: str | None) -> None:
    model = make("llama")
    ids = prompt("llama")["input_ids"]
    learnt = torch.randn(3, 2, 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def prefix() -> Any:
        cache = tf.DynamicCache(config=model.config)
        for index, (keys, values) in enumerate(learnt):
            cache.update(keys.expand(3, -1, -1, -1), values.expand(3, -1, -1, -1), index)
        return cache

    cycled = CycleWrapper(model, 2, activation_checkpointing=kind).train()
    output = cycled(input_ids=ids, past_key_values=prefix())
    first = model.train()(input_ids=ids, past_key_values=prefix())
    handles = [
        model.get_submodule("model.layers.0").register_forward_pre_hook(
            lambda module, args: (output.tokens[0], *args[1:])
        )
    ]
    second = model(input_ids=ids, past_key_values=prefix())
    handles[0].remove()
    torch.testing.assert_close(output.predictions[0].logits, first.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(output.predictions[1].logits, second.logits, atol=1e-12, rtol=0)
    (expected,) = torch.autograd.grad(second.logits.sum(), learnt, retain_graph=True)
    output.predictions[1].logits.sum().backward()
    assert learnt.grad is not None
    assert learnt.grad.abs().min() > 0
    torch.testing.assert_close(learnt.grad, expected, atol=1e-10, rtol=0)


def test_a_model_that_keeps_a_state_in_itself_needs_no_cache() -> None:
    sizes = {name: size for name, size in SIZES.items() if name != "max_position_embeddings"}
    torch.manual_seed(0)
    config = tf.RecurrentGemmaConfig(**sizes, lru_width=16, pad_token_id=0, eos_token_id=None)
    cycled = CycleWrapper(tf.RecurrentGemmaForCausalLM(config).eval(), 2, "model.layers")
    ids = torch.randint(1, 89, (2, 5))
    with cycled.cycles(2):
        with pytest.raises(ValueError, match=r"RecurrentGemma.* keeps in itself.*use_cache=False"):
            cycled.generate(ids, max_new_tokens=3)
        found = cycled.generate(ids, max_new_tokens=1, use_cache=False)
    expected = cycled(ids, num_cycles=2).logits[:, -1].argmax(-1)
    assert torch.equal(found[:, -1], expected)

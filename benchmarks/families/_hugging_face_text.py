"""Models of transformers for text."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.families._candidate import Candidate, Inputs
from benchmarks.families._transformers import TEXT, TOKENS, candidate, plain_words, uncached, words


def encoders() -> list[Candidate]:
    made: list[Candidate] = []

    def add(*args: Any, **config: Any) -> None:
        made.append(candidate(*args, **config))

    def uncached_memory() -> Inputs:
        args, kwargs = words()
        return args, {**kwargs, "use_mems": False}

    for name in (
        "BertModel",
        "BertForSequenceClassification",
        "RobertaForSequenceClassification",
    ):
        add(name, words, **TEXT, **TOKENS)
    distil = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    add("DistilBertForSequenceClassification", words, **distil)
    add("AlbertModel", words, "encoder", embedding_size=16, **TEXT, **TOKENS)
    t5 = {"vocab_size": 50, "d_model": 16, "num_layers": 3, "num_heads": 2, "d_ff": 32, "d_kv": 8}
    add("T5EncoderModel", words, dropout_rate=0.0, **t5)
    add("CLIPTextModel", words, **TEXT, **TOKENS)
    add("ModernBertForMaskedLM", words, local_attention=4, **TEXT, **TOKENS)
    add(
        "DebertaV2Model",
        words,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        **TEXT,
        **TOKENS,
    )
    add("ElectraForSequenceClassification", words, embedding_size=16, **TEXT, **TOKENS)
    add("RoFormerModel", words, embedding_size=16, **TEXT, **TOKENS)
    add("MPNetModel", words, **TEXT, **TOKENS)
    add("NomicBertModel", words, **TEXT, **TOKENS)
    add(
        "FunnelModel",
        words,
        block_sizes=[2, 2],
        d_model=16,
        n_head=2,
        d_head=8,
        d_inner=32,
        vocab_size=50,
    )
    add("XLNetModel", uncached_memory, vocab_size=50, d_model=16, n_layer=3, n_head=2, d_inner=32)
    add("LongformerModel", partial(plain_words, 12), attention_window=4, **TEXT, **TOKENS)
    squeezed = dict.fromkeys(("q_groups", "k_groups", "v_groups", "output_groups"), 2)
    squeezed.update(post_attention_groups=2, intermediate_groups=2)
    add("SqueezeBertModel", words, embedding_size=16, **squeezed, **TEXT, **TOKENS)
    bottleneck = {"embedding_size": 16, "intra_bottleneck_size": 16}
    add("MobileBertModel", words, **bottleneck, **TEXT, **TOKENS)
    add("FNetModel", plain_words, **TEXT, **TOKENS)
    reformer = {
        "attention_head_size": 8,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "feed_forward_size": 32,
        "attn_layers": ["local", "local", "local"],
        "local_attn_chunk_length": 4,
        "axial_pos_embds": False,
        "max_position_embeddings": 16,
        "is_decoder": False,
        "vocab_size": 50,
    }
    add("ReformerModel", partial(plain_words, 8), **reformer)

    add(
        "SwitchTransformersEncoderModel",
        words,
        vocab_size=50,
        d_model=16,
        num_layers=4,
        num_heads=2,
        d_ff=32,
        d_kv=8,
        num_experts=4,
        num_sparse_encoder_layers=2,
        dropout_rate=0.0,
    )
    return made


def decoders() -> list[Candidate]:
    made: list[Candidate] = []

    def add(*args: Any, **config: Any) -> None:
        made.append(candidate(*args, **config))

    def uncached_words() -> Inputs:
        return words()[0], {"use_cache": False}

    gpt2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2}
    add("GPT2LMHeadModel", uncached, **gpt2, **TOKENS)
    add("GPT2ForSequenceClassification", uncached, **gpt2, **TOKENS)
    add("LlamaForCausalLM", uncached, **TEXT, **TOKENS)
    add("GPTNeoXForCausalLM", uncached, **TEXT, **TOKENS)
    opt = {
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    add("OPTForCausalLM", uncached, **opt, **TOKENS)
    add("OPTForCausalLM", uncached, label=", layers dropped", **opt, **TOKENS, layerdrop=0.3)
    add("BloomForCausalLM", uncached, n_layer=3, n_head=2, hidden_size=16, vocab_size=50, **TOKENS)
    grouped = {**TEXT, **TOKENS, "num_key_value_heads": 1, "head_dim": 8}
    for name in (
        "MistralForCausalLM",
        "Qwen3ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
    ):
        add(name, uncached, **grouped)
    add("Olmo2ForCausalLM", uncached, **TEXT, **TOKENS)
    add(
        "GPTJForCausalLM",
        uncached,
        vocab_size=50,
        n_embd=16,
        n_layer=3,
        n_head=2,
        rotary_dim=4,
        **TOKENS,
    )
    routed = {**grouped, "output_router_logits": True, "experts": "eager"}
    add("MixtralForCausalLM", uncached, num_local_experts=4, num_experts_per_tok=2, **routed)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    add("Qwen2MoeForCausalLM", uncached, shared_expert_intermediate_size=16, **experts, **routed)
    add("Qwen3MoeForCausalLM", uncached, **experts, **routed)
    add("GptOssForCausalLM", uncached, num_local_experts=4, sliding_window=4, **routed)
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    choice = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    add(
        "DeepseekV3ForCausalLM",
        uncached,
        experts="eager",
        v_head_dim=8,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        **latent,
        **choice,
        **TEXT,
        **TOKENS,
    )
    add("RecurrentGemmaForCausalLM", uncached, lru_width=16, **grouped)
    add("LlamaForCausalLM", uncached, label=", checkpointing", checkpointing=True, **TEXT, **TOKENS)
    add(
        "MambaForCausalLM",
        uncached_words,
        vocab_size=50,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=3,
        use_mambapy=False,
        **TOKENS,
    )
    add(
        "xLSTMForCausalLM",
        uncached_words,
        vocab_size=50,
        hidden_size=16,
        num_heads=2,
        num_blocks=3,
    )
    add(
        "RwkvForCausalLM",
        uncached_words,
        vocab_size=50,
        hidden_size=16,
        attention_hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        context_length=8,
        **TOKENS,
    )
    add(
        "JambaForCausalLM",
        uncached,
        "model.layers",
        **grouped,
        experts="eager",
        num_experts=2,
        use_mamba_kernels=False,
        mamba_d_state=4,
        mamba_dt_rank=4,
        attn_layer_period=2,
        attn_layer_offset=1,
    )

    return made


def encoders_with_decoders() -> list[Candidate]:
    made: list[Candidate] = []

    def add(*args: Any, **config: Any) -> None:
        made.append(candidate(*args, **config))

    def translated() -> Inputs:
        args, kwargs = uncached()
        return args, {**kwargs, "decoder_input_ids": torch.randint(2, 48, (2, 5))}

    def spoken() -> Inputs:
        target = {"decoder_input_ids": torch.randint(2, 48, (2, 5)), "use_cache": False}
        return (torch.randn(2, 8, 32),), target

    t5 = {"vocab_size": 50, "d_model": 16, "num_layers": 3, "num_heads": 2, "d_ff": 32, "d_kv": 8}
    t5 = {**t5, "decoder_start_token_id": 0, "pad_token_id": 0, "dropout_rate": 0.0}
    add("T5ForConditionalGeneration", translated, "encoder.block", ", encoder", **t5)
    add("T5ForConditionalGeneration", translated, "decoder.block", ", decoder", **t5)
    bart = {
        "vocab_size": 50,
        "d_model": 16,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    }
    special = {**TOKENS, "decoder_start_token_id": 1}
    add("BartForConditionalGeneration", translated, None, ", encoder", **bart, **special)
    add(
        "BartForConditionalGeneration",
        translated,
        "model.decoder.layers",
        ", decoder",
        **bart,
        **special,
    )
    whisper = {
        **bart,
        **special,
        "num_mel_bins": 8,
        "max_source_positions": 16,
        "max_target_positions": 16,
    }
    add("WhisperForConditionalGeneration", spoken, None, ", encoder", **whisper)
    add(
        "WhisperForConditionalGeneration",
        spoken,
        None,
        ", layers dropped",
        **whisper,
        encoder_layerdrop=0.3,
    )

    return made

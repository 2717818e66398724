"""Families from 2019 to 2024: compared as directories and, where there are such, as GGUF files."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers
from gguf_twin import Twin

SHAPE = {"vocab_size": 384, "initializer_range": 0.2}
GPT = {**SHAPE, "n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 512}
SIZES = {**SHAPE, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
MPT = {**SHAPE, "d_model": 96, "n_layers": 3, "n_heads": 3, "max_seq_len": 512}
SDPA = {"attn_implementation": "sdpa"}  # Falcon's other code adds ALiBi twice
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel, GPT),
    "gpt_bigcode": (transformers.GPTBigCodeConfig, transformers.GPTBigCodeForCausalLM, GPT),
    "bloom": (
        transformers.BloomConfig,
        transformers.BloomForCausalLM,
        {**SHAPE, "hidden_size": 96, "n_layer": 3, "n_head": 4},
    ),
    "mpt": (transformers.MptConfig, transformers.MptForCausalLM, MPT),
    "falcon": (
        transformers.FalconConfig,
        transformers.FalconForCausalLM,
        {**SIZES, "num_kv_heads": 1, **SDPA},
    ),
    "gptj": (transformers.GPTJConfig, transformers.GPTJForCausalLM, {**GPT, "rotary_dim": 16}),
    "codegen": (transformers.CodeGenConfig, transformers.CodeGenForCausalLM, {**GPT, "rotary_dim": 16}),
    "gpt_neo": (
        transformers.GPTNeoConfig,
        transformers.GPTNeoForCausalLM,
        {
            **SHAPE,
            "hidden_size": 96,
            "num_layers": 3,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1], [["local"], 1]],
            "window_size": 24,
            "initializer_range": 0.1,  # scores are not scaled
        },
    ),
    "opt": (
        transformers.OPTConfig,
        transformers.OPTForCausalLM,
        {**SIZES, "ffn_dim": 160, "word_embed_proj_dim": 96, "init_std": 0.2},
    ),
    "glm": (
        transformers.GlmConfig,
        transformers.GlmForCausalLM,
        {
            **SIZES,
            "intermediate_size": 160,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "pad_token_id": 0,
            "max_position_embeddings": 512,
        },
    ),
}
NEW_FALCON = {"new_decoder_architecture": True, "num_kv_heads": 2}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"n_inner": 160, "n_head": 3, "tie_word_embeddings": False, "activation_function": "gelu"}),
    ("gpt_bigcode", {}),
    ("gpt_bigcode", {"multi_query": False}),
    ("bloom", {}),
    ("bloom", {"n_head": 6, "tie_word_embeddings": False}),
    ("mpt", {}),
    ("mpt", {"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.4}}),
    ("falcon", {}),
    ("falcon", NEW_FALCON),
    (
        "falcon",
        {**NEW_FALCON, "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 160, "tie_word_embeddings": False},
    ),
    (
        "falcon",
        {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True, "num_kv_heads": 4},
    ),
    ("gptj", {}),
    ("codegen", {}),
    ("gpt_neo", {}),
    ("opt", {}),
    ("glm", {}),
    ("glm", {"attention_bias": False}),
]


def rows_of_inputs(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """Matrices of layers, which directories have as inputs x outputs."""
    return {name: values.T if name.startswith("blk.") and values.ndim == 2 else values}


def ungrouped(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray]:
    """All queries, then all keys and all values, which stand by heads of keys in directories."""
    if ".attn_qkv." not in name or config.get("multi_query") and not config["new_decoder_architecture"]:
        return {name: values}
    heads = config.get("n_head") or config["num_kv_heads"]
    dim = config["hidden_size"] // (config.get("n_head") or config["num_attention_heads"])
    rows = values.reshape(heads, -1, dim, *values.shape[1:])
    parts = rows[:, :-2], rows[:, -2:-1], rows[:, -1:]
    return {name: np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])}


EPSILON = "attention.layer_norm_epsilon"
GPT_KEYS = {
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_positions": "context_length",
    "layer_norm_epsilon": EPSILON,
}
GPT_TOP = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
GPT_PARTS = {
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
BLOOM_TOP = {
    "word_embeddings": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "ln_f": "output_norm",
}
BLOOM_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
FEED_FORWARD = {"feed_forward_length": 384}
# Of what cases set.
NOT_IN_GGUF = {"activation_function", "multi_query", "attn_config"}
TWINS = {
    "gpt2": Twin("gpt2", GPT_PARTS, GPT_KEYS, FEED_FORWARD, top=GPT_TOP, split=rows_of_inputs),
    "gpt_bigcode": Twin(
        "starcoder", GPT_PARTS, GPT_KEYS, {**FEED_FORWARD, "attention.head_count_kv": 1}, top=GPT_TOP
    ),
    "bloom": Twin("bloom", BLOOM_PARTS, GPT_KEYS, FEED_FORWARD, top=BLOOM_TOP, split=ungrouped),
    "mpt": Twin(
        "mpt",
        {
            "norm_1": "attn_norm",
            "norm_2": "ffn_norm",
            "attn.Wqkv": "attn_qkv",
            "attn.out_proj": "attn_output",
            "ffn.up_proj": "ffn_up",
            "ffn.down_proj": "ffn_down",
        },
        {
            "d_model": "embedding_length",
            "n_layers": "block_count",
            "n_heads": "attention.head_count",
            "max_seq_len": "context_length",
            "layer_norm_epsilon": EPSILON,
        },
        {**FEED_FORWARD, "attention.max_alibi_bias": 8.0},
        top={"wte": "token_embd", "norm_f": "output_norm"},
    ),
    "falcon": Twin(
        "falcon",
        {**BLOOM_PARTS, "ln_attn": "attn_norm_2", "ln_mlp": "attn_norm"},
        {
            "layer_norm_epsilon": EPSILON,
            "num_kv_heads": "attention.head_count_kv",
            "ffn_hidden_size": "feed_forward_length",
        },
        top=BLOOM_TOP,
        split=ungrouped,
    ),
    "glm": Twin("chatglm", {"mlp.gate_up_proj": "ffn_up"}, more={"rope.dimension_count": 12}),
}

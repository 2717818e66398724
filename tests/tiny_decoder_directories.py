"""Tiny Hugging Face directories of decoders, made of tiny GGUF files: the same numbers under other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_encoders import write_json, write_safetensors
from tiny_models import CHAT_TEMPLATE, IM_END, MERGES, SPECIAL_TOKENS, byte_alphabet
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llm_serving.checkpoints import Checkpoint, dequantize, open_checkpoint

TOP_PARTS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_PARTS = {
    **LAYER_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


_OLMO_PARTS = {
    **LAYER_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GLM_PARTS = {
    **LAYER_PARTS,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}
_PHI_PARTS = {**LAYER_PARTS, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_HUNYUAN_PARTS = {
    **LAYER_PARTS,
    "attn_q_norm": "self_attn.query_layernorm",
    "attn_k_norm": "self_attn.key_layernorm",
}
_MODEL_TYPES = {"gemma3": "gemma3_text", "hunyuan-dense": "hunyuan_v1_dense"}
_PARTS_OF = {
    "glm4": _GLM_PARTS,
    "hunyuan-dense": _HUNYUAN_PARTS,
    "gemma2": _GEMMA_PARTS,
    "gemma3": _GEMMA_PARTS,
    "olmo2": _OLMO_PARTS,
    "phi3": _PHI_PARTS,
}
_PAIRED = ("llama", "smollm3", "granite")  # rotary dimensions in GGUF files
_GRANITE = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}

_MIXTRAL_PARTS = {"router": "gate", "gate": "w1", "up": "w3", "down": "w2"}
_QWEN_PARTS = {"router": "gate", "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def write_directory(directory: Path, gguf: Path, **config: Any) -> Path:
    """The model of a tiny GGUF file as `save_pretrained` would write it; keywords go into its config.json."""
    checkpoint = open_checkpoint(gguf)
    parts = _PARTS_OF.get(checkpoint.architecture, LAYER_PARTS)
    tensors = {
        own: rows.astype(np.float32)
        for name in checkpoint.tensors
        if name != "rope_freqs.weight"
        for own, rows in _named(checkpoint, name, parts)
    }
    write_safetensors(directory / "model.safetensors", tensors)
    write_json(directory / "config.json", {**_config(checkpoint), **config})
    write_tokenizer(directory, len(tensors["model.embed_tokens.weight"]))
    return directory


def write_tokenizer(directory: Path, vocab: int) -> None:
    """The tokenizer of `tiny_models` as a tokenizer.json with its configuration."""
    tokens = SPECIAL_TOKENS + byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    tokens += [f"<|unused_{i}|>" for i in range(vocab - len(tokens))]
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": SPECIAL_TOKENS[1]},
        "eos_token": SPECIAL_TOKENS[2],
        "pad_token": SPECIAL_TOKENS[2],
        "add_bos_token": False,
        "chat_template": [
            {"name": "tool_use", "template": "-"},
            {"name": "default", "template": CHAT_TEMPLATE},
        ],
    }
    write_json(directory / "tokenizer_config.json", config)
    write_json(directory / "generation_config.json", {"eos_token_id": [0, IM_END]})


def _named(checkpoint: Checkpoint, name: str, parts: dict[str, str]) -> list[tuple[str, np.ndarray]]:
    """What one tensor of the file is in the directory; of experts, a tensor each."""
    values = _rows(checkpoint, name)
    part = name.split(".")[-2]
    if not part.endswith(("_exps", "_gate_inp")):
        return [(_name(name, parts), values)]
    is_mixtral = checkpoint.architecture == "llama"
    own = _MIXTRAL_PARTS if is_mixtral else _QWEN_PARTS
    mixture = f"model.layers.{name.split('.')[1]}.{'block_sparse_moe' if is_mixtral else 'mlp'}."
    if part.endswith("_gate_inp"):
        return [(f"{mixture}{own['router']}.weight", values)]
    matrix = own[part.removeprefix("ffn_").removesuffix("_exps")]
    return [(f"{mixture}experts.{e}.{matrix}.weight", rows) for e, rows in enumerate(values)]


def _name(name: str, parts: dict[str, str]) -> str:
    stem, suffix = name.rsplit(".", 1)
    if stem in TOP_PARTS:
        return f"{TOP_PARTS[stem]}.{suffix}"
    _, index, part = stem.split(".")
    return f"model.layers.{index}.{parts[part]}.{suffix}"


def _rows(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """A tensor's values; rotary pairs (2i, 2i + 1), as in llama's GGUF files, become (i, i + d / 2).

    Of Gemma's norms only what they differ from one by.
    """
    values = dequantize(checkpoint.tensor(name))
    if checkpoint.architecture.startswith("gemma") and "norm" in name:
        return values - np.float32(1)
    if checkpoint.architecture not in _PAIRED or name.split(".")[-2] not in ("attn_q", "attn_k"):
        return values
    key = "attention.head_count" if ".attn_q." in name else "attention.head_count_kv"
    paired = values.reshape(checkpoint.hyper(key), -1, 2, values.shape[-1])
    return paired.swapaxes(1, 2).reshape(values.shape)


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    hidden, heads = checkpoint.hyper("embedding_length"), checkpoint.hyper("attention.head_count")
    is_gemma = checkpoint.architecture.startswith("gemma")
    gemma = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": checkpoint.hyper("attention.key_length", hidden // heads),
        "sliding_window": checkpoint.hyper("attention.sliding_window", 0),
        "rope_local_base_freq": 10000.0,
        **{
            key: checkpoint.hyper(key)
            for key in ("attn_logit_softcapping", "final_logit_softcapping")
            if checkpoint.hyper(key, None) is not None
        },
    }
    granite = _GRANITE if checkpoint.architecture == "granite" else {}
    local = checkpoint.hyper("attention.sliding_window_pattern")
    olmo3 = {
        "model_type": "olmo3",
        "sliding_window": checkpoint.hyper("attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if is_local else "full_attention"
            for is_local in (() if local is None else local)
        ],
    }
    experts = {
        "model_type": {"llama": "mixtral", "qwen3moe": "qwen3_moe"}.get(
            checkpoint.architecture, checkpoint.architecture
        ),
        "moe_intermediate_size": checkpoint.hyper("feed_forward_length"),
        "num_local_experts": checkpoint.hyper("expert_count", 0),
        "num_experts_per_tok": checkpoint.hyper("expert_used_count", 0),
        "norm_topk_prob": checkpoint.architecture != "olmoe",  # which GGUF files do not say, but mean
    }
    return {
        "model_type": _MODEL_TYPES.get(checkpoint.architecture, checkpoint.architecture),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": checkpoint.hyper("feed_forward_length"),
        "num_hidden_layers": checkpoint.hyper("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": checkpoint.hyper("attention.head_count_kv"),
        "head_dim": checkpoint.hyper("attention.key_length", hidden // heads),
        "max_position_embeddings": checkpoint.hyper("context_length"),
        "rms_norm_eps": float(checkpoint.hyper("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(checkpoint.hyper("rope.freq_base")),
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
        "vocab_size": checkpoint.tensor("token_embd.weight").shape[0],
        **({key: checkpoint.hyper(own) for key, own in granite.items()}),
        **(gemma if is_gemma else {}),
        **(olmo3 if checkpoint.architecture == "olmo2" and local is not None else {}),
        **(experts if checkpoint.hyper("expert_count", 0) else {}),
    }

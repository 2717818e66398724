"""Tiny Hugging Face directories with random weights and a learned tokenizer, built without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 400
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXT = "Translate to English: Je t’aime. Hello! Talk about the News. You are a helpful assistant. 你好 😀 "

_COMMON = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
# Configurations of families that differ in how they know positions, share heads, or remember.
CONFIGS: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": 128},
    "llama": _SHAPE,
    "qwen2": _SHAPE,
    "qwen3": _SHAPE,
    "mistral": {**_SHAPE, "sliding_window": 8},
    "gemma2": {**_SHAPE, "sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_SHAPE, "sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "mixtral": {**_SHAPE, "num_local_experts": 4},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def learn_tokenizer() -> Tokenizer:
    """Byte-level BPE with the special tokens of ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT * 3], trainer)
    return tokenizer


def write_tokenizer(
    directory: Path, chat_template: str | None = None, tokenizer: Tokenizer | None = None
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (tokenizer or learn_tokenizer()).save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIALS[2],
        "pad_token": SPECIALS[0],
        **({"chat_template": chat_template} if chat_template else {}),
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def write_model(
    directory: Path, family: str, chat_template: str | None = None, seed: int = 5, **config: Any
) -> Path:
    """A causal model of this family as `save_pretrained` writes it."""
    write_tokenizer(directory, chat_template)
    torch.manual_seed(seed)
    settings = transformers.AutoConfig.for_model(family, **{**_COMMON, **CONFIGS[family], **config})
    model = transformers.AutoModelForCausalLM.from_config(settings)
    for weights in model.parameters():  # large enough for the logits to differ
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(directory)
    return directory

"""A tiny Qwen2.5-VL directory of random weights, with all the files that a real one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tokenizers import AddedToken, Tokenizer

VOCAB, HIDDEN, FFN, LAYERS, HEADS, KV_HEADS = 400, 64, 96, 2, 4, 2
PATCH, SIDE, VISION_HIDDEN, VISION_FFN, VISION_LAYERS, VISION_HEADS = 4, 2, 32, 52, 3, 2
UNIT = PATCH * SIDE  # pixels a side of what becomes a row
MOST_ROWS = 40
TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PLACE = VOCAB - 2  # the id of <|image_pad|>
# As Qwen's own, in short.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROCESSOR = {
    "min_pixels": 4 * UNIT**2,
    "max_pixels": MOST_ROWS * UNIT**2,
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": SIDE,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
VISION = {
    "depth": VISION_LAYERS,
    "hidden_act": "silu",
    "hidden_size": VISION_HIDDEN,
    "intermediate_size": VISION_FFN,
    "num_heads": VISION_HEADS,
    "in_chans": 3,
    "out_hidden_size": HIDDEN,
    "patch_size": PATCH,
    "spatial_merge_size": SIDE,
    "temporal_patch_size": 2,
    "window_size": 2 * UNIT,
    "fullatt_block_indexes": [1],
}
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "use_sliding_window": False,
}


def write_tiny_qwen_vl(directory: Path, processor: dict[str, Any] | None = None, **config: Any) -> Path:
    """As it was published: names and settings of the text model beside those of the vision part."""
    rng = np.random.default_rng(5)
    tensors = {name: _values(rng, name, shape) for name, shape in _shapes().items()}
    write_safetensors(directory / "model.safetensors", tensors, bfloat16=True)
    write_qwen_tokenizer(directory)
    write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(directory / "preprocessor_config.json", {**PROCESSOR, **(processor or {})})
    settings: dict[str, Any] = {"model_type": "qwen2_5_vl", "image_token_id": PLACE, **TEXT}
    write_json(directory / "config.json", {**settings, "vision_config": VISION, **config})
    return directory


def write_qwen_tokenizer(directory: Path) -> None:
    """That of `write_tokenizer`, and the tokens around images."""
    write_tokenizer(directory, VOCAB - len(TOKENS))
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    tokenizer.save(path)
    write_json(directory / "tokenizer_config.json", {"eos_token": "<|im_end|>"})


def _shapes() -> dict[str, tuple[int, ...]]:
    merged, keys = SIDE**2 * VISION_HIDDEN, HIDDEN * KV_HEADS // HEADS
    own: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
        "visual.patch_embed.proj.weight": (VISION_HIDDEN, 3, 2, PATCH, PATCH),
        "visual.merger.ln_q.weight": (VISION_HIDDEN,),
    }
    linear = {"visual.merger.mlp.0": (merged, merged), "visual.merger.mlp.2": (HIDDEN, merged)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        linear[f"{layer}self_attn.q_proj"] = (HIDDEN, HIDDEN)
        linear[f"{layer}self_attn.k_proj"] = linear[f"{layer}self_attn.v_proj"] = (keys, HIDDEN)
        own[f"{layer}self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        own[f"{layer}mlp.gate_proj.weight"] = own[f"{layer}mlp.up_proj.weight"] = (FFN, HIDDEN)
        own[f"{layer}mlp.down_proj.weight"] = (HIDDEN, FFN)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            own[f"{layer}{norm}.weight"] = (HIDDEN,)
    for i in range(VISION_LAYERS):
        block = f"visual.blocks.{i}."
        linear[f"{block}attn.qkv"] = (3 * VISION_HIDDEN, VISION_HIDDEN)
        linear[f"{block}attn.proj"] = (VISION_HIDDEN, VISION_HIDDEN)
        linear[f"{block}mlp.gate_proj"] = linear[f"{block}mlp.up_proj"] = (VISION_FFN, VISION_HIDDEN)
        linear[f"{block}mlp.down_proj"] = (VISION_HIDDEN, VISION_FFN)
        own[f"{block}norm1.weight"] = own[f"{block}norm2.weight"] = (VISION_HIDDEN,)
    for name, (rows, columns) in linear.items():
        own[f"{name}.weight"], own[f"{name}.bias"] = (rows, columns), (rows,)
    return own


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape) * (0.5 if "embed_tokens" in name else 0.15)
    return (values + (("norm" in name or "ln_q" in name) and name.endswith("weight"))).astype(np.float32)

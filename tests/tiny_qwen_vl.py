"""Tiny Qwen-VL directories of random weights, with all the files that real ones have."""

from __future__ import annotations

import re
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
VISION_2 = {
    "depth": VISION_LAYERS,
    "embed_dim": VISION_HIDDEN,
    "mlp_ratio": 2,
    "hidden_size": HIDDEN,
    "num_heads": VISION_HEADS,
    "patch_size": PATCH,
}
VISION_3 = {
    **{key: VISION[key] for key in ("depth", "hidden_size", "intermediate_size", "num_heads", "patch_size")},
    "hidden_act": "gelu_pytorch_tanh",
    "out_hidden_size": HIDDEN,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 1],
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
EXPERTS, EXPERT_FFN = 6, 32
MIXTURE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT_FFN}
Shapes = dict[str, tuple[int, ...]]


def write_tiny_qwen_vl(directory: Path, processor: dict[str, Any] | None = None, **config: Any) -> Path:
    """Qwen2.5-VL as it was published: settings of the text model beside those of the vision part."""
    settings = {"model_type": "qwen2_5_vl", **TEXT, "vision_config": VISION}
    return _write(directory, {**PROCESSOR, **(processor or {})}, {**settings, **config}, _shapes(_tower()))


def write_tiny_qwen2_vl(directory: Path, **config: Any) -> Path:
    settings = {"model_type": "qwen2_vl", **TEXT, "vision_config": VISION_2}
    return _write(directory, PROCESSOR, {**settings, **config}, _shapes(_tower_2()))


def write_tiny_qwen3_vl(directory: Path, **config: Any) -> Path:
    return write_3(directory, "qwen3_vl", shapes_3(), {"vision_config": VISION_3, **config})


def write_tiny_qwen3_vl_moe(directory: Path, **config: Any) -> Path:
    """Experts of a layer in two tensors, as inputs x outputs."""
    shapes = {name: shape for name, shape in shapes_3().items() if ".mlp." not in name or "visual" in name}
    for i in range(LAYERS):
        mixture = f"model.language_model.layers.{i}.mlp."
        shapes[f"{mixture}gate.weight"] = (EXPERTS, HIDDEN)
        shapes[f"{mixture}experts.gate_up_proj"] = (EXPERTS, HIDDEN, 2 * EXPERT_FFN)
        shapes[f"{mixture}experts.down_proj"] = (EXPERTS, EXPERT_FFN, HIDDEN)
    return write_3(directory, "qwen3_vl_moe", shapes, {"vision_config": VISION_3, **config}, MIXTURE)


def write_3(
    directory: Path, family: str, shapes: Shapes, config: dict[str, Any], text: dict[str, Any] | None = None
) -> Path:
    """Of Qwen3-VL and its kin; `text` is what differs in the text model's settings."""
    own = {
        **TEXT,
        "model_type": f"{family}_text",
        "head_dim": HIDDEN // HEADS,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        **(text or {}),
    }
    bounds = {"shortest_edge": 4 * UNIT**2, "longest_edge": MOST_ROWS * UNIT**2}
    processor = {**PROCESSOR, "min_pixels": None, "max_pixels": None, "size": bounds}
    return _write(directory, processor, {"model_type": family, "text_config": own, **config}, shapes)


def _write(
    directory: Path, processor: dict[str, Any], config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> Path:
    rng = np.random.default_rng(5)
    tensors = {name: _values(rng, name, shape) for name, shape in shapes.items()}
    write_safetensors(directory / "model.safetensors", tensors, bfloat16=True)
    write_qwen_tokenizer(directory)
    write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(directory / "preprocessor_config.json", processor)
    write_json(directory / "config.json", {"image_token_id": PLACE, **config})
    return directory


def write_qwen_tokenizer(directory: Path) -> None:
    """That of `write_tokenizer`, and the tokens around images."""
    write_tokenizer(directory, VOCAB - len(TOKENS))
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    tokenizer.save(path)
    write_json(directory / "tokenizer_config.json", {"eos_token": "<|im_end|>"})


MERGED = SIDE**2 * VISION_HIDDEN


def _shapes(tower: tuple[Shapes, Shapes]) -> Shapes:
    """Of the text model, and of a tower: what has weights and biases, and what has one tensor."""
    keys = HIDDEN * KV_HEADS // HEADS
    own: Shapes = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
        **tower[1],
    }
    linear = dict(tower[0])
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        linear[f"{layer}self_attn.q_proj"] = (HIDDEN, HIDDEN)
        linear[f"{layer}self_attn.k_proj"] = linear[f"{layer}self_attn.v_proj"] = (keys, HIDDEN)
        own[f"{layer}self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        own[f"{layer}mlp.gate_proj.weight"] = own[f"{layer}mlp.up_proj.weight"] = (FFN, HIDDEN)
        own[f"{layer}mlp.down_proj.weight"] = (HIDDEN, FFN)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            own[f"{layer}{norm}.weight"] = (HIDDEN,)
    for name, sizes in linear.items():
        own[f"{name}.weight"], own[f"{name}.bias"] = sizes, sizes[:1]
    return own


def shapes_3(deep: int = 2) -> Shapes:
    """Of a dense model, whose tower shows so many blocks to the text model's layers."""
    shapes = {
        name.replace("model.", "model.language_model.", 1).replace("visual.", "model.visual.", 1): shape
        for name, shape in _shapes(_tower_3(deep)).items()
        if not re.search(r"_proj.bias", name)
    }
    for i in range(LAYERS):
        for norm in ("q_norm", "k_norm"):
            shapes[f"model.language_model.layers.{i}.self_attn.{norm}.weight"] = (HIDDEN // HEADS,)
    return shapes


def _tower() -> tuple[Shapes, Shapes]:
    linear, own = _blocks({"gate_proj": VISION_FFN, "up_proj": VISION_FFN, "down_proj": -VISION_FFN})
    norms = {name: sizes for name, sizes in linear.items() if "norm" in name}
    linear = {name: sizes for name, sizes in linear.items() if name not in norms}
    own |= {f"{name}.weight": sizes for name, sizes in norms.items()}
    return linear | _merger(), {**own, "visual.merger.ln_q.weight": (VISION_HIDDEN,)}


def _tower_2() -> tuple[Shapes, Shapes]:
    linear, own = _blocks({"fc1": 2 * VISION_HIDDEN, "fc2": -2 * VISION_HIDDEN})
    return linear | _merger() | {"visual.merger.ln_q": (VISION_HIDDEN,)}, own


def _tower_3(deep: int) -> tuple[Shapes, Shapes]:
    linear, own = _blocks({"linear_fc1": VISION_FFN, "linear_fc2": -VISION_FFN})
    merged = {"merger": VISION_HIDDEN, **{f"deepstack_merger_list.{i}": MERGED for i in range(deep)}}
    for merger, normed in merged.items():
        linear[f"visual.{merger}.norm"] = (normed,)
        linear[f"visual.{merger}.linear_fc1"] = (MERGED, MERGED)
        linear[f"visual.{merger}.linear_fc2"] = (HIDDEN, MERGED)
    linear["visual.patch_embed.proj"] = own.pop("visual.patch_embed.proj.weight")
    return linear, {**own, "visual.pos_embed.weight": (25, VISION_HIDDEN)}


def _blocks(mlp: dict[str, int]) -> tuple[Shapes, Shapes]:
    """`mlp` has rows of its matrices; those below zero are columns."""
    linear: Shapes = {}
    for i in range(VISION_LAYERS):
        block = f"visual.blocks.{i}."
        linear[f"{block}attn.qkv"] = (3 * VISION_HIDDEN, VISION_HIDDEN)
        linear[f"{block}attn.proj"] = (VISION_HIDDEN, VISION_HIDDEN)
        for name, size in mlp.items():
            linear[f"{block}mlp.{name}"] = (size, VISION_HIDDEN) if size > 0 else (VISION_HIDDEN, -size)
        linear[f"{block}norm1"] = linear[f"{block}norm2"] = (VISION_HIDDEN,)
    return linear, {"visual.patch_embed.proj.weight": (VISION_HIDDEN, 3, 2, PATCH, PATCH)}


def _merger() -> Shapes:
    return {"visual.merger.mlp.0": (MERGED, MERGED), "visual.merger.mlp.2": (HIDDEN, MERGED)}


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape) * (0.5 if "embed_tokens" in name else 0.15)
    return (values + (("norm" in name or "ln_q" in name) and name.endswith("weight"))).astype(np.float32)

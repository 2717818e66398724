"""A tiny Gemma 3 directory of random weights that sees, with all the files that a real one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tokenizers import AddedToken, Tokenizer

VOCAB, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 400, 64, 96, 4, 2, 16
TILE, PATCH, VISION_HIDDEN, VISION_FFN, VISION_LAYERS = 32, 4, 32, 48, 2
ROWS = 16  # of a picture: means of 2 x 2 patches
WINDOW = 6  # tokens, fewer than a picture has
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
TOKENS = ["<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>", "<end_of_turn>"]
PLACE = VOCAB - 3  # the id of <image_soft_token>
# As Gemma 3's own, in short: contents are texts or lists of parts.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PROCESSOR = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pan_and_scan": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Gemma3ImageProcessor",
    "image_seq_length": ROWS,
    "image_std": [0.5, 0.5, 0.5],
    "pan_and_scan_max_num_crops": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": TILE, "width": TILE},
}
# What stands before the parts' names: as `transformers` 5 writes them, and as they were published first.
NAMINGS = {
    "newer": ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector."),
    "older": ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector."),
}


def write_tiny_gemma(directory: Path, naming: str = "older", **config: Any) -> Path:
    """Keywords go into its config.json. Numbers are the same in every naming."""
    rng = np.random.default_rng(5)
    text, vision, projector = NAMINGS[naming]
    shapes = {f"{text}{name}": shape for name, shape in _text_shapes().items()}
    shapes |= {f"{vision}{name}": shape for name, shape in _vision_shapes().items()}
    shapes[f"{projector}mm_input_projection_weight"] = (VISION_HIDDEN, HIDDEN)
    shapes[f"{projector}mm_soft_emb_norm.weight"] = (VISION_HIDDEN,)
    tensors = {name: _values(rng, name, shape) for name, shape in shapes.items()}
    write_safetensors(directory / "model.safetensors", tensors, bfloat16=True)
    write_gemma_tokenizer(directory)
    write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(directory / "preprocessor_config.json", PROCESSOR)
    write_json(directory / "processor_config.json", {"image_seq_length": ROWS})
    settings: dict[str, Any] = {
        "model_type": "gemma3",
        "mm_tokens_per_image": ROWS,
        "image_token_index": PLACE,
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_hidden_layers": len(LAYERS),
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "query_pre_attn_scalar": HEAD_DIM,
            "max_position_embeddings": 1024,
            "layer_types": LAYERS,
            "sliding_window": WINDOW,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_FFN,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": 4,
            "image_size": TILE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
    }
    write_json(directory / "config.json", {**settings, **config})
    return directory


def write_gemma_tokenizer(directory: Path) -> None:
    """That of `write_tokenizer`, and the tokens around turns and images."""
    write_tokenizer(directory, VOCAB - len(TOKENS))
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    tokenizer.save(path)
    write_json(directory / "tokenizer_config.json", {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})


def _text_shapes() -> dict[str, tuple[int, ...]]:
    own: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (VOCAB, HIDDEN), "norm.weight": (HIDDEN,)}
    for i in range(len(LAYERS)):
        layer = f"layers.{i}."
        for name, rows, cols in (
            ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
            ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
            ("mlp.gate_proj", FFN, HIDDEN),
            ("mlp.up_proj", FFN, HIDDEN),
            ("mlp.down_proj", HIDDEN, FFN),
        ):
            own[f"{layer}{name}.weight"] = (rows, cols)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            own[f"{layer}{name}_layernorm.weight"] = (HIDDEN,)
        for name in ("q_norm", "k_norm"):
            own[f"{layer}self_attn.{name}.weight"] = (HEAD_DIM,)
    return own


def _vision_shapes() -> dict[str, tuple[int, ...]]:
    own: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (VISION_HIDDEN, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (VISION_HIDDEN,),
        "embeddings.position_embedding.weight": ((TILE // PATCH) ** 2, VISION_HIDDEN),
        "post_layernorm.weight": (VISION_HIDDEN,),
        "post_layernorm.bias": (VISION_HIDDEN,),
    }
    for i in range(VISION_LAYERS):
        layer = f"encoder.layers.{i}."
        sides = {"mlp.fc1": (VISION_FFN, VISION_HIDDEN), "mlp.fc2": (VISION_HIDDEN, VISION_FFN)}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sides[f"self_attn.{name}"] = (VISION_HIDDEN, VISION_HIDDEN)
        for name, (rows, cols) in sides.items():
            own[f"{layer}{name}.weight"], own[f"{layer}{name}.bias"] = (rows, cols), (rows,)
        for norm in ("layer_norm1", "layer_norm2"):
            own[f"{layer}{norm}.weight"] = own[f"{layer}{norm}.bias"] = (VISION_HIDDEN,)
    return own


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape) * (0.5 if "embed_tokens" in name else 0.15)
    return (values + ("layer_norm" in name and name.endswith("weight"))).astype(np.float32)

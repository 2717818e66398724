"""A tiny SmolVLM directory of random weights, with all the files that a real one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tokenizers import AddedToken, Tokenizer

VOCAB, HIDDEN, FFN, LAYERS = 400, 64, 96, 2
TILE, PATCH, VISION_HIDDEN, SHUFFLE = 32, 8, 32, 2
ROWS = (TILE // PATCH // SHUFFLE) ** 2  # of a tile
IMAGE_TOKENS = [
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)),
]
# As SmolVLM's own: contents are lists of parts, and a text by itself is not shown.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
PROCESSOR = {
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Idefics3ImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "max_image_size": {"longest_edge": TILE},
    "resample": 1,
    "rescale_factor": 0.00392156862745098,
    "size": {"longest_edge": 2 * TILE},
}


def write_tiny_smolvlm(directory: Path, **processor: Any) -> Path:
    """Keywords go into its preprocessor_config.json."""
    rng = np.random.default_rng(5)
    tensors = {name: _values(rng, name, shape) for name, shape in _shapes().items()}
    write_safetensors(directory / "model.safetensors", tensors, bfloat16=True)
    write_vision_tokenizer(directory, VOCAB)
    write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(directory / "preprocessor_config.json", {**PROCESSOR, **processor})
    write_json(directory / "processor_config.json", {"image_seq_len": ROWS})
    text = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    vision = {
        "model_type": "smolvlm_vision",
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    config = {"model_type": "smolvlm", "text_config": text, "vision_config": vision, "scale_factor": SHUFFLE}
    write_json(directory / "config.json", config)
    return directory


def write_vision_tokenizer(directory: Path, vocab: int) -> None:
    """That of `write_tokenizer`, and the tokens that stand for images."""
    write_tokenizer(directory, vocab - len(IMAGE_TOKENS))
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in IMAGE_TOKENS])
    tokenizer.save(path)
    write_json(directory / "tokenizer_config.json", {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})


def _shapes() -> dict[str, tuple[int, ...]]:
    text, vision = "model.text_model.", "model.vision_model."
    own = {
        f"{text}embed_tokens.weight": (VOCAB, HIDDEN),
        f"{text}norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
        "model.connector.modality_projection.proj.weight": (HIDDEN, SHUFFLE**2 * VISION_HIDDEN),
        f"{vision}embeddings.patch_embedding.weight": (VISION_HIDDEN, 3, PATCH, PATCH),
        f"{vision}embeddings.patch_embedding.bias": (VISION_HIDDEN,),
        f"{vision}embeddings.position_embedding.weight": ((TILE // PATCH) ** 2, VISION_HIDDEN),
        f"{vision}post_layernorm.weight": (VISION_HIDDEN,),
        f"{vision}post_layernorm.bias": (VISION_HIDDEN,),
    }
    for i in range(LAYERS):
        for name, rows, cols in (
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", HIDDEN // 2, HIDDEN),
            ("self_attn.v_proj", HIDDEN // 2, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", FFN, HIDDEN),
            ("mlp.up_proj", FFN, HIDDEN),
            ("mlp.down_proj", HIDDEN, FFN),
        ):
            own[f"{text}layers.{i}.{name}.weight"] = (rows, cols)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            own[f"{text}layers.{i}.{norm}.weight"] = (HIDDEN,)
        layer = f"{vision}encoder.layers.{i}."
        sides = {"mlp.fc1": (48, VISION_HIDDEN), "mlp.fc2": (VISION_HIDDEN, 48)}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sides[f"self_attn.{name}"] = (VISION_HIDDEN, VISION_HIDDEN)
        for name, (rows, cols) in sides.items():
            own[f"{layer}{name}.weight"], own[f"{layer}{name}.bias"] = (rows, cols), (rows,)
        for norm in ("layer_norm1", "layer_norm2"):
            own[f"{layer}{norm}.weight"] = own[f"{layer}{norm}.bias"] = (VISION_HIDDEN,)
    return own


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape) * (1.0 if "embed_tokens" in name else 0.15)
    return (values + ("norm" in name and name.endswith("weight"))).astype(np.float32)

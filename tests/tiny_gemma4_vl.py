"""Tiny Gemma 4 directories of random weights that see, and their projector as a file (mmproj)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from gguf_pairs import add_key, add_tensor, written
from tiny_decoder_directories import write_tokenizer
from tiny_encoders import write_json, write_safetensors
from tiny_gemma4 import write_gemma4_directory, write_tiny_gemma4, write_tiny_gemma4_large
from tokenizers import AddedToken, Tokenizer

from llm_serving.checkpoints import dequantize, open_checkpoint

VOCAB, HIDDEN, MOST_ROWS = 400, 64, 40
PATCH, SIDE, VISION_HIDDEN, VISION_FFN, HEADS, KV_HEADS, HEAD_DIM = 4, 3, 32, 52, 4, 2, 16
UNIT = PATCH * SIDE  # pixels a side of what becomes a row
TOKENS = ["<|image>", "<|image|>", "<image|>", "<pad>"]
PLACE = VOCAB - 1  # the id of <pad>
# As Gemma 4's own, in short.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<|image|>"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
PROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": False,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
    "max_soft_tokens": MOST_ROWS,
    "patch_size": PATCH,
    "pooling_kernel_size": SIDE,
    "resample": 3,
}
VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": VISION_HIDDEN,
    "intermediate_size": VISION_FFN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "patch_size": PATCH,
    "pooling_kernel_size": SIDE,
    "position_embedding_size": 900,
    "use_clipped_linears": True,
    "standardize": True,
}
BOUNDS = {"input_min": -1.1, "input_max": 0.9, "output_min": -1.2, "output_max": 1.3}
Shapes = dict[str, tuple[int, ...]]


def write_tiny_gemma4_small_vl(directory: Path, **config: Any) -> Path:
    """As the small ones are: inputs for each layer, and a picture's rows see what came before."""
    return _write(directory, write_tiny_gemma4, None, config)


def write_tiny_gemma4_large_vl(directory: Path, **config: Any) -> Path:
    """As the large ones are: experts, and a picture's rows see each other where layers have windows."""
    return _write(directory, write_tiny_gemma4_large, "vision", config)


def text_file(directory: Path) -> Path:
    """The GGUF file of the same text model."""
    return directory.parent / f"{directory.name}-text.gguf"


def _write(directory: Path, write: Callable[..., Path], ahead: str | None, config: dict[str, Any]) -> Path:
    directory.parent.mkdir(parents=True, exist_ok=True)
    text = write(
        text_file(directory), kind="F32", window=6, layers=6, vocab=VOCAB, context=1024, last_tokens=TOKENS
    )
    directory.mkdir(exist_ok=True)
    written_text = open_checkpoint(write_gemma4_directory(directory, text))
    rng = np.random.default_rng(5)
    tensors = {
        name.replace("model.", "model.language_model.", 1): dequantize(tensor)
        for name, tensor in written_text.tensors.items()
    }
    tensors |= {name: _values(rng, name, shape) for name, shape in _vision_shapes().items()}
    write_safetensors(directory / "model.safetensors", tensors)
    text_config = {**written_text.metadata, "use_bidirectional_attention": ahead}
    settings = {"model_type": "gemma4", "text_config": text_config, "vision_config": VISION, **config}
    write_json(directory / "config.json", settings)
    write_json(directory / "preprocessor_config.json", PROCESSOR)
    write_tokenizer(directory, VOCAB - len(TOKENS))
    path = str(directory / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in TOKENS])
    tokenizer.save(path)
    write_json(directory / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
    return directory


def _vision_shapes() -> Shapes:
    queries, keys, tower = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, "model.vision_tower."
    shapes: Shapes = {
        f"{tower}patch_embedder.input_proj.weight": (VISION_HIDDEN, 3 * PATCH**2),
        f"{tower}patch_embedder.position_embedding_table": (2, 900, VISION_HIDDEN),
        f"{tower}std_bias": (VISION_HIDDEN,),
        f"{tower}std_scale": (VISION_HIDDEN,),
        "model.embed_vision.embedding_projection.weight": (HIDDEN, VISION_HIDDEN),
    }
    linear = {
        "self_attn.q_proj": (queries, VISION_HIDDEN),
        "self_attn.k_proj": (keys, VISION_HIDDEN),
        "self_attn.v_proj": (keys, VISION_HIDDEN),
        "self_attn.o_proj": (VISION_HIDDEN, queries),
        "mlp.gate_proj": (VISION_FFN, VISION_HIDDEN),
        "mlp.up_proj": (VISION_FFN, VISION_HIDDEN),
        "mlp.down_proj": (VISION_HIDDEN, VISION_FFN),
    }
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    for i in range(2):
        layer = f"{tower}encoder.layers.{i}."
        for name, shape in linear.items():
            shapes[f"{layer}{name}.linear.weight"] = shape
            shapes |= {f"{layer}{name}.{end}": (1,) for end in BOUNDS}
        shapes |= {f"{layer}{name}_layernorm.weight": (VISION_HIDDEN,) for name in norms}
        shapes |= {f"{layer}self_attn.{name}_norm.weight": (HEAD_DIM,) for name in "qk"}
    return shapes


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    end = name.rsplit(".", 1)[-1]
    if end in BOUNDS:  # of keys, others than of queries and values
        return np.array([BOUNDS[end] * (0.8 if "k_proj" in name else 1.0)], np.float32)
    values = rng.standard_normal(shape) * 0.2
    return (values + ("norm" in name or "std_scale" in name)).astype(np.float32)


def write_gemma4_projector(
    path: Path,
    directory: Path,
    kind: str = "F32",
    keys: Mapping[str, Any] = MappingProxyType({}),
    more: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """Matrices in this kind; `keys` replace the converter's or leave them out, `more` are tensors beside."""
    checkpoint = open_checkpoint(directory)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, VISION["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
    writer.add_type(gguf.GGUFType.MMPROJ)
    own: dict[str, Any] = {
        "has_vision_encoder": True,
        "vision.projector_type": "gemma4v",
        "vision.projection_dim": HIDDEN,
        "vision.image_size": 224,
        "vision.patch_size": PATCH,
        "vision.embedding_length": VISION_HIDDEN,
        "vision.feed_forward_length": VISION_FFN,
        "vision.block_count": VISION["num_hidden_layers"],
        "vision.attention.head_count": HEADS,
        "vision.attention.layer_norm_epsilon": 1e-6,
    }
    for key, value in {**own, **keys}.items():
        if value is not None:
            add_key(writer, f"clip.{key}", value)
    found = {name: dequantize(each) for name, each in checkpoint.tensors.items() if "vision" in name}
    for name, values in {**found, **more}.items():
        called, values = (name, values) if name in more else _converted(names, name, values)
        is_matrix = values.ndim == 2 and values.shape[1] % 32 == 0
        add_tensor(writer, called, np.ascontiguousarray(values), kind if is_matrix else "F32")
    return written(writer, path)


def _converted(names: gguf.TensorNameMap, name: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """As the converter calls and turns them."""
    plain = name.replace("model.vision_tower.encoder.", "vision_model.model.")
    plain = plain.replace(".linear.weight", ".weight")
    if plain.endswith("position_embedding_table"):
        plain += ".weight"
    if plain.endswith("input_proj.weight"):
        values = values.reshape(-1, PATCH, PATCH, 3).transpose(0, 3, 1, 2)
    own = names.get_name(plain, (".weight", ".bias", *(f".{end}" for end in BOUNDS)))
    assert own is not None, name
    return str(own), values

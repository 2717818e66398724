"""Write a GGUF file of random weights in the shape of Gemma 4 E2B: for speed and start-up, not for sense.

    python benchmarks/random_gemma4.py /tmp/random-e2b-q4_0.gguf

Matrices are Q4_0, both embeddings Q8_0, the projection of inputs for the layers BF16, as in files in the
field. The vocabulary is that of `random_model.py`, 151 936 tokens in place of 262 144.
The same arguments give the same file. Needs the `gguf` package.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from random_model import VOCABULARY, add_tokenizer, values_of

from llm_serving.checkpoints import open_checkpoint
from llm_serving.models import resolve_model

HIDDEN, LAYERS, HEADS, FFN, INPUTS = 1536, 35, 8, 6144, 256
SHARED = 20  # of the last layers, with feed-forward parts twice as wide
LOCAL_HEAD, GLOBAL_HEAD = 256, 512  # sizes; there is one head of keys
Q4, Q8, F32 = (getattr(gguf.GGMLQuantizationType, name) for name in ("Q4_0", "Q8_0", "F32"))
BF16 = gguf.GGMLQuantizationType.BF16
Info = tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]


def is_global(layer: int) -> bool:
    return layer % 5 == 4


def ffn_of(layer: int) -> int:
    return FFN * (2 if layer >= LAYERS - SHARED else 1)


def add_hyperparameters(writer: gguf.GGUFWriter) -> None:
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(2)
    writer.add_context_length(131_072)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length([ffn_of(i) for i in range(LAYERS)])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    for key, size in (("key_length", GLOBAL_HEAD), ("key_length_swa", LOCAL_HEAD)):
        writer.add_uint32(f"gemma4.attention.{key}", size)
        writer.add_uint32(f"gemma4.attention.{key.replace('key', 'value')}", size)
    writer.add_sliding_window(512)
    writer.add_sliding_window_pattern([not is_global(i) for i in range(LAYERS)])
    writer.add_uint32("gemma4.attention.shared_kv_layers", SHARED)
    writer.add_uint32("gemma4.embedding_length_per_layer_input", INPUTS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_float32("gemma4.final_logit_softcapping", 30.0)
    writer.add_rope_freq_base(1e6)
    writer.add_float32("gemma4.rope.freq_base_swa", 1e4)
    writer.add_rope_dimension_count(GLOBAL_HEAD)
    writer.add_uint32("gemma4.rope.dimension_count_swa", LOCAL_HEAD)


def tensors() -> Iterator[Info]:
    """(name, shape in numpy order, type) of every tensor."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN), Q8
    yield "per_layer_token_embd.weight", (VOCABULARY, LAYERS * INPUTS), Q8
    yield "per_layer_model_proj.weight", (LAYERS * INPUTS, HIDDEN), BF16
    yield "per_layer_proj_norm.weight", (INPUTS,), F32
    yield "output_norm.weight", (HIDDEN,), F32
    yield "rope_freqs.weight", (GLOBAL_HEAD // 2,), F32
    for i in range(LAYERS):
        yield from layer(i)


def layer(i: int) -> Iterator[Info]:
    own, size, ffn = f"blk.{i}.", GLOBAL_HEAD if is_global(i) else LOCAL_HEAD, ffn_of(i)
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm"):
        yield f"{own}{name}.weight", (HIDDEN,), F32
    yield f"{own}layer_output_scale.weight", (1,), F32
    yield f"{own}attn_q_norm.weight", (size,), F32
    yield f"{own}attn_q.weight", (HEADS * size, HIDDEN), Q4
    if i < LAYERS - SHARED:
        yield f"{own}attn_k_norm.weight", (size,), F32
        yield f"{own}attn_k.weight", (size, HIDDEN), Q4
        yield f"{own}attn_v.weight", (size, HIDDEN), Q4
    yield f"{own}attn_output.weight", (HIDDEN, HEADS * size), Q4
    yield f"{own}ffn_gate.weight", (ffn, HIDDEN), Q4
    yield f"{own}ffn_up.weight", (ffn, HIDDEN), Q4
    yield f"{own}ffn_down.weight", (HIDDEN, ffn), Q4
    yield f"{own}inp_gate.weight", (INPUTS, HIDDEN), Q4
    yield f"{own}proj.weight", (HIDDEN, INPUTS), Q4


def values(
    name: str, dims: tuple[int, ...], kind: gguf.GGMLQuantizationType, rng: np.random.Generator
) -> np.ndarray:
    if name == "rope_freqs.weight":  # a quarter turns
        return np.repeat(np.array([1, 1e30], np.float32), [dims[0] // 4, dims[0] - dims[0] // 4])
    if kind == BF16:
        plain = rng.normal(0, dims[1] ** -0.5, dims).astype(np.float32)
        return (plain.view(np.uint32) >> 16).astype(np.uint16)
    return values_of(name, dims, kind, rng)


def write_model(path: Path) -> None:
    """One tensor after another, so that the largest of them is all the memory this needs."""
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_name(path.stem)
    add_hyperparameters(writer)
    add_tokenizer(writer, open_checkpoint(resolve_model("smollm2-135m-instruct")))
    for name, dims, kind in tensors():
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        stored = gguf.quant_shape_to_byte_shape(dims, kind) if kind in (Q4, Q8, BF16) else dims
        dtype = np.dtype(np.float32 if kind == F32 else np.uint8)
        num_bytes = int(np.prod(dims)) // block * block_bytes
        writer.add_tensor_info(name, stored, dtype, num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for name, dims, kind in tensors():
        writer.write_tensor_data(values(name, dims, kind, rng))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    write_model(path)
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

"""Write a GGUF file of random weights in the shape of a real model: for speed and start-up, not for sense.

    python benchmarks/random_model.py 1.5b q4_0 /tmp/random-1.5b-q4_0.gguf

Shapes are those of Qwen2.5 (biases on queries, keys and values; the output head is the embedding), 0.5b,
1.5b and 3b, of Qwen3.5, 0.8b-3.5 and 2b-3.5, and 7b-a1b, a Qwen3 mixture of experts in the sizes of OLMoE, in
q4_0, q4_k (not 0.5b, whose rows are no multiple of 256), mxfp4 or q8_0; the embedding is always Q8_0, as in
files in the field. Scales are such that activations stay near one. The tokenizer is SmolLM2's, filled up to
151 936 tokens with joined pairs of its own, each with a merge. The same arguments give the same file. Needs
the `gguf` package.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.models import resolve_model

VOCABULARY = 151_936
HEAD_TOKENS, TAIL_TOKENS = 600, 300  # which are joined to new tokens; more pairs than are needed
KINDS = {
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_k": gguf.GGMLQuantizationType.Q4_K,
    "mxfp4": gguf.GGMLQuantizationType.MXFP4,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_S,
    "mxfp4": gguf.LlamaFileType.MOSTLY_MXFP4_MOE,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
BLOCK = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen2.5 model, or with experts of a Qwen3 one; a head's size is hidden / heads."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    experts: int = 0
    used: int = 0
    delta_heads: int = 0  # Qwen3.5: of 128 by 128, in three of four layers; heads of attention have 256

    @property
    def family(self) -> str:
        return "qwen35" if self.delta_heads else "qwen3moe" if self.experts else "qwen2"


SHAPES = {
    "0.5b": Shape(896, 24, 14, 2, 4864),
    "1.5b": Shape(1536, 28, 12, 2, 8960),
    "3b": Shape(2048, 36, 16, 2, 11008),
    "0.8b-3.5": Shape(1024, 24, 8, 2, 3584, delta_heads=16),
    "2b-3.5": Shape(2048, 24, 8, 2, 6144, delta_heads=16),
    "7b-a1b": Shape(2048, 16, 16, 4, 1024, experts=64, used=8),
}


def write_model(shape: Shape, kind: str, path: Path) -> None:
    """One tensor after another, so that the largest of them is all the memory this needs."""
    writer = gguf.GGUFWriter(path, shape.family)
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    writer.add_context_length(32_768)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.used)
        writer.add_expert_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    if shape.delta_heads:
        add_delta_sizes(writer, shape)
    add_tokenizer(writer, open_checkpoint(resolve_model("smollm2-135m-instruct")))
    tensors = list(tensors_of(shape, KINDS[kind]))
    for name, dims, type_ in tensors:
        size = gguf.GGML_QUANT_SIZES[type_]
        num_bytes = int(np.prod(dims)) // size[0] * size[1]
        stored = gguf.quant_shape_to_byte_shape(dims, type_) if size[0] > 1 else dims
        dtype = np.dtype(np.uint8 if size[0] > 1 else np.float32)
        writer.add_tensor_info(name, stored, dtype, num_bytes, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for name, dims, type_ in tensors:
        writer.write_tensor_data(values_of(name, dims, type_, rng))
    writer.close()


def add_delta_sizes(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_key_length(256)
    writer.add_value_length(256)
    writer.add_rope_dimension_count(64)
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(128)
    writer.add_ssm_group_count(16)
    writer.add_ssm_time_step_rank(shape.delta_heads)
    writer.add_ssm_inner_size(128 * shape.delta_heads)
    writer.add_full_attention_interval(4)


def delta_tensors_of(
    shape: Shape, kind: gguf.GGMLQuantizationType
) -> Iterator[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]:
    f32, hidden, heads = gguf.GGMLQuantizationType.F32, shape.hidden, shape.delta_heads
    yield "token_embd.weight", (VOCABULARY, hidden), gguf.GGMLQuantizationType.Q8_0
    yield "output_norm.weight", (hidden,), f32
    for i in range(shape.layers):
        block = f"blk.{i}."
        yield block + "attn_norm.weight", (hidden,), f32
        yield block + "post_attention_norm.weight", (hidden,), f32
        if i % 4 == 3:
            for name, rows in (
                ("q", 512 * shape.heads),
                ("k", 256 * shape.kv_heads),
                ("v", 256 * shape.kv_heads),
            ):
                yield f"{block}attn_{name}.weight", (rows, hidden), kind
            yield block + "attn_q_norm.weight", (256,), f32
            yield block + "attn_k_norm.weight", (256,), f32
            yield block + "attn_output.weight", (hidden, 256 * shape.heads), kind
        else:
            channels = 2 * 16 * 128 + heads * 128
            yield block + "attn_qkv.weight", (channels, hidden), kind
            yield block + "attn_gate.weight", (heads * 128, hidden), kind
            yield block + "ssm_beta.weight", (heads, hidden), f32
            yield block + "ssm_alpha.weight", (heads, hidden), f32
            yield block + "ssm_conv1d.weight", (channels, 4), f32
            yield block + "ssm_dt.bias", (heads,), f32
            yield block + "ssm_a", (heads,), f32
            yield block + "ssm_norm.weight", (128,), f32
            yield block + "ssm_out.weight", (hidden, heads * 128), kind
        yield block + "ffn_gate.weight", (shape.ffn, hidden), kind
        yield block + "ffn_up.weight", (shape.ffn, hidden), kind
        yield block + "ffn_down.weight", (hidden, shape.ffn), kind


def tensors_of(
    shape: Shape, kind: gguf.GGMLQuantizationType
) -> Iterator[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]:
    """(name, shape in numpy order, type) of every tensor."""
    if shape.delta_heads:
        yield from delta_tensors_of(shape, kind)
        return
    f32, hidden = gguf.GGMLQuantizationType.F32, shape.hidden
    keys = hidden // shape.heads * shape.kv_heads
    yield "token_embd.weight", (VOCABULARY, hidden), gguf.GGMLQuantizationType.Q8_0
    yield "output_norm.weight", (hidden,), f32
    for block in (f"blk.{i}." for i in range(shape.layers)):
        yield block + "attn_norm.weight", (hidden,), f32
        yield block + "ffn_norm.weight", (hidden,), f32
        for name, rows in (("attn_q", hidden), ("attn_k", keys), ("attn_v", keys)):
            yield f"{block}{name}.weight", (rows, hidden), kind
            if not shape.experts:
                yield f"{block}{name}.bias", (rows,), f32
            elif name != "attn_v":
                yield f"{block}{name}_norm.weight", (hidden // shape.heads,), f32
        yield block + "attn_output.weight", (hidden, hidden), kind
        experts, suffix = ((shape.experts,), "_exps") if shape.experts else ((), "")
        if shape.experts:
            yield block + "ffn_gate_inp.weight", (shape.experts, hidden), f32
        yield f"{block}ffn_gate{suffix}.weight", (*experts, shape.ffn, hidden), kind
        yield f"{block}ffn_up{suffix}.weight", (*experts, shape.ffn, hidden), kind
        yield f"{block}ffn_down{suffix}.weight", (*experts, hidden, shape.ffn), kind


def values_of(
    name: str, dims: tuple[int, ...], kind: gguf.GGMLQuantizationType, rng: np.random.Generator
) -> np.ndarray:
    """Uniform weights of variance 1 / columns as blocks of `kind`; norms are one, biases small."""
    if kind == gguf.GGMLQuantizationType.F32:
        if name.endswith(".bias"):
            return rng.normal(0, 0.1, dims).astype(np.float32)
        if len(dims) == 2:  # a router
            return rng.normal(0, dims[1] ** -0.5, dims).astype(np.float32)
        if name.endswith("ssm_a"):
            return rng.uniform(-2, -0.1, dims).astype(np.float32)
        return np.ones(dims, np.float32)
    if kind == gguf.GGMLQuantizationType.Q4_K:
        return k_blocks(dims, rng)
    if kind == gguf.GGMLQuantizationType.MXFP4:
        return mxfp4_blocks(dims, rng)
    blocks = int(np.prod(dims)) // BLOCK
    if kind == gguf.GGMLQuantizationType.Q4_0:
        quants, deviation = rng.integers(0, 256, (blocks, BLOCK // 2), np.uint8), np.sqrt((16**2 - 1) / 12)
    else:
        signed = rng.integers(-127, 128, (blocks, BLOCK), np.int8)
        quants, deviation = signed.view(np.uint8), np.sqrt((255**2 - 1) / 12)
    scale = np.float16(1 / (deviation * np.sqrt(dims[-1])))
    data = np.empty((blocks, 2 + quants.shape[1]), np.uint8)
    data[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    data[:, 2:] = quants
    return data.reshape(*dims[:-1], -1)


def k_blocks(dims: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Q4_K whose eight scales and minima are 63 steps, which is twelve bytes of ones."""
    deviation = np.sqrt((16**2 - 1) / 12)
    scale = 1 / (63 * deviation * np.sqrt(dims[-1]))
    data = np.empty((int(np.prod(dims)) // 256, 144), np.uint8)
    data[:, :4] = np.array([scale, 7.5 * scale], np.float16).view(np.uint8)
    data[:, 4:16] = 255
    data[:, 16:] = rng.integers(0, 256, (len(data), 128), np.uint8)
    return data.reshape(*dims[:-1], -1)


def mxfp4_blocks(dims: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """MXFP4 under the power of two that is nearest; its numbers are doubled, and so is their deviation."""
    deviation = np.sqrt(274 / 8)
    data = np.empty((int(np.prod(dims)) // BLOCK, 17), np.uint8)
    data[:, 0] = 128 - round(np.log2(deviation * np.sqrt(dims[-1])))
    data[:, 1:] = rng.integers(0, 256, (len(data), 16), np.uint8)
    return data.reshape(*dims[:-1], -1)


def add_tokenizer(writer: gguf.GGUFWriter, source: Checkpoint, size: int = VOCABULARY) -> None:
    """The source's tokens keep their ids; the new ones merge last."""
    tokens = list(source.metadata["tokenizer.ggml.tokens"])
    types = source.metadata["tokenizer.ggml.token_type"].tolist()
    merges = list(source.metadata["tokenizer.ggml.merges"])
    known = set(tokens)
    heads = [token for token in tokens if token.startswith("Ġ") and token[1:].isalpha()][:HEAD_TOKENS]
    tails = [token for token in tokens if token.isascii() and token.isalpha() and len(token) > 1]
    for head, tail in ((head, tail) for head in heads for tail in tails[:TAIL_TOKENS]):
        if len(tokens) == size:
            break
        if head + tail not in known:
            known.add(head + tail)
            tokens.append(head + tail)
            merges.append(f"{head} {tail}")
    types += [int(gguf.TokenType.NORMAL)] * (len(tokens) - len(types))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(source.metadata["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(source.metadata["tokenizer.ggml.eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(source.chat_template or "")
    if len(tokens) != size:
        raise SystemExit(f"only {len(tokens)} tokens could be made")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    if arguments.kind == "q4_k" and SHAPES[arguments.shape].hidden % 256:
        parser.error(f"rows of {arguments.shape} are no multiple of 256, as q4_k needs them")
    write_model(SHAPES[arguments.shape], arguments.kind, arguments.path)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

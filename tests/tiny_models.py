"""Tiny random GGUF models for tests: every weight kind, any shape, a complete tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from tiny_weights import random_matrix

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, IM_START, IM_END = 0, 1, 2
# fmt: off
MERGES = [
    "t h", "th e", "i n", "a n", "e r", "o n", "r e", "h e", "a t", "e n", "o r", "an d", "in g",
    "Ġ t", "Ġt h", "Ġth e", "Ġ a", "Ġa n", "Ġan d", "Ġ s", "Ġ w", "Ġ o", "Ġo f", "Ġt o", "Ġ in", "Ġ Ġ",
    "l l", "o u", "Ġ c", "e s", "e d", "i t", "Ġw or", "l d", "Ġwor ld", "H e", "He ll", "Hell o",
]
# fmt: on
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMALLEST_VOCAB = len(SPECIAL_TOKENS) + 256 + len(MERGES)


@dataclass(frozen=True)
class TinyShape:
    """What to write. `hidden`, `ffn` and heads * head_dim are multiples of 32, for K-quants of 256."""

    kind: str = "Q4_1"
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 0  # 0: hidden // heads
    ffn: int = 96
    vocab: int = SMALLEST_VOCAB
    last_tokens: tuple[str, ...] = ()  # of the vocabulary, control tokens
    tied: bool = True
    seed: int = 0
    context: int = 256
    rope_base: float = 10000.0
    rope_factors: tuple[float, ...] = ()  # llama 3's frequency divisors, head_dim / 2 of them
    experts: int = 0  # each layer is a mixture of so many, of which a token uses `used`
    used: int = 2
    kinds: dict[str, str] = field(default_factory=dict)  # tensor name or its last part → kind of its own


@dataclass(frozen=True)
class Parts:
    """Which tensors a family has beside, or in place of, llama's."""

    biased: bool = False  # queries, keys and values
    head_norms: bool = False
    whole_norms: bool = False  # of all query heads, and all key heads, at once
    fused: bool = False  # queries, keys and values
    fused_gates: bool = False
    before: bool = True  # norms before each part
    behind: bool = False


GEMMA2_CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0}  # so low that they are felt
GRANITE_SCALES = {"embedding_scale": 6.0, "attention.scale": 0.2, "residual_scale": 0.3, "logit_scale": 2.0}


def write_tiny_llama(path: Path, **shape: Any) -> Path:
    """Write a model of the llama family; keywords are TinyShape's. Returns `path`."""
    return _write(path, "llama", TinyShape(**shape))


def write_tiny_qwen2(path: Path, **shape: Any) -> Path:
    """Write a model of the qwen2 family (q, k and v biases); keywords are TinyShape's. Returns `path`."""
    return _write(path, "qwen2", TinyShape(**shape), Parts(biased=True))


def write_tiny_qwen3(path: Path, **shape: Any) -> Path:
    """Write a model of the qwen3 family (normed q and k heads); keywords are TinyShape's. Returns `path`."""
    return _write(path, "qwen3", TinyShape(**shape), Parts(head_norms=True))


def write_tiny_mixtral(path: Path, **shape: Any) -> Path:
    """Write a mixture of four experts, by name a llama; keywords are TinyShape's. Returns `path`."""
    return _write(path, "llama", TinyShape(**{"experts": 4, **shape}))


def write_tiny_qwen3_moe(path: Path, **shape: Any) -> Path:
    """Write a model of the qwen3moe family, 8 experts a layer; keywords are TinyShape's. Returns `path`."""
    return _write(path, "qwen3moe", TinyShape(**{"experts": 8, "used": 3, **shape}), Parts(head_norms=True))


def write_tiny_olmoe(path: Path, **shape: Any) -> Path:
    """Write a model of the olmoe family, 8 experts a layer; keywords are TinyShape's. Returns `path`."""
    return _write(path, "olmoe", TinyShape(**{"experts": 8, "used": 3, **shape}), Parts(whole_norms=True))


def write_tiny_gemma3(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a model of the gemma3 family; keywords are TinyShape's, and the window. Returns `path`."""
    return _write(path, "gemma3", TinyShape(**shape), Parts(head_norms=True, behind=True), window=window)


def write_tiny_gemma2(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a model of the gemma2 family, by `GEMMA2_CAPS`; keywords as of gemma3. Returns `path`."""
    return _write(path, "gemma2", TinyShape(**shape), Parts(behind=True), window=window, numbers=GEMMA2_CAPS)


def write_tiny_ernie(path: Path, **shape: Any) -> Path:
    """Write a model of the ernie4_5 family; keywords are TinyShape's. Returns `path`."""
    return _write(path, "ernie4_5", TinyShape(**shape))


def write_tiny_smollm3(path: Path, **shape: Any) -> Path:
    """Write a model of the smollm3 family, four layers; keywords are TinyShape's. Returns `path`."""
    return _write(path, "smollm3", TinyShape(**{"layers": 4, **shape}))


def write_tiny_granite(path: Path, **shape: Any) -> Path:
    """Write a model of the granite family, by `GRANITE_SCALES`; keywords are TinyShape's. Returns `path`."""
    return _write(path, "granite", TinyShape(**shape), numbers=GRANITE_SCALES)


def write_tiny_phi3(path: Path, **shape: Any) -> Path:
    """Write a model of the phi3 family (fused matrices); keywords are TinyShape's. Returns `path`."""
    return _write(path, "phi3", TinyShape(**shape), parts=Parts(fused=True, fused_gates=True))


def write_tiny_olmo2(path: Path, **shape: Any) -> Path:
    """Write a model of the olmo2 family; keywords are TinyShape's. Returns `path`."""
    return _write(path, "olmo2", TinyShape(**shape), parts=Parts(whole_norms=True, before=False, behind=True))


def write_tiny_olmo3(path: Path, window: int = 32, **shape: Any) -> Path:
    """Write a model of OLMo 3, by name an olmo2, four layers; keywords as of gemma3. Returns `path`."""
    tiny = TinyShape(**{"layers": 4, **shape})
    parts = Parts(whole_norms=True, before=False, behind=True)
    local = [i % 4 != 3 for i in range(tiny.layers)]
    return _write(path, "olmo2", tiny, parts, window=window, local=local)


def write_tiny_hunyuan(path: Path, **shape: Any) -> Path:
    """Write a model of the hunyuan-dense family; keywords are TinyShape's. Returns `path`."""
    return _write(path, "hunyuan-dense", TinyShape(**shape), Parts(head_norms=True))


def write_tiny_glm4(path: Path, **shape: Any) -> Path:
    """Write a model of the glm4 family, half of heads rotating; keywords are TinyShape's. Returns `path`."""
    tiny = TinyShape(**shape)
    rotated = (tiny.head_dim or tiny.hidden // tiny.heads) // 2
    return _write(path, "glm4", tiny, Parts(biased=True, fused_gates=True, behind=True), rotated=rotated)


def _write(
    path: Path,
    architecture: str,
    shape: TinyShape,
    parts: Parts = Parts(),
    *,
    window: int = 0,
    local: Sequence[bool] = (),
    rotated: int = 0,
    numbers: Mapping[str, float] = MappingProxyType({}),
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    add_hyperparameters(writer, shape, rotated)
    if window:
        writer.add_sliding_window(window)
    if local:
        writer.add_sliding_window_pattern(local)
    for key, value in numbers.items():
        writer.add_float32(f"{architecture}.{key}", value)
    add_tokenizer(writer, shape.vocab, shape.last_tokens)
    for name, values, kind in _tensors(shape, parts):
        writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_hyperparameters(writer: gguf.GGUFWriter, shape: TinyShape, rotated: int = 0) -> None:
    """Sizes, norms and rotary positions; so many dimensions of a head rotate, or all."""
    head_dim = shape.head_dim or shape.hidden // shape.heads
    writer.add_name("tiny")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    if shape.head_dim:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.used)
        writer.add_expert_feed_forward_length(shape.ffn)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(rotated or head_dim)
    writer.add_vocab_size(shape.vocab)


def add_tokenizer(writer: gguf.GGUFWriter, vocab: int, last: Sequence[str] = ()) -> None:
    """Byte-level, with `MERGES` and the chat template; the `last` tokens are control tokens."""
    if vocab < SMALLEST_VOCAB + len(last):
        raise ValueError(f"vocab must be at least {SMALLEST_VOCAB + len(last)}, got {vocab}")
    tokens = SPECIAL_TOKENS + byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    types = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(types))
    tokens += [f"<|unused_{i}|>" for i in range(vocab - len(tokens) - len(last))]
    tokens += last
    types += [gguf.TokenType.UNUSED] * (vocab - len(types) - len(last)) + [gguf.TokenType.CONTROL] * len(last)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(IM_START)
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(IM_END)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte, in the order of the bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _tensors(shape: TinyShape, parts: Parts) -> list[tuple[str, np.ndarray, str]]:
    """(name, bytes or values as the writer wants them, kind) of each tensor, in a file's usual order."""
    rng = np.random.default_rng(shape.seed)
    head_dim = shape.head_dim or shape.hidden // shape.heads
    q_rows, kv_rows = shape.heads * head_dim, shape.kv_heads * head_dim
    out: list[tuple[str, np.ndarray, str]] = []

    def matrix(name: str, rows: int, columns: int, gain: float = 1.0, experts: int = 0) -> None:
        kind = shape.kinds.get(name) or shape.kinds.get(name.rsplit(".", 1)[-1]) or shape.kind
        deviation = gain / columns**0.5
        values = random_matrix(rng, max(1, experts) * rows, columns, deviation, kind)
        if experts:
            out.append((f"{name}_exps.weight", values.reshape(experts, rows, -1), kind))
        else:
            out.append((f"{name}.weight", values, kind))

    def vector(name: str, size: int, mean: float, deviation: float) -> None:
        out.append((name, rng.normal(mean, deviation, size).astype(np.float32), "F32"))

    matrix("token_embd", shape.vocab, shape.hidden, gain=2.0)
    for i in range(shape.layers):
        layer = f"blk.{i}"
        if parts.before:
            vector(f"{layer}.attn_norm.weight", shape.hidden, 1.0, 0.2)
        if parts.fused:
            matrix(f"{layer}.attn_qkv", q_rows + 2 * kv_rows, shape.hidden, gain=1.4)
        for part, rows in () if parts.fused else (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            # Sharper queries and keys, or attention over random tokens is a plain mean.
            matrix(f"{layer}.attn_{part}", rows, shape.hidden, gain=1.0 if part == "v" else 1.5)
            if parts.biased:
                vector(f"{layer}.attn_{part}.bias", rows, 0.0, 0.5)
            if (parts.head_norms or parts.whole_norms) and part != "v":
                vector(f"{layer}.attn_{part}_norm.weight", rows if parts.whole_norms else head_dim, 1.2, 0.3)
        matrix(f"{layer}.attn_output", shape.hidden, q_rows)
        if parts.before:
            vector(f"{layer}.ffn_norm.weight", shape.hidden, 1.0, 0.2)
        if parts.behind:
            vector(f"{layer}.post_attention_norm.weight", shape.hidden, 0.5, 0.1)
            vector(f"{layer}.post_ffw_norm.weight", shape.hidden, 0.5, 0.1)
        if shape.experts:
            router = rng.normal(0, 2 / shape.hidden**0.5, (shape.experts, shape.hidden))
            out.append((f"{layer}.ffn_gate_inp.weight", router.astype(np.float32), "F32"))
        if not parts.fused_gates:
            matrix(f"{layer}.ffn_gate", shape.ffn, shape.hidden, experts=shape.experts)
        matrix(f"{layer}.ffn_up", shape.ffn * (1 + parts.fused_gates), shape.hidden, experts=shape.experts)
        matrix(f"{layer}.ffn_down", shape.hidden, shape.ffn, gain=2.0, experts=shape.experts)
    vector("output_norm.weight", shape.hidden, 1.0, 0.2)
    if not shape.tied:
        matrix("output", shape.vocab, shape.hidden, gain=2.0)
    if shape.rope_factors:
        out.append(("rope_freqs.weight", np.array(shape.rope_factors, np.float32), "F32"))
    return out

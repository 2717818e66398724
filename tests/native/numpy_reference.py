"""The llama, qwen2, qwen3 and gemma2 families in plain numpy: the independent judge of the native engine.

Two plans of arithmetic over the same weights. `quantize_activations=False` is float32 on the
dequantised weights. `quantize_activations=True` is what the engine promises to compute: weights as its
packed formats hold them, int8 activations per token and 16 columns (int16 and 32 where the weights are
packed as q8, as those around the layers are unless they have four bits), keys and values as int16 or int8
with a scale for the vector of each head, or as kv_reference.py has them.
A quantised product is written here as (scale * int8) @ (dequantised weight).T, which is, but for
the order of additions, the sum over the scales' groups of
scale_w * scale_a * sum(q_w * q_a) + min_w * scale_a * sum(q_a).

Weights are decoded by the `gguf` package, so the product's own decoders are judged as well.
"""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
from kv_reference import coded, of_slow_pairs, rounded_factors, turned

from llm_serving.checkpoints.checkpoint import Checkpoint, Tensor
from llm_serving.native.core import load_core

GROUP = 32
PIECE = 256  # keys of one softmax
MOST_STEP = 32640  # the greatest step of 8-bit activations
EXACT_KINDS = {
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q5_0",
    "Q8_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "IQ1_S",
    "IQ2_XS",
    "IQ3_S",
}  # the packed formats hold these as they are
FOUR_BIT_KINDS = {"Q4_0", "Q4_1", "Q4_K", "IQ4_NL", "IQ4_XS", "MXFP4", "IQ1_S", "IQ2_XS", "IQ3_S"}
# Of layers' matrices; bytes where the CPU multiplies them faster than 16 bits.
NARROW_KINDS = FOUR_BIT_KINDS | {"Q3_K", "Q5_0", "Q5_K", "Q6_K"}
if load_core().instruction_sets()[0] in ("avx512", "avxvnni", "neon"):
    NARROW_KINDS |= {"Q8_0"}


def decode(tensor: Tensor) -> np.ndarray:
    """The tensor's values, float32 in the tensor's shape."""
    kind = gguf.GGMLQuantizationType[tensor.kind]
    rows = tensor.data.reshape(*tensor.shape[:-1], -1)
    dtype = {"F32": np.float32, "F16": np.float16}.get(tensor.kind, np.uint8)
    return gguf.quants.dequantize(rows.view(dtype), kind).astype(np.float32).reshape(tensor.shape)


def requantize_q8(matrix: np.ndarray) -> np.ndarray:
    """Round to signed 8-bit values with one f16 scale a row and group; return the values float32."""
    groups = matrix.reshape(matrix.shape[0], -1, GROUP)
    scale = (np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)).astype(np.float16)
    wide = scale.astype(np.float32)
    inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)
    quants = np.clip(np.rint(groups * inverse), -127, 127)
    return (quants * wide).reshape(matrix.shape)


def quantize_activations(x: np.ndarray, *, wide: bool = False) -> np.ndarray:
    """What the engine makes of each row of `x`, float32: integers times the scale of their group.

    int8 with a scale for 16 columns, a whole multiple of the row's unit; `wide`: int16 with a scale for 32,
    as matrices packed as q8 read them.
    """
    groups = x.reshape(x.shape[0], -1, GROUP if wide else GROUP // 2)
    most = np.float32(32767 if wide else 127)
    amax = np.abs(groups).max(axis=-1, keepdims=True)
    if wide:
        scale = amax / most
    else:
        unit = np.abs(x).max(axis=-1)[:, None, None] / (most * np.float32(MOST_STEP))
        steps = np.divide(amax, most * unit, out=np.zeros_like(amax), where=unit > 0)
        eight_bits = (steps.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
        scale = np.minimum(np.ceil(eight_bits.view(np.float32)), MOST_STEP) * unit
    factor = np.divide(np.float32(1), scale, out=np.zeros_like(amax), where=amax > 1e-30)
    return (np.rint(groups * factor) * scale).reshape(x.shape)


def round_last_axis(x: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of up to `most` for each vector along the last axis, and its scale [..., 1], both float32."""
    amax = np.abs(x).max(axis=-1, keepdims=True)
    factor = np.divide(np.float32(most), amax, out=np.zeros_like(amax), where=amax > 1e-30)
    return np.rint(x * factor), amax / np.float32(most)


def is_narrow(tensor: Tensor) -> bool:
    """Whether its activations have 8 bits."""
    return tensor.kind in (NARROW_KINDS if tensor.name.startswith("blk.") else FOUR_BIT_KINDS)


def packed_values(tensor: Tensor) -> np.ndarray:
    """What the engine's packed matrix holds, float32."""
    values = decode(tensor)
    return values if tensor.kind in EXACT_KINDS or is_narrow(tensor) else requantize_q8(values)


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Root mean square norm (Zhang & Sennrich 2019)."""
    mean_square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
    return x * (1.0 / np.sqrt(mean_square + epsilon)).astype(np.float32) * weight


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, interleaved: bool) -> np.ndarray:
    """Rotary embedding (Su et al. 2021) of `x` [n, heads, head_dim]; cos and sin are [n, rotated / 2].

    Pair i is elements (2i, 2i + 1) if interleaved, else (i, i + rotated / 2). Elements past the
    rotated ones stay.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, None, :], sin[:, None, :]
    if interleaved:
        pair_a, pair_b = np.s_[..., 0 : 2 * half : 2], np.s_[..., 1 : 2 * half : 2]
    else:
        pair_a, pair_b = np.s_[..., :half], np.s_[..., half : 2 * half]
    out = x.copy()
    out[pair_a] = x[pair_a] * cos - x[pair_b] * sin
    out[pair_b] = x[pair_a] * sin + x[pair_b] * cos
    return out


def soft_cap(x: np.ndarray, cap: float) -> np.ndarray:
    """Numbers softly kept within `cap`; 0: as they are."""
    return x if cap == 0 else (cap * np.tanh(x.astype(np.float64) / cap)).astype(np.float32)


def causal_weights(q: np.ndarray, k: np.ndarray, cap: float = 0.0, window: int = 0) -> np.ndarray:
    """q [n, heads, d], k [n, kv_heads, d] → [kv_heads, group, n, n].

    Each position sees itself and before, with a window `window` of these; scores are softly capped.
    """
    n, heads, dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(n, kv_heads, heads // kv_heads, dim).transpose(1, 2, 0, 3)
    scores = (grouped @ k.transpose(1, 2, 0)[:, None]) / np.float32(np.sqrt(dim))
    seen = np.tri(n, dtype=bool)
    if window:
        seen &= ~np.tri(n, k=-window, dtype=bool)
    scores = np.where(seen, soft_cap(scores, cap), np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def mixed(weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """weights [kv_heads, group, n, n], v [n, kv_heads, d] → [n, heads * d]."""
    return (weights @ v.transpose(1, 0, 2)[:, None]).transpose(2, 0, 1, 3).reshape(len(v), -1)


def causal_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, cap: float = 0.0, window: int = 0
) -> np.ndarray:
    """q [n, heads, d], k and v [n, kv_heads, d] → [n, heads * d]."""
    return mixed(causal_weights(q, k, cap, window), v)


def causal_attention_of_integers(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, kv_format: str, cap: float = 0.0, window: int = 0
) -> np.ndarray:
    """The same as the engine computes it.

    Keys and values are integers with a scale for each head's vector, `q8` of up to 127, `q16` of up to
    8191; queries, and the weights of 256 keys times the scales of their values, are int16 with one scale.
    For q16 the sum of their magnitudes is bounded, so that sums of products stay below 2^31. The others are
    of vectors that are turned first; see `coded` for `q4`.
    """
    most, most_sum = (8191, 2**18 - 512) if kv_format == "q16" else (127, np.inf)
    if kv_format != "q16":
        q, k, v = turned(q), turned(k), turned(v)
    if kv_format == "q4":
        (keys, key_scales), (values, scales) = coded(k), coded(v)
    else:
        (keys, key_scales), (values, scales) = round_last_axis(k, most), round_last_axis(v, most)
    weights = causal_weights(rounded_factors(q, most_sum), keys * key_scales, cap, window)
    weights *= scales.transpose(1, 2, 0)[:, None]
    for start in range(0, len(v), PIECE):
        piece = np.s_[..., start : start + PIECE]
        weights[piece] = rounded_factors(weights[piece], most_sum)
    out = mixed(weights, values)
    return turned(out.reshape(q.shape)).reshape(out.shape) if kv_format != "q16" else out


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), safe for any finite x."""
    return x / (np.float32(1) + np.exp(-np.clip(x, -80, None)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """gelu by tanh (Hendrycks & Gimpel 2016)."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)
    return (0.5 * x * (1 + np.tanh(inner))).astype(np.float32)


class NumpyModel:
    """One model, weights in float32; stateless: every call starts at position 0.

    Architecture `llama` rotates interleaved pairs (GGUF stores its q and k rows permuted for that),
    the others rotate halves, `qwen3` after norming each head. `gemma2` has scaled words, norms behind
    each part, soft caps, and windows in every other layer, the first one included. A model without
    `output.weight` is tied to the embedding.
    """

    def __init__(self, checkpoint: Checkpoint, *, quantize_activations: bool, kv_format: str = "q16") -> None:
        if checkpoint.architecture not in ("llama", "qwen2", "qwen3", "gemma2"):
            raise ValueError(f"no reference for the architecture '{checkpoint.architecture}'")
        self.quantized = quantize_activations
        self.kv_format = kv_format
        self.interleaved = checkpoint.architecture == "llama"
        self.is_gemma = checkpoint.architecture == "gemma2"
        self.window = int(checkpoint.hyper("attention.sliding_window", 0))
        self.score_cap = float(checkpoint.hyper("attn_logit_softcapping", 0.0))
        self.logit_cap = float(checkpoint.hyper("final_logit_softcapping", 0.0))
        self.layers = int(checkpoint.hyper("block_count"))
        self.heads = int(checkpoint.hyper("attention.head_count"))
        self.kv_heads = int(checkpoint.hyper("attention.head_count_kv", self.heads))
        self.epsilon = float(checkpoint.hyper("attention.layer_norm_rms_epsilon"))
        self.weights = {name: self._load(tensor) for name, tensor in checkpoint.tensors.items()}
        self.wide = {name for name, tensor in checkpoint.tensors.items() if not is_narrow(tensor)}
        self.context = int(checkpoint.hyper("context_length"))
        self.frequencies = self._frequencies(checkpoint)

    def _load(self, tensor: Tensor) -> np.ndarray:
        is_matrix = len(tensor.shape) == 2
        return packed_values(tensor) if self.quantized and is_matrix else decode(tensor)

    def _frequencies(self, checkpoint: Checkpoint) -> np.ndarray:
        hidden = int(checkpoint.hyper("embedding_length"))
        head_dim = int(checkpoint.hyper("attention.key_length", hidden // self.heads))
        rotated = int(checkpoint.hyper("rope.dimension_count", head_dim))
        base = float(checkpoint.hyper("rope.freq_base", 10000.0))
        frequencies = base ** (-np.arange(0, rotated, 2, dtype=np.float64) / rotated)
        factors: Any = self.weights.get("rope_freqs.weight", 1.0)
        return frequencies / factors

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """x [n, columns] → [n, rows], plus the bias if the checkpoint has one."""
        if self.quantized:
            x = quantize_activations(x, wide=f"{name}.weight" in self.wide)
        y = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return rms_norm(x, self.weights[f"{name}.weight"], self.epsilon)

    def attention(self, x: np.ndarray, layer: str, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        n = len(x)
        q = self.linear(x, f"{layer}.attn_q").reshape(n, self.heads, -1)
        k = self.linear(x, f"{layer}.attn_k").reshape(n, self.kv_heads, -1)
        v = self.linear(x, f"{layer}.attn_v").reshape(n, self.kv_heads, -1)
        if f"{layer}.attn_q_norm.weight" in self.weights:
            q, k = self.norm(q, f"{layer}.attn_q_norm"), self.norm(k, f"{layer}.attn_k_norm")
        q = rotate(q, cos, sin, interleaved=self.interleaved)
        k = rotate(k, cos, sin, interleaved=self.interleaved)
        bias = self.weights.get(f"{layer}.attn_k.bias")
        if bias is not None and self.kv_format != "q16":
            k = k - of_slow_pairs(bias.reshape(self.kv_heads, -1), self.frequencies * self.context)
        limits = (self.score_cap, self.window * (int(layer.split(".")[1]) % 2 == 0))
        if self.quantized:
            attended = causal_attention_of_integers(q, k, v, self.kv_format, *limits)
        else:
            attended = causal_attention(q, k, v, *limits)
        return self.linear(attended, f"{layer}.attn_output")

    def feed_forward(self, x: np.ndarray, layer: str) -> np.ndarray:
        gate = self.linear(x, f"{layer}.ffn_gate")
        gated = (gelu_tanh(gate) if self.is_gemma else silu(gate)) * self.linear(x, f"{layer}.ffn_up")
        return self.linear(gated, f"{layer}.ffn_down")

    def added(self, part: np.ndarray, norm: str) -> np.ndarray:
        return self.norm(part, norm) if self.is_gemma else part

    def logits(self, token_ids: np.ndarray | list[int]) -> np.ndarray:
        """Logits after each token of one sequence, float32 [n, vocab]."""
        angles = np.arange(len(token_ids), dtype=np.float64)[:, None] * self.frequencies
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        x = self.weights["token_embd.weight"][np.asarray(token_ids)]
        if self.is_gemma:
            x = x * np.float32(x.shape[-1] ** 0.5)
        for i in range(self.layers):
            layer = f"blk.{i}"
            attended = self.attention(self.norm(x, f"{layer}.attn_norm"), layer, cos, sin)
            x = x + self.added(attended, f"{layer}.post_attention_norm")
            fed = self.feed_forward(self.norm(x, f"{layer}.ffn_norm"), layer)
            x = x + self.added(fed, f"{layer}.post_ffw_norm")
        head = "output" if "output.weight" in self.weights else "token_embd"
        return soft_cap(self.linear(self.norm(x, "output_norm"), head), self.logit_cap)

"""The judge is judged: each piece of the reference against its definition, written out longhand."""

from __future__ import annotations

import math

import gguf
import numpy as np
import pytest
from numpy_reference import (
    GROUP,
    MOST_STEP,
    NumpyModel,
    causal_attention,
    decode,
    packed_values,
    quantize_activations,
    requantize_q8,
    rotate,
)
from tiny_models import byte_alphabet, write_tiny_llama

from llm_serving.checkpoints import open_checkpoint
from llm_serving.checkpoints.checkpoint import Tensor

RNG = np.random.default_rng(5)


def tensor_of(values: np.ndarray, kind: str) -> Tensor:
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return Tensor("w", kind, values.shape, np.ascontiguousarray(raw).view(np.uint8).reshape(-1))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_quantised_product_is_the_sum_over_groups(kind: str) -> None:
    """One output, by the integer formula of the packed format."""
    tensor = tensor_of(RNG.normal(size=(1, 64)).astype(np.float32), kind)
    x = RNG.normal(size=(1, 64)).astype(np.float32)
    unit = float(np.abs(x).max()) / (127 * MOST_STEP)
    total = 0.0
    for group in range(2):
        size = 18 if kind == "Q4_0" else 20
        block = tensor.data[group * size : (group + 1) * size]
        scale = float(block[:2].view(np.float16)[0])
        minimum = -8 * scale if kind == "Q4_0" else float(block[2:4].view(np.float16)[0])
        nibbles = block[-16:]
        weights = [int(b) & 15 for b in nibbles] + [int(b) >> 4 for b in nibbles]
        for half in range(2):
            part = x[0, group * GROUP + half * 16 :][:16]
            ratio = float(np.abs(part).max() / np.abs(x).max()) * MOST_STEP
            last_bit = 2 ** (math.floor(math.log2(ratio)) - 7)  # of eight
            step = math.ceil(min(math.ceil(ratio / last_bit - 1e-6) * last_bit, MOST_STEP)) * unit
            quants = [round(float(v) / step) for v in part]
            total += scale * step * sum(w * q for w, q in zip(weights[half * 16 :], quants, strict=False))
            total += minimum * step * sum(quants)
    product = quantize_activations(x) @ packed_values(tensor).T
    assert product[0, 0] == pytest.approx(total, rel=1e-5)


def test_zero_groups_stay_zero() -> None:
    zeros = np.zeros((3, 64), np.float32)
    assert not quantize_activations(zeros).any()
    assert not requantize_q8(zeros).any()


def test_activations_round_half_to_even() -> None:
    x = np.zeros((1, GROUP), np.float32)
    x[0, :5] = [127, 0.5, 1.5, 2.5, -0.5]
    assert quantize_activations(x)[0, :5].tolist() == [127, 0, 2, 2, 0]


def test_requantised_weights_are_near_and_clipped() -> None:
    matrix = RNG.normal(size=(8, 96)).astype(np.float32)
    near = requantize_q8(matrix)
    amax = np.abs(matrix.reshape(8, -1, GROUP)).max(axis=-1).repeat(GROUP, axis=-1)
    assert (np.abs(near - matrix) <= amax / 127).all()
    # The f16 scale of this amax rounds down so far that 127 steps do not reach it.
    largest = np.float32(127) * np.float32(1 + 2**-11 - 2**-20)
    assert requantize_q8(np.full((1, GROUP), largest))[0, 0] == 127.0


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_is_a_complex_product(interleaved: bool) -> None:
    x = RNG.normal(size=(5, 2, 8)).astype(np.float32)
    angles = RNG.normal(size=(5, 3))  # 6 of 8 elements rotate
    out = rotate(x, np.cos(angles), np.sin(angles), interleaved=interleaved)
    for i in range(3):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
        expected = (x[..., a] + 1j * x[..., b]) * np.exp(1j * angles[:, i])[:, None]
        np.testing.assert_allclose(out[..., a] + 1j * out[..., b], expected, rtol=1e-5, atol=1e-6)
    assert (out[..., 6:] == x[..., 6:]).all()


def test_attention_longhand() -> None:
    q, k, v = (RNG.normal(size=(6, heads, 4)) for heads in (6, 2, 2))
    out = causal_attention(q, k, v).reshape(6, 6, 4)
    for t in range(6):
        for head in range(6):
            scores = [q[t, head] @ k[s, head // 3] / 2 for s in range(t + 1)]
            weights = np.exp(scores) / np.sum(np.exp(scores))
            np.testing.assert_allclose(out[t, head], weights @ v[: t + 1, head // 3], rtol=1e-6)


def test_capped_scores_in_a_window_longhand() -> None:
    q, k, v = (RNG.normal(size=(6, 1, 4)).astype(np.float32) for _ in range(3))
    out = causal_attention(q, k, v, cap=0.7, window=3)
    for t in range(6):
        seen = range(max(0, t - 2), t + 1)
        scores = [0.7 * math.tanh(q[t, 0] @ k[s, 0] / 2 / 0.7) for s in seen]
        weights = np.exp(scores) / np.sum(np.exp(scores))
        np.testing.assert_allclose(out[t], weights @ v[list(seen), 0], rtol=1e-5)


def test_later_tokens_change_nothing_and_earlier_ones_do(tmp_path) -> None:
    model = NumpyModel(open_checkpoint(write_tiny_llama(tmp_path / "m.gguf")), quantize_activations=True)
    ids = [7, 60, 8, 200, 31]
    full = model.logits(ids)
    np.testing.assert_allclose(model.logits(ids[:3]), full[:3], atol=1e-4)
    assert np.abs(model.logits([8, *ids[1:]])[4] - full[4]).max() > 0.1


def test_both_plans_agree_roughly(tmp_path) -> None:
    checkpoint = open_checkpoint(write_tiny_llama(tmp_path / "m.gguf", kind="F32", tied=False))
    ids = RNG.integers(0, 290, 32)
    exact = NumpyModel(checkpoint, quantize_activations=False).logits(ids)
    rounded = NumpyModel(checkpoint, quantize_activations=True).logits(ids)
    assert 1e-3 < np.abs(exact - rounded).max() < 0.1 * np.ptp(exact)


def test_factory_names_all_bytes_once() -> None:
    assert len(set(byte_alphabet())) == 256
    assert byte_alphabet()[ord("A")] == "A"
    assert byte_alphabet()[ord(" ")] == "Ġ"


def test_factory_is_deterministic_and_super_blocks_are_of_sensible_size(tmp_path) -> None:
    shape = {"kind": "Q5_K", "hidden": 256, "ffn": 256, "layers": 1}
    paths = [write_tiny_llama(tmp_path / f"{i}.gguf", **shape) for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    weights = decode(open_checkpoint(paths[0]).tensors["blk.0.attn_output.weight"])
    assert 0.5 < weights.std() * 16 < 2
    assert abs(weights.mean()) < weights.std() / 10

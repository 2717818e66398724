"""Scores that fall with the distance (ALiBi), each head's by its own slope, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from attention_alone import HEAD_DIM, HEADS, KV_HEADS, SCALE, SINGLY, TOKENS, Heads, core, rows
from numpy_reference import mixed

from llm_serving.native.ops import LinearBias
from llm_serving.native.tables import linear_bias

# As of three heads and a fourth, which sees next to nothing but itself.
SLOPES = np.array([1 / 16, 1 / 256, 1 / 4, 30.0])
DISTANCES = np.abs(np.arange(1 - TOKENS, TOKENS + 17))
FALLING = (-SLOPES[:, None] * DISTANCES).astype(np.float32)


def expected() -> np.ndarray:
    whole = rows().reshape(TOKENS, -1, HEAD_DIM).astype(np.float64)
    q, k, v = np.split(whole, [HEADS, HEADS + KV_HEADS], axis=1)
    grouped = q.reshape(TOKENS, KV_HEADS, -1, HEAD_DIM).transpose(1, 2, 0, 3)
    scores = grouped @ k.transpose(1, 2, 0)[:, None] * SCALE
    behind = np.arange(TOKENS)[:, None] - np.arange(TOKENS)
    scores = np.where(behind < 0, -np.inf, scores - SLOPES.reshape(KV_HEADS, -1, 1, 1) * behind)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return mixed(weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
def test_it_is_numpys(kv_format: str) -> None:
    ours = Heads("auto", None, kv_format, falling=FALLING).run()
    np.testing.assert_allclose(ours, expected(), atol={"q16": 2e-3, "q8": 0.05, "q4": 0.5}[kv_format])
    assert np.abs(ours - Heads("auto", None, kv_format).run()).max() > 0.1


@pytest.mark.parametrize("kv_format", ["q16", "q8", "q4"])
def test_the_same_bits_however_it_is_cut(kv_format: str) -> None:
    whole = Heads("scalar", None, kv_format, 1, falling=FALLING).run()
    assert np.isfinite(whole).all()
    for isa in core.instruction_sets():
        singly = Heads(isa, None, kv_format, 3, falling=FALLING).in_pieces(SINGLY)
        np.testing.assert_array_equal(singly.view(np.uint32), whole.view(np.uint32))
        for threads, chunk in ((1, TOKENS), (2, 7)):
            ours = Heads(isa, None, kv_format, threads, falling=FALLING).run(chunk)
            np.testing.assert_array_equal(ours.view(np.uint32), whole.view(np.uint32))


def test_a_bias_is_as_long_as_distances_are() -> None:
    with pytest.raises(ValueError, match="does not cover all distances"):
        Heads("auto", None, "q16", falling=FALLING[:2])


@pytest.mark.parametrize(
    ("bias", "slopes"),
    [
        (LinearBias(4), [1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        (LinearBias(2, steepness=4.0, scale=0.5), [1 / 8, 1 / 32]),
        (LinearBias(6), [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
        (LinearBias(1), [1 / 256]),
    ],
)
def test_slopes(bias: LinearBias, slopes: list[float]) -> None:
    """Of no power of two heads, those behind it stand between the slopes of the others."""
    table = linear_bias(bias, 4).reshape(bias.heads, -1)
    np.testing.assert_allclose(table[:, 2], -np.array(slopes), rtol=1e-6)
    np.testing.assert_allclose(table[:, 0], -3 * np.array(slopes), rtol=1e-6)

"""Each operation of the C++ plan against numpy, and every instruction set against the others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llm_serving.native.core import load_core

core = load_core()
NAMES = core.instruction_sets()
HIDDEN, VOCAB = 96, 40
# What a format may lose of unit-normal weights, relative to the result's own size; int8 activations included.
TOLERANCE = {"f32": 1e-6, "q12": 0.001, "q8": 0.012, "s8": 0.012, "q4": 0.12}


class Bench:
    """A plan of one test: an embedding into buffer x, then whatever the test adds."""

    def __init__(self, isa: str, weight_format: str, context: int = 64) -> None:
        self.rng = np.random.default_rng(7)
        self.plan = core.Plan(2, isa, 64, context)
        self.format = weight_format
        self.table = self.rng.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
        embedding = self.pack(self.table, weight_format if weight_format in ("f32", "q12") else "q8")
        self.x = self.plan.buffer(HIDDEN)
        self.plan.embed(embedding, self.x)

    def pack(self, matrix: np.ndarray, weight_format: str | None = None) -> int:
        rows, cols = matrix.shape
        data = np.ascontiguousarray(matrix).view(np.uint8).reshape(-1)
        return self.plan.pack("F32", data, rows, cols, weight_format or self.format, None)

    def vector(self, size: int) -> tuple[int, np.ndarray]:
        values = self.rng.standard_normal(size).astype(np.float32)
        return self.plan.vector(values), values

    def run(self, lengths: list[int], output: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and the output rows for sequences of these lengths."""
        total = sum(lengths)
        ids = np.random.default_rng(3).integers(0, VOCAB, total).astype(np.int32)
        positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        starts = np.cumsum([0, *lengths]).astype(np.int32)
        tables = np.zeros((len(lengths), 0), np.int32)
        return ids, self.plan.run(ids, positions, starts, tables, np.zeros(0, np.int32), output).copy()


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)))


@pytest.mark.parametrize("weight_format", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 13, 64])
@pytest.mark.parametrize("rows", [8, 20, 33])
def test_linear(weight_format: str, tokens: int, rows: int) -> None:
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, weight_format)
        matrix = bench.rng.standard_normal((rows, HIDDEN)).astype(np.float32)
        bias, bias_values = bench.vector(rows)
        y = bench.plan.buffer(rows)
        bench.plan.quantize(bench.x)
        bench.plan.linear([(bench.pack(matrix), bias, y, 0)])
        ids, out = bench.run([tokens], y)
        assert relative(out, bench.table[ids] @ matrix.T + bias_values) < TOLERANCE[weight_format]
        outputs.append(out)
    assert all((out == outputs[0]).all() for out in outputs)


@pytest.mark.parametrize("weight_format", TOLERANCE)
@pytest.mark.parametrize("first", [0, 32])
def test_linear_reads_some_columns(weight_format: str, first: int) -> None:
    """As if it had zeros for all others."""
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, weight_format)
        matrix = np.zeros((12, HIDDEN), np.float32)
        matrix[:, first : first + 32] = bench.rng.standard_normal((12, 32))
        some, whole = bench.pack(matrix[:, first : first + 32]), bench.pack(matrix)
        y = bench.plan.buffer(40)
        bench.plan.quantize(bench.x)
        bench.plan.linear([(some, -1, y, 20), (whole, -1, y, 0)], False, [first, 0])
        _, out = bench.run([13], y)
        np.testing.assert_array_equal(out[:, 20:32], out[:, :12])
        outputs.append(out[:, 20:32])
    assert np.ptp(outputs[0]) > 1
    assert all((out == outputs[0]).all() for out in outputs)


@pytest.mark.parametrize("firsts", [[-32], [16], [96], [0, 0]])
def test_columns_that_are_not_there(firsts: list[int]) -> None:
    bench = Bench("auto", "f32")
    bench.plan.quantize(bench.x)
    matrix = bench.pack(np.ones((8, 32), np.float32))
    with pytest.raises(ValueError, match="column"):
        bench.plan.linear([(matrix, -1, bench.plan.buffer(8), 0)], False, firsts)


def test_linear_writes_side_by_side_and_accumulates() -> None:
    bench = Bench("auto", "f32")
    first = bench.rng.standard_normal((24, HIDDEN)).astype(np.float32)
    second = bench.rng.standard_normal((10, HIDDEN)).astype(np.float32)
    y = bench.plan.buffer(34)
    matrices = [(bench.pack(first), -1, y, 0), (bench.pack(second), -1, y, 24)]
    bench.plan.quantize(bench.x)
    bench.plan.linear(matrices)
    bench.plan.linear(matrices, True)
    ids, out = bench.run([9], y)
    np.testing.assert_allclose(
        out, 2 * bench.table[ids] @ np.concatenate([first, second]).T, rtol=1e-4, atol=1e-4
    )


def encoder_layer(isa: str, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions, layer norm, attention and gelu in f32: ours, and numpy's in float64."""
    bench = Bench(isa, "f32")
    heads, width = 4, 32
    positions, position_values = bench.vector(64 * HIDDEN)
    gain, gain_values = bench.vector(HIDDEN)
    bias, bias_values = bench.vector(HIDDEN)
    matrix = bench.rng.standard_normal((3 * width, HIDDEN)).astype(np.float32) / 10
    qkv, attended, y = bench.plan.buffer(3 * width), bench.plan.buffer(width), bench.plan.buffer(HIDDEN)
    last = bench.rng.standard_normal((HIDDEN, width)).astype(np.float32)
    bench.plan.add_positions(positions, bench.x)
    bench.plan.quantize(bench.x, gain, bias, 1e-5, True)
    bench.plan.linear([(bench.pack(matrix), -1, qkv, 0)])
    bench.plan.encoder_attention(qkv, attended, heads, heads, 0.3)
    bench.plan.gelu(attended)
    bench.plan.linear([(bench.pack(last), -1, y, 0)])
    ids, out = bench.run(lengths, y)

    expected = []
    begin = 0
    erf = np.vectorize(math.erf)
    for length in lengths:
        x = bench.table[ids[begin : begin + length]].astype(np.float64)
        x += position_values.reshape(64, HIDDEN)[:length]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(
            x.var(1, keepdims=True) + 1e-5
        ) * gain_values + bias_values
        q, k, v = (
            part.reshape(length, heads, -1).swapaxes(0, 1) for part in np.split(x @ matrix.T, 3, axis=1)
        )
        scores = np.exp(q @ k.swapaxes(1, 2) * 0.3)
        z = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(length, width)
        expected.append(z * 0.5 * (1 + erf(z / math.sqrt(2))) @ last.T)
        begin += length
    return out, np.concatenate(expected)


@pytest.mark.parametrize("lengths", [[1], [16], [17, 1, 30], [5, 33, 2]])
def test_an_encoder_layer(lengths: list[int]) -> None:
    outputs = [encoder_layer(isa, lengths) for isa in NAMES]
    for out, expected in outputs:
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
        assert (out == outputs[0][0]).all()


@pytest.mark.parametrize("width", [8, 20, 5003])
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_soft_cap(width: int, cap: float) -> None:
    """Rows of any width, each to its end and not beyond."""
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, "f32")
        matrix = bench.rng.standard_normal((width, HIDDEN)).astype(np.float32)
        y = bench.plan.buffer(width)
        bench.plan.quantize(bench.x)
        bench.plan.linear([(bench.pack(matrix), -1, y, 0)])
        bench.plan.soft_cap(y, cap)
        ids, out = bench.run([7], y)
        expected = cap * np.tanh(bench.table[ids] @ matrix.T / cap)
        np.testing.assert_allclose(out, expected, atol=1e-6 * max(cap, 10.0))
        outputs.append(out)
    assert all((out == outputs[0]).all() for out in outputs)


@pytest.mark.parametrize("limit", [0.75, 7.0])
def test_gates_within_a_limit(limit: float) -> None:
    """Gates are cut off above, what they open to both sides."""
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, "f32")
        matrix = 0.4 * bench.rng.standard_normal((64, HIDDEN)).astype(np.float32)
        last = bench.rng.standard_normal((24, 32)).astype(np.float32)
        both, y = bench.plan.buffer(64), bench.plan.buffer(24)
        bench.plan.quantize(bench.x)
        bench.plan.linear([(bench.pack(matrix), -1, both, 0)])
        bench.plan.gated(both, 32, limit=limit, slope=1.702)
        bench.plan.linear([(bench.pack(last), -1, y, 0)])
        ids, out = bench.run([7], y)
        gate, up = np.split(bench.table[ids].astype(np.float64) @ matrix.T, 2, axis=1)
        assert gate.max() > limit
        assert np.abs(up).max() > limit
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        expected = (gate / (1 + np.exp(-1.702 * gate)) * (up + 1)) @ last.T
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
        outputs.append(out)
    assert all((out == outputs[0]).all() for out in outputs)


def test_what_is_kept_within_bounds() -> None:
    """What a norm and a gate hand on, and columns of a buffer; what is kept of the norm is not."""
    outputs = []
    for isa in NAMES:
        bench = Bench(isa, "f32")
        gain, weights = bench.vector(HIDDEN)
        matrix, last = bench.rng.standard_normal((2, 64, HIDDEN)).astype(np.float32) * 0.3
        both, y = bench.plan.buffer(64), bench.plan.buffer(64)
        bench.plan.quantize(bench.x, gain, epsilon=1e-6, keep=True, least=-0.5, most=0.75)
        bench.plan.linear([(bench.pack(matrix), -1, both, 0)])
        bench.plan.clamp(both, 8, 24, -1.0, 0.25)
        bench.plan.gated(both, 32, least=-0.125, most=0.25)
        bench.plan.linear([(bench.pack(np.ascontiguousarray(last[:, :32])), -1, y, 0)])
        ids, out = bench.run([7], y)
        x = bench.table[ids].astype(np.float64)
        normed = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-6) * weights
        inner = np.clip(normed, -0.5, 0.75) @ matrix.T
        inner[:, 8:32] = np.clip(inner[:, 8:32], -1.0, 0.25)
        gate, up = np.split(inner, 2, axis=1)
        expected = np.clip(gate / (1 + np.exp(-gate)) * up, -0.125, 0.25) @ last[:, :32].T
        np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_allclose(bench.run([7], bench.x)[1], normed, rtol=1e-5, atol=1e-5)
        outputs.append(out)
    assert all((out == outputs[0]).all() for out in outputs)


def test_every_second_head_is_rotated() -> None:
    bench = Bench("auto", "f32")
    angles = np.linspace(0, 1, 64 * 4)
    table = np.concatenate([np.cos(angles).reshape(64, 4), np.sin(angles).reshape(64, 4)], axis=1)
    bench.plan.rotate(bench.x, 12, 8, 8, bench.plan.vector(table.reshape(-1).astype(np.float32)), [], 1, 2)
    ids, out = bench.run([5], bench.x)
    before, heads = bench.table[ids].reshape(5, 12, 8), out.reshape(5, 12, 8)
    assert (heads[:, ::2] == before[:, ::2]).all()
    cos, sin = table[:5, None, :4], table[:5, None, 4:]
    low, high = before[:, 1::2, :4], before[:, 1::2, 4:]
    expected = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)
    np.testing.assert_allclose(heads[:, 1::2], expected, atol=1e-6)


def test_a_sequence_does_not_feel_its_neighbours() -> None:
    together, _ = encoder_layer("auto", [7, 20, 3])
    alone, _ = encoder_layer("auto", [7])
    assert (together[:7] == alone).all()


def test_sizes_are_checked() -> None:
    bench = Bench("auto", "q8")
    with pytest.raises(ValueError, match="position table is shorter"):
        bench.plan.add_positions(bench.vector(HIDDEN)[0], bench.x)
    with pytest.raises(ValueError, match="a soft cap must be positive"):
        bench.plan.soft_cap(bench.x, 0.0)
    with pytest.raises(ValueError, match="a limit of gates must be positive"):
        bench.plan.gated(bench.x, 48, limit=-1.0)
    for columns, bounds in (((90, 8), (0.0, 1.0)), ((0, 8), (1.0, 0.0))):
        with pytest.raises(ValueError, match="no such columns, or bounds"):
            bench.plan.clamp(bench.x, *columns, *bounds)
    with pytest.raises(ValueError, match="f32 matrices do not mix"):
        bench.pack(np.zeros((8, 32), np.float32), "f32")
    with pytest.raises(ValueError, match="unknown; use auto"):
        bench.pack(np.zeros((8, 32), np.float32), "q3")
    with pytest.raises(ValueError, match="multiples of 32"):
        bench.pack(np.zeros((8, 40), np.float32))

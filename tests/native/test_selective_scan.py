"""Operations of Mamba's first version against their definition in numpy, and themselves, however cut."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from recurrent_layer import (
    TOKENS,
    RecurrentLayer,
    check_cuts,
    check_instruction_sets_and_threads,
    check_sequences_do_not_meet,
    core,
    random_rows,
)

from llm_serving.native.delta_net import TAPS

SHAPES = {"usual": (192, 16), "many states": (64, 40), "odd": (328, 8)}  # channels, numbers of a state


class Convolution(RecurrentLayer):
    """In place."""

    def __init__(self, channels: int, isa: str = "auto", threads: int = 1, biased: bool = True) -> None:
        rng = np.random.default_rng(3)
        self.taps = rng.normal(0.2, 0.5, (channels, TAPS)).astype(np.float32)
        self.shift = rng.normal(0, 0.5, channels).astype(np.float32) * np.float32(biased)
        super().__init__(channels, 8, isa, threads)
        self.found = self.mixed
        shift = self.plan.vector(self.shift) if biased else -1
        self.plan.short_conv(self.mixed, self.plan.vector(self.taps.T.reshape(-1)), shift)
        self.plan.states(4)


class Scan(RecurrentLayer):
    """A row is [x | steps | B | C]; matrices that only choose columns bring each to a buffer of its own."""

    def __init__(self, channels: int, rows: int, isa: str = "auto", threads: int = 1) -> None:
        rng = np.random.default_rng(4)
        self.rates = -rng.uniform(0.01, 3, (rows, channels)).astype(np.float32)
        self.skips = rng.normal(0, 1, channels).astype(np.float32)
        width = 2 * channels + 2 * rows
        padded = -(-width // 32) * 32
        super().__init__(padded, channels, isa, threads)
        plan = self.plan
        x, steps, both = plan.buffer(channels), plan.buffer(channels), plan.buffer(2 * rows)
        plan.quantize(self.mixed, -1, -1, 0.0)
        firsts = (0, channels, 2 * channels, width)
        chosen = [
            np.eye(padded, dtype=np.float32)[begin:end]
            for begin, end in zip(firsts, firsts[1:], strict=False)
        ]
        matrices = [
            plan.pack("F32", np.ascontiguousarray(m).view(np.uint8).reshape(-1), *m.shape, "f32", None)
            for m in chosen
        ]
        targets = zip(matrices, (x, steps, both), strict=True)
        plan.linear([(matrix, -1, target, 0) for matrix, target in targets])
        rates, skips = plan.vector(self.rates.reshape(-1)), plan.vector(self.skips)
        plan.selective_scan(x, steps, both, self.found, rows, rates, skips)
        plan.states(4)


def scanned(layer: Scan, given: np.ndarray) -> np.ndarray:
    """The paper's recurrence, in float64."""
    rows, channels = layer.rates.shape
    given = given.astype(np.float64)
    x, steps = given[:, :channels], np.logaddexp(0, given[:, channels : 2 * channels])
    b, c = given[:, 2 * channels :][:, :rows], given[:, 2 * channels + rows :][:, :rows]
    state, out = np.zeros((rows, channels)), np.zeros(x.shape)
    for t in range(len(given)):
        state = np.exp(layer.rates * steps[t]) * state + np.outer(b[t], steps[t] * x[t])
        out[t] = c[t] @ state + layer.skips * x[t]
    return out


def rows_of(shape: tuple[int, int], count: int = TOKENS, seed: int = 1) -> np.ndarray:
    channels, rows = shape
    return random_rows(-(-(2 * channels + 2 * rows) // 32) * 32, count, seed)


@pytest.mark.parametrize("isa", core.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_definition(shape: str, isa: str) -> None:
    layer, rows = Scan(*SHAPES[shape], isa), rows_of(SHAPES[shape])
    expected, ours = scanned(layer, rows), layer.run(rows, [0], [(TOKENS, -1, 0)])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, atol=2e-6 * np.abs(expected).max(), rtol=1e-4)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("isa", core.instruction_sets())
def test_convolution(isa: str, biased: bool) -> None:
    layer, rows = Convolution(328, isa, biased=biased), random_rows(328)
    padded = np.concatenate([np.zeros((TAPS - 1, 328)), rows])
    sums = sum(padded[k : k + TOKENS] * layer.taps[:, k] for k in range(TAPS)) + layer.shift
    expected = sums / (1 + np.exp(-sums))
    np.testing.assert_allclose(layer.run(rows, [0], [(TOKENS, -1, 0)]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_of_all_instruction_sets_and_threads(shape: str) -> None:
    channels, rows = SHAPES[shape]
    check_instruction_sets_and_threads(partial(Scan, channels, rows), rows_of(SHAPES[shape]))
    check_instruction_sets_and_threads(partial(Convolution, channels), random_rows(channels))


@pytest.mark.parametrize("isa", core.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_however_a_text_is_cut(shape: str, isa: str) -> None:
    channels, rows = SHAPES[shape]
    check_cuts(partial(Scan, channels, rows), rows_of(SHAPES[shape]), isa)
    check_cuts(partial(Convolution, channels), random_rows(channels), isa)


@pytest.mark.parametrize("shape", SHAPES)
def test_sequences_do_not_meet(shape: str) -> None:
    own = SHAPES[shape]
    check_sequences_do_not_meet(partial(Scan, *own), rows_of(own, 40), rows_of(own, 30, seed=2))


def test_extremes_stay_numbers() -> None:
    """Steps far beyond what softplus tells apart, and rows of zeros."""
    channels, state = SHAPES["usual"]
    rows = rows_of((channels, state))
    rows[::3] = 0
    rows[::2, channels : 2 * channels] *= 1e3
    layer = Scan(channels, state)
    ours, expected = layer.run(rows, [0], [(TOKENS, -1, 0)]), scanned(layer, rows)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("widths", "rows", "message"),
    [
        ((24, 24, 16, 24), 0, "1 to 512 numbers a channel"),
        ((24, 24, 1200, 24), 600, "1 to 512 numbers a channel"),
        ((24, 16, 16, 24), 8, "does not fit its buffers"),
        ((24, 24, 24, 24), 8, "does not fit its buffers"),
        ((20, 20, 16, 20), 8, "does not fit its buffers"),
        ((24, 24, 16, 24), 8, "each channel needs its rates"),
    ],
)
def test_shapes_that_the_kernel_does_not_take(widths: tuple[int, ...], rows: int, message: str) -> None:
    plan = core.Plan(1, "auto", 8, 8)
    vector = plan.vector(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=message):
        plan.selective_scan(*(plan.buffer(width) for width in widths), rows, vector, vector)


def test_convolutions_that_fit_no_channels() -> None:
    plan = core.Plan(1, "auto", 8, 8)
    taps = plan.vector(np.zeros(4 * 16, np.float32))
    for width, own, bias, message in (
        (20, taps, -1, "a multiple of 8 channels"),
        (24, taps, -1, "4 taps for each channel"),
        (16, taps, taps, "a bias for each channel"),
    ):
        with pytest.raises(ValueError, match=message):
            plan.short_conv(plan.buffer(width), own, bias)

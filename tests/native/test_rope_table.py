"""Tables of rotations against their definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llm_serving.native.rope import Rope
from llm_serving.native.tables import rope_table

NO_TENSORS: Any = SimpleNamespace(tensors={})
ROPES = {
    "plain": Rope(1e4, 64),
    "long": Rope(5e5, 128, linear_factor=8.0, magnitude=1.2),
    "growing": Rope(5e5, 16, growth=0.1, span=100, first=1),
    "factors": Rope(1e6, 8, factors=(1.0, 2.0, 4.0, float("inf"))),
    "still": Rope(1e4, 8).still,
}


@pytest.mark.parametrize("positions", [1, 256, 5000])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_cosines_then_sines_of_every_angle(rope: Rope, positions: int) -> None:
    place = np.arange(positions, dtype=np.float64)[:, None]
    angles = place / rope.linear_factor * rope.theta ** (-np.arange(0, rope.rotated, 2) / rope.rotated)
    if rope.factors:
        angles = angles / np.array(rope.factors)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * rope.magnitude
    expected = expected * (1 + rope.growth * np.log1p((place + rope.first) // rope.span))
    table = rope_table(rope, NO_TENSORS, positions)
    assert table.dtype == np.float32
    assert np.abs(table - expected).max() <= 1e-7 * np.abs(expected).max()

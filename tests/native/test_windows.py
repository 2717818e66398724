"""Windows give the same bits however a context was cut, and nothing before them matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gemma3n import write_tiny_gemma3n
from tiny_gemma4 import write_tiny_gemma4, write_tiny_gemma4_large
from tiny_gpt_oss import write_tiny_gpt_oss
from tiny_models import SMALLEST_VOCAB, write_tiny_gemma2, write_tiny_gemma3, write_tiny_olmo3

from llm_serving.checkpoints import open_checkpoint
from llm_serving.native.core import load_core

LENGTH = 700  # three pieces of a context, and more than two windows
# One token a step around the borders: of pieces, at 256 and 512, and of one and two windows of 290.
SINGLY = [1] * 18 + [230] + [1] * 18 + [14] + [1] * 20 + [200] + [1] * 24 + [44] + [1] * 24 + [90] + [1] * 18
WRITERS = {
    "gemma2": write_tiny_gemma2,
    "gemma3": write_tiny_gemma3,
    "gemma3n": write_tiny_gemma3n,
    "gemma4": write_tiny_gemma4,
    "gemma4_large": write_tiny_gemma4_large,
    "gpt_oss": write_tiny_gpt_oss,
    "olmo3": write_tiny_olmo3,
}
# So many of the first have windows.
LOCAL_LAYERS = {
    "gemma2": 1,
    "gemma3": 3,
    "gemma3n": 2,
    "gemma4": 2,
    "gemma4_large": 2,
    "gpt_oss": 1,
    "olmo3": 3,
}
SHAPE: dict[str, Any] = {"layers": 7, "context": 1024}


def ids(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALLEST_VOCAB, LENGTH)


# Of bytes in the cache one of each kind of attention: with soft caps, in heads of two widths, with sinks.
@pytest.mark.parametrize(
    ("family", "kv_cache"),
    [
        *((family, "q16") for family in WRITERS),
        ("gemma2", "q8"),
        ("gemma4_large", "q8"),
        ("gpt_oss", "q8"),
        ("gemma4_large", "q4"),
    ],
)
def test_chunks_threads_and_instruction_sets(tmp_path: Path, make_driver, family: str, kv_cache: str) -> None:
    checkpoint = open_checkpoint(WRITERS[family](tmp_path / "m.gguf", window=290, kind="Q8_0", **SHAPE))
    expected = make_driver(checkpoint, kv_cache=kv_cache).logits(ids(), chunk=512)
    singly = make_driver(checkpoint, kv_cache=kv_cache, threads=2, seed=1).in_pieces(ids(), SINGLY)
    np.testing.assert_array_equal(singly, expected)
    for chunk, threads in ((7, 1), (100, 2)):
        ours = make_driver(checkpoint, kv_cache=kv_cache, threads=threads, seed=chunk).logits(
            ids(), chunk=chunk
        )
        np.testing.assert_array_equal(ours, expected)
    for isa in load_core().instruction_sets()[1:]:
        np.testing.assert_array_equal(
            make_driver(checkpoint, kv_cache=kv_cache, isa=isa).logits(ids()), expected
        )


@pytest.mark.parametrize("family", WRITERS)
def test_a_window_ends(tmp_path: Path, make_driver, family: str) -> None:
    """With layers that have windows only, a token sees as many as they add up to."""
    layers = LOCAL_LAYERS[family]
    shape = {**SHAPE, "layers": layers, "kind": "F32"}
    path = WRITERS[family](tmp_path / "m.gguf", window=20, **shape)
    driver = make_driver(open_checkpoint(path), quantization="f32")
    one, other = ids(), ids()
    other[600] += 1 if other[600] == 0 else -1
    differ = (driver.logits(one) != driver.logits(other)).any(axis=1)
    assert np.flatnonzero(differ).min() == 600
    assert np.flatnonzero(differ).max() == 600 + layers * (20 - 1)

"""Who changes what a forward pass gives must raise kArithmetic, or old blocks on disk would still be used."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from llm_serving.native.core import load_core

core = load_core()
VERSION = 5
DIGESTS = {  # of each kind of KV cache
    "q16": "d6c2dd17aab4cbb21207946714ca6491fcd74850de5c98285cc3ea3a5e7a4ce8",
    "q4": "0ee460356b61b4f933a6bf46aca4a015593351be5697a0e1572192eae386c1c7",
    "q8": "e9331e65f59d1e1b71e4615858b1e6ad7ac093d8c9243659df86e1a947142d8e",
}
VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, TOKENS = 40, 96, 6, 2, 16, 64, 41
BLOCKS = -(-TOKENS // 16)


class Tiny:
    """A decoder's layer with every operation that one may have, of numbers that all machines agree on."""

    def __init__(self, isa: str, weight_format: str, kv_format: str) -> None:
        self._bits = np.random.PCG64(0)  # numpy promises the bits, not what it makes of them
        self._format = weight_format
        self.plan: Any = core.Plan(2, isa, TOKENS, 64)
        plan = self.plan
        x, qkv, attended = plan.buffer(HIDDEN), plan.buffer(160), plan.buffer(HEADS * HEAD_DIM)
        gate_up, last, self.logits = plan.buffer(2 * FFN), plan.buffer(HIDDEN), plan.buffer(VOCAB)
        embedding = self.matrix(VOCAB, HIDDEN)
        plan.embed(embedding, x)
        plan.quantize(x, self.vector(HIDDEN), -1, 1e-5)
        plan.linear([(self.matrix(160, HIDDEN), self.vector(160), qkv, 0)])
        plan.head_norm(qkv, 0, HEADS, self.vector(HEAD_DIM), 1e-5)
        plan.rope_store(qkv, 0, HEADS)
        plan.attention(qkv, attended, 0, HEADS, 0.25)
        plan.quantize(attended)
        plan.linear([(self.matrix(HIDDEN, HEADS * HEAD_DIM), -1, x, 0)], True)
        plan.quantize(x, self.vector(HIDDEN), -1, 1e-5)
        plan.linear(
            [(self.matrix(FFN, HIDDEN), -1, gate_up, 0), (self.matrix(FFN, HIDDEN), -1, gate_up, FFN)]
        )
        plan.gated(gate_up, FFN)
        plan.linear([(self.matrix(HIDDEN, FFN), -1, x, 0)], True)
        plan.select_rows(x, last)
        plan.quantize(last, self.vector(HIDDEN), -1, 1e-5)
        plan.linear([(embedding, -1, self.logits, 0)])
        plan.rope_table(self.values(64, HEAD_DIM))
        plan.kv_cache([(KV_HEADS, HEAD_DIM)], BLOCKS, kv_format)

    def values(self, *shape: int) -> np.ndarray:
        """float32 in -1 … 1, exact."""
        words = self._bits.random_raw(int(np.prod(shape)))
        return ((words >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - 1).reshape(shape)

    def vector(self, size: int) -> int:
        return self.plan.vector(self.values(size))

    def matrix(self, rows: int, cols: int) -> int:
        data = (self.values(rows, cols) / np.float32(4)).view(np.uint8).reshape(-1)
        return self.plan.pack("F32", data, rows, cols, self._format, None)

    def run(self) -> bytes:
        """The logits of every token, then what the cache holds of them."""
        ids = (np.arange(TOKENS, dtype=np.int32) * 7) % VOCAB
        rows = np.arange(TOKENS, dtype=np.int32)
        starts, tables = np.array([0, TOKENS], np.int32), np.arange(BLOCKS, dtype=np.int32)[None]
        logits = self.plan.run(ids, rows, starts, tables, rows, self.logits)
        assert np.isfinite(logits).all()
        assert logits.std() > 0.1
        block = np.empty(self.plan.block_bytes, np.uint8)
        parts = [logits.tobytes()]
        for number in range(BLOCKS):
            self.plan.read_block(number, block)
            parts.append(block.tobytes())
        return b"".join(parts)


@pytest.mark.parametrize("kv_format", DIGESTS)
@pytest.mark.parametrize("isa", core.instruction_sets())
def test_arithmetic_is_what_its_version_says(isa: str, kv_format: str) -> None:
    digest = hashlib.sha256()
    for weight_format in ("q4", "q8", "q12", "f32"):
        digest.update(Tiny(isa, weight_format, kv_format).run())
    assert (core.ARITHMETIC, digest.hexdigest()) == (VERSION, DIGESTS[kv_format]), (
        "the arithmetic has changed: raise kArithmetic in kernels.hpp, then VERSION and DIGESTS here"
    )

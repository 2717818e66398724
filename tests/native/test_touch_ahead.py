"""The KV cache gets its memory from the kernel a chunk of blocks before it needs it, and not all at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_serving.native.core import load_core

CHUNK_BLOCKS = 61  # kChunkBlocks in kernels.hpp
HUGE_PAGE = 2 << 20
SMAPS = Path("/proc/self/smaps")
LAYERS, HEADS, HEAD_DIM = 4, 8, 64  # a chunk is several huge pages

core = load_core()
pytestmark = pytest.mark.skipif(not SMAPS.exists(), reason="no /proc that says what memory is there")


def resident_bytes() -> dict[str, int]:
    """Of each mapping, by its address range."""
    found = re.findall(r"^([0-9a-f]+-[0-9a-f]+) .*?^Rss: +(\d+) kB", SMAPS.read_text(), re.M | re.S)
    return {addresses: int(kib) * 1024 for addresses, kib in found}


def ends(addresses: str) -> tuple[int, int]:
    begin, end = addresses.split("-")
    return int(begin, 16), int(end, 16)


def size(addresses: str) -> int:
    begin, end = ends(addresses)
    return end - begin


def overlaps(addresses: str, others: Iterable[str]) -> bool:
    begin, end = ends(addresses)
    return any(other_begin < end and begin < other_end for other_begin, other_end in map(ends, others))


def plan_without_layers() -> tuple[Any, int]:
    """(a plan that looks up embeddings and never reads its KV cache, the buffer it writes)."""
    plan = core.Plan(1, "auto", 16, 16)
    table = np.zeros((16, 32), np.float32)
    buffer = plan.buffer(32)
    plan.embed(plan.pack("F32", table.view(np.uint8).reshape(-1), 16, 32, "f32", None), buffer)
    return plan, buffer


@pytest.mark.parametrize("blocks", [4 * CHUNK_BLOCKS, 2 * CHUNK_BLOCKS - 5])
def test_memory_is_there_a_chunk_ahead_and_no_further(blocks: int) -> None:
    plan, buffer = plan_without_layers()
    before = resident_bytes()
    plan.kv_cache([(HEADS, HEAD_DIM)] * LAYERS, blocks, "q16")
    whole = -(-blocks // CHUNK_BLOCKS) * CHUNK_BLOCKS
    new = [addresses for addresses in resident_bytes() if not overlaps(addresses, before)]  # none that grew
    [memory] = [addresses for addresses in new if size(addresses) >= whole * plan.block_bytes]

    def assert_resident(num_blocks: int) -> None:
        resident = resident_bytes()[memory] - num_blocks * plan.block_bytes
        assert 0 <= resident < HUGE_PAGE  # the kernel gives whole pages

    assert_resident(CHUNK_BLOCKS)
    highest = -1
    for block in (0, 40, 7, CHUNK_BLOCKS - 1, CHUNK_BLOCKS, blocks - 1):
        zero, one_token = np.zeros(1, np.int32), np.array([0, 1], np.int32)
        plan.run(zero, zero, one_token, np.array([[block]], np.int32), np.zeros(0, np.int32), buffer)
        highest = max(highest, block)
        assert_resident(min(highest + 1 + CHUNK_BLOCKS, whole))


def test_while_idle_more_of_it_gets_ready_until_there_is_enough() -> None:
    """A huge page at a time, 128 MB beyond what the blocks in use need, or all."""
    ahead = 128 << 20
    plan, buffer = plan_without_layers()
    before = resident_bytes()
    block_bytes = LAYERS * 2 * HEADS * HEAD_DIM * 2 * 16
    blocks = CHUNK_BLOCKS * -(-2 * ahead // (CHUNK_BLOCKS * block_bytes))
    plan.kv_cache([(HEADS, HEAD_DIM)] * LAYERS, blocks, "q16")
    whole = blocks * plan.block_bytes
    new = [addresses for addresses in resident_bytes() if addresses not in before]
    [memory] = [addresses for addresses in new if size(addresses) >= whole]

    def grow() -> int:
        while True:
            resident = resident_bytes()[memory]
            has_more = plan.touch_while_idle()
            assert resident_bytes()[memory] - resident <= 2 * HUGE_PAGE
            if not has_more:
                return resident_bytes()[memory]

    expected = CHUNK_BLOCKS * plan.block_bytes + ahead
    assert expected <= grow() < expected + HUGE_PAGE
    assert not plan.touch_while_idle()
    zero, one_token = np.zeros(1, np.int32), np.array([0, 1], np.int32)
    plan.run(zero, zero, one_token, np.array([[blocks - 1]], np.int32), np.zeros(0, np.int32), buffer)
    assert whole <= grow() < whole + HUGE_PAGE


def test_a_plan_without_a_cache_has_nothing_to_get_ready() -> None:
    assert not plan_without_layers()[0].touch_while_idle()

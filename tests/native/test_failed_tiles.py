"""A tile for which there is no memory fails its step, whichever thread it is on, and not the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from patience import PATIENCE_S

# glibc would else find room in what it has freed or reserved, whatever the limit.
STRICT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
PROGRAM = """
import contextlib, resource
import numpy as np
from llm_serving.native.core import load_core

core = load_core()
TOKENS, HEADS, HEAD_DIM = 2048, {heads}, 256
NONE = np.zeros(0, np.int32)
IDS = np.arange(TOKENS, dtype=np.int32) % 64

@contextlib.contextmanager
def little_memory():
    "Beside what this process has taken already."
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 640 * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))

def fails(step, *arguments):
    try:
        with little_memory():
            step(*arguments)
    except MemoryError:
        return True
    return False

def embedded(plan, width):
    table = np.random.default_rng(1).standard_normal((64, width), dtype=np.float32)
    buffer = plan.buffer(width)
    plan.embed(plan.pack("F32", table.view(np.uint8).reshape(-1), 64, width, "f32", None), buffer)
    return buffer
"""
ENCODER = """
def encoder():
    plan = core.Plan(2, "auto", TOKENS, TOKENS, core.Side.ENCODERS)
    rows, out = embedded(plan, 3 * HEADS * HEAD_DIM), plan.buffer(HEADS * HEAD_DIM)
    plan.encoder_attention(rows, out, HEADS, HEADS, HEAD_DIM**-0.5)

    def step(length):
        starts = np.arange(0, TOKENS + 1, length, dtype=np.int32)
        positions = np.arange(TOKENS, dtype=np.int32) % length
        tables = np.zeros((TOKENS // length, 0), np.int32)
        return plan.run(IDS, positions, starts, tables, NONE, out).copy()

    return step

expected = encoder()(TOKENS)
step = encoder()
step(16)  # takes all that the next one needs, but for the scratch of its sequence
print(sum(fails(step, TOKENS) for _ in range(20)), np.array_equal(step(TOKENS), expected))
"""
SPLIT_CONTEXT = """
def chat():
    plan = core.Plan(2, "auto", 16, TOKENS)
    rows, out = embedded(plan, (HEADS + 2) * HEAD_DIM), plan.buffer(HEADS * HEAD_DIM)
    plan.rope_table(np.tile(np.float32([1, 0]), (TOKENS, 1)))
    plan.kv_cache([(1, HEAD_DIM)], TOKENS // 16, "q8")
    plan.rope_store(rows, 0, HEADS)
    plan.attention(rows, out, 0, HEADS, HEAD_DIM**-0.5)
    table = np.arange(TOKENS // 16, dtype=np.int32)[None]

    def step(position):
        return plan.run(IDS[:1], np.int32([position]), np.int32([0, 1]), table, NONE, out).copy()

    step(0)  # by one of the workers, which is the only one that has scratch now
    return step

expected = chat()(TOKENS - 1)  # eight tiles, which count those that are done
some_failed = False
for turn in range(400):  # on a busy machine one worker often takes all tiles
    step = chat()
    some_failed |= fails(step, TOKENS - 1)
    assert np.array_equal(step(TOKENS - 1), expected)
    if some_failed and turn >= 10:
        break
print(some_failed)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to RLIMIT_AS")
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer runs out of memory itself"
)
@pytest.mark.parametrize(
    ("heads", "program", "told"), [(4, ENCODER, "20 True"), (64, SPLIT_CONTEXT, "True")], ids=["all", "some"]
)
def test_a_step_without_memory_fails_and_can_be_repeated(heads: int, program: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{heads}", str(heads)) + program],
        env=os.environ | STRICT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (0, told + "\n"), done.stderr

"""A token's logits do not depend on anything but the tokens before it: bit for bit, through the seam."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_gpt_oss import write_tiny_gpt_oss
from tiny_models import SMALLEST_VOCAB, write_tiny_llama, write_tiny_qwen2, write_tiny_qwen3_moe

from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.native.core import load_core

# Formats: q4 and q8 together, q4 with wide scales, experts of both, of codes with each kind of scale, q8
# alone. Shapes: odd groups and rows. Sinks come with windows, limited gates and biases everywhere.
MODELS = {
    "mixed": (write_tiny_llama, {"kind": "Q4_1", "kinds": {"token_embd": "Q8_0"}, "hidden": 288, "heads": 9,
                                 "kv_heads": 3, "ffn": 416, "vocab": SMALLEST_VOCAB + 34}),
    "wide": (write_tiny_llama, {"kind": "Q4_K", "hidden": 256, "ffn": 512, "heads": 8, "kv_heads": 1}),
    "experts": (write_tiny_qwen3_moe, {"kind": "Q4_1", "kinds": {"ffn_down": "Q8_0"}, "hidden": 96,
                                       "ffn": 64}),
    "sinks": (write_tiny_gpt_oss, {"kind": "Q8_0", "kinds": {"ffn_up_exps": "MXFP4"}, "hidden": 96}),
    "codes": (write_tiny_qwen3_moe, {"kind": "MXFP4", "kinds": {"ffn_down": "IQ4_NL", "attn_q": "IQ4_XS",
                                                                "ffn_up": "IQ2_XS", "attn_v": "IQ3_S"},
                                     "hidden": 256, "ffn": 64}),
    "q8": (write_tiny_qwen2, {"kind": "F16", "hidden": 160, "heads": 2, "kv_heads": 1, "tied": False}),
}  # fmt: skip
RNG = np.random.default_rng(21)
TEXT = RNG.integers(0, SMALLEST_VOCAB, 150).tolist()
OTHERS = [RNG.integers(0, SMALLEST_VOCAB, n).tolist() for n in (1, 40, 7, 90, 16)]


@pytest.fixture(params=["q16", "q8", "q4"])
def make_driver(make_driver, request):
    """Every test here, of either kind of KV cache."""
    return partial(make_driver, kv_cache=request.param)


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory) -> Checkpoint:
    write, shape = MODELS[request.param]
    return open_checkpoint(str(write(tmp_path_factory.mktemp("bits") / "m.gguf", **shape)))


def assert_same_bits(ours: np.ndarray, expected: np.ndarray) -> None:
    assert ours.dtype == expected.dtype == np.float32
    assert np.isfinite(expected).all()
    different = np.flatnonzero((ours.view(np.uint32) != expected.view(np.uint32)).any(axis=-1))
    assert different.size == 0, f"rows {different.tolist()} differ"


def feed_in_pieces(driver: RunnerDriver, tokens: list[int], sizes: list[int]) -> np.ndarray:
    sequence, parts, start = DrivenSequence(), [], 0
    for size in sizes:
        parts.append(driver.step([(sequence, tokens[start : start + size])]))
        start += size
    driver.finish(sequence)
    assert start == len(tokens)
    return np.concatenate(parts)


def test_any_chunking(checkpoint: Checkpoint, make_driver) -> None:
    driver = make_driver(checkpoint)
    whole = driver.logits(TEXT)
    for chunk in (1, 3, 15, 16, 17):
        assert_same_bits(driver.logits(TEXT, chunk), whole)
    rng = np.random.default_rng(1)
    for _ in range(3):
        cuts = np.sort(rng.choice(np.arange(1, len(TEXT)), 9, replace=False))
        sizes = np.diff([0, *cuts, len(TEXT)]).tolist()
        assert_same_bits(feed_in_pieces(driver, TEXT, sizes), whole)


@pytest.mark.parametrize("place", range(len(OTHERS) + 1))
def test_any_place_in_a_batch(checkpoint: Checkpoint, make_driver, place: int) -> None:
    """Prefill of all in one step, then one token each a step, as decoding does."""
    driver = make_driver(checkpoint)
    alone = driver.logits(TEXT)
    texts = [*OTHERS[:place], TEXT[:-3], *OTHERS[place:]]
    batch = [DrivenSequence() for _ in texts]
    starts = np.cumsum([0, *map(len, texts)])
    prefill = driver.step(list(zip(batch, texts, strict=True)))
    assert_same_bits(prefill[starts[place] : starts[place + 1]], alone[:-3])
    for i in range(3):
        nexts = [[TEXT[len(TEXT) - 3 + i]] if b == place else [7 + b] for b in range(len(batch))]
        decode = driver.step(list(zip(batch, nexts, strict=True)))
        assert_same_bits(decode[place : place + 1], alone[len(TEXT) - 3 + i :][:1])


def test_random_company(checkpoint: Checkpoint, make_driver) -> None:
    """Sequences come, go and share steps in random pieces; each gets what it gets alone."""
    driver = make_driver(checkpoint, threads=2)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, SMALLEST_VOCAB, rng.integers(1, 60)).tolist() for _ in range(14)]
    expected = [driver.logits(text) for text in texts]
    waiting, running, done = list(range(len(texts))), {}, 0
    while waiting or running:
        while waiting and len(running) < 5:
            running[waiting.pop()] = DrivenSequence()
        chosen = [i for i in running if rng.random() < 0.7] or list(running)[:1]
        pieces = [texts[i][(n := running[i].num_tokens) : n + int(rng.choice([1, 1, 4, 23]))] for i in chosen]
        before = [running[i].num_tokens for i in chosen]
        rows = np.split(
            driver.step([(running[i], piece) for i, piece in zip(chosen, pieces, strict=True)]),
            np.cumsum([len(piece) for piece in pieces])[:-1],
        )
        for i, start, got in zip(chosen, before, rows, strict=True):
            assert_same_bits(got, expected[i][start : start + len(got)])
            if running[i].num_tokens == len(texts[i]):
                driver.finish(running.pop(i))
                done += 1
    assert done == len(texts)


def test_asking_for_fewer_rows(checkpoint: Checkpoint, make_driver) -> None:
    driver = make_driver(checkpoint)
    whole = driver.logits(TEXT)
    for rows in ([149], [0], [0, 149], [3, 4, 5, 17, 148], [140, 2, 77], list(range(20, 60))):
        assert_same_bits(driver.step([(DrivenSequence(), TEXT)], rows), whole[rows])
    sequence = DrivenSequence()
    assert driver.step([(sequence, TEXT[:-1])], rows=[]).shape[0] == 0
    assert_same_bits(driver.step([(sequence, TEXT[-1:])]), whole[-1:])


def test_a_shared_prefix(checkpoint: Checkpoint, make_driver) -> None:
    """A second sequence reads the full blocks of the first, also in the very step that extends both."""
    driver = make_driver(checkpoint)
    size = driver.runner.limits.block_size
    shared, tails = TEXT[: 3 * size], (TEXT[3 * size : 3 * size + 9], OTHERS[1][:20])
    expected = [driver.logits(shared + tail)[3 * size :] for tail in tails]
    first = DrivenSequence()
    driver.step([(first, shared)])
    second = DrivenSequence(num_tokens=3 * size, blocks=list(first.blocks))
    both = driver.step([(second, tails[1]), (first, tails[0])])
    assert_same_bits(both, np.concatenate([expected[1], expected[0]]))


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads(checkpoint: Checkpoint, make_driver, threads: int) -> None:
    one = make_driver(checkpoint).logits(TEXT)
    many = make_driver(checkpoint, threads=threads)
    for chunk in (0, 37):
        assert_same_bits(many.logits(TEXT, chunk), one)


def test_any_blocks(checkpoint: Checkpoint, make_driver) -> None:
    expected = make_driver(checkpoint, seed=0).logits(TEXT)
    for seed in (1, 2):
        driver = make_driver(checkpoint, seed=seed)
        driver.logits(OTHERS[3])  # leaves its keys and values behind in blocks that are used next
        assert_same_bits(driver.logits(TEXT), expected)


def test_simd_equals_scalar(checkpoint: Checkpoint, make_driver) -> None:
    by_isa = {isa: make_driver(checkpoint, isa=isa) for isa in load_core().instruction_sets()}
    assert [driver.runner.isa for driver in by_isa.values()] == list(by_isa)
    scalar = by_isa.pop("scalar")
    for chunk in (0, 1, 3):  # many rows, one row and a few take different kernels
        expected = scalar.logits(TEXT[:60], chunk)
        for fast in by_isa.values():
            assert_same_bits(fast.logits(TEXT[:60], chunk), expected)


@pytest.mark.model
def test_the_real_model(real_checkpoint: Checkpoint, real_packed, make_driver) -> None:
    make = partial(make_driver, real_checkpoint, context_length=128, max_concurrency=4, **real_packed)
    ids = np.random.default_rng(5).integers(17, 20000, 70).tolist()
    one = make()
    whole = one.logits(ids)
    assert_same_bits(one.logits(ids, 1), whole)
    assert_same_bits(one.logits(ids, 19), whole)
    batch = [(DrivenSequence(), ids[:31]), (DrivenSequence(), ids), (DrivenSequence(), ids[5:9])]
    assert_same_bits(one.step(batch)[31:101], whole)
    two = make(threads=2)
    assert_same_bits(two.logits(ids), whole)
    for isa in load_core().instruction_sets()[1:]:
        other = make(threads=2, isa=isa)
        assert_same_bits(other.logits(ids[:8]), whole[:8])

"""Gemma 3 with eyes: its rows see each other all, and the same bits whoever computes them, in any step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runner_driver import DrivenSequence, RunnerDriver
from tiny_gemma import HIDDEN, LAYERS, PLACE, ROWS, TILE, WINDOW, write_tiny_gemma

from llm_serving.architectures import describe, describe_vision, sees
from llm_serving.backends.native_backend import build_runner, memory_need
from llm_serving.backends.sight import load_sight, sight_need
from llm_serving.checkpoints import Checkpoint, Tensor, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.errors import CheckpointError
from llm_serving.native.core import load_core
from llm_serving.native.ops import KvShape
from llm_serving.native.vision import NativeVision, averaged

IDS = [*range(5, 10), *[PLACE] * ROWS, *range(20, 31), *[PLACE] * ROWS, 12, 13]
PLACES = np.flatnonzero(np.array(IDS) == PLACE).astype(np.int32)
SPANS = [(5, 5 + ROWS), (16 + ROWS, 16 + 2 * ROWS)]
GIVEN = np.random.default_rng(3).standard_normal((2 * ROWS, HIDDEN)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny_gemma(tmp_path_factory.mktemp("gemma")))


def tile(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (TILE, TILE, 3)).astype(np.float32)


def seen_of(length: int, spans: list[tuple[int, int]], first: int = 0) -> np.ndarray:
    """How many positions each of `length` tokens from `first` on sees."""
    seen = np.arange(first + 1, first + length + 1, dtype=np.int32)
    for start, end in spans:
        seen[max(0, start - first) : max(0, end - first)] = end
    return seen


def describe_both(checkpoint: Checkpoint) -> None:
    describe(checkpoint)
    describe_vision(checkpoint, TILE)


def runner_of(checkpoint: Checkpoint, isa: str = "auto", **options: Any) -> Any:
    return build_runner(checkpoint, EngineOptions(**{"threads": 2, **options}), isa=isa)


def test_a_plan_says_who_sees_whom(checkpoint: Checkpoint) -> None:
    plan = describe(checkpoint)
    assert plan.given_span == ROWS
    windows = [operation.window for operation in plan.operations if type(operation).__name__ == "Attention"]
    assert windows == [WINDOW if kind == "sliding_attention" else 0 for kind in LAYERS]
    assert (plan.rope.theta, plan.rope.linear_factor) == (1e6, 8.0)
    assert sees(checkpoint)
    assert not sees(replace(checkpoint, format="gguf"))


def test_the_published_settings(checkpoint: Checkpoint) -> None:
    """Gemma 3 4B's config.json leaves out what is the smallest model's; 4304 is no multiple of 32."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 2,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    vision = {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "vision_use_head": False,
    }
    tower, projector = "vision_tower.vision_model.", "multi_modal_projector."
    layer = f"{tower}encoder.layers.0."
    shapes = {
        "language_model.model.embed_tokens.weight": (262208, 2560),
        "language_model.model.layers.0.mlp.up_proj.weight": (10240, 2560),
        f"{tower}embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        f"{tower}embeddings.position_embedding.weight": (4096, 1152),
        f"{projector}mm_input_projection_weight": (1152, 2560),
        **{f"{layer}self_attn.{name}_proj.weight": (1152, 1152) for name in ("q", "k", "v", "out")},
        f"{layer}mlp.fc1.weight": (4304, 1152),
        f"{layer}mlp.fc1.bias": (4304,),
        f"{layer}mlp.fc2.weight": (1152, 4304),
    }
    tensors = {
        name: Tensor(name, "BF16", shape, np.zeros(2 * int(np.prod(shape)), np.uint8))
        for name, shape in shapes.items()
    }
    metadata = {"mm_tokens_per_image": 256, "text_config": text, "vision_config": vision}
    published = replace(checkpoint, metadata=metadata, tensors=tensors)
    plan = describe(published)
    assert (plan.query_heads, set(plan.kv), plan.max_context) == (8, {KvShape(4, 256)}, 131072)
    assert (plan.rope.linear_factor, plan.given_span, plan.vocab_size) == (8.0, 256, 262208)
    eyes, shaped = describe_vision(published, 896)
    assert (eyes.rows, eyes.patches, eyes.side, eyes.width, eyes.columns) == (256, 64, 4, 2560, 608)
    wide = shaped.tensor(f"{layer}mlp.fc1.weight").as_rows()
    assert (wide.shape, wide.data.nbytes) == ((4320, 1152), 2 * 4320 * 1152)
    assert shaped.tensor(f"{layer}mlp.fc1.bias").shape == (4320,)
    assert shaped.tensor(f"{layer}mlp.fc2.weight").as_rows().data.nbytes == 2 * 4320 * 1152


def test_names_of_both_kinds(checkpoint: Checkpoint, tmp_path: Path) -> None:
    newer = open_checkpoint(write_tiny_gemma(tmp_path, "newer"))
    found = []
    for model in (checkpoint, newer):
        runner = runner_of(model)
        vision = NativeVision(*describe_vision(model, TILE))
        logits = RunnerDriver(runner).step(
            [(DrivenSequence(), IDS)], given=(GIVEN, PLACES), seen=seen_of(len(IDS), SPANS)
        )
        found.append((logits, vision.encode(tile(1))))
        runner.close()
        vision.close()
    assert all((ours == theirs).all() for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("weight_format", ["f32", "q8"])
def test_rows_are_the_same_whoever_computes_them(checkpoint: Checkpoint, weight_format: str) -> None:
    found = []
    for isa in load_core().instruction_sets():
        for threads in (1, 3):
            vision = NativeVision(
                *describe_vision(checkpoint, TILE), threads=threads, isa=isa, weight_format=weight_format
            )
            rows = [vision.encode(tile(seed)) for seed in (0, 1, 0)]
            assert (rows[0] == rows[2]).all()
            assert rows[0].shape == (ROWS, HIDDEN)
            found.append(np.concatenate(rows))
            vision.close()
    assert all((rows == found[0]).all() for rows in found)


def test_means_are_of_neighbours(checkpoint: Checkpoint) -> None:
    plan, _ = describe_vision(checkpoint, TILE)
    hidden = np.arange(64, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert averaged(hidden, plan)[:5, 0].tolist() == [4.5, 6.5, 8.5, 10.5, 20.5]


@pytest.mark.parametrize("kv_cache", ["q16", "q8"])
def test_spans_in_any_step(checkpoint: Checkpoint, kv_cache: str) -> None:
    found = []
    for isa in load_core().instruction_sets():
        for threads in (1, 2):
            runner = runner_of(checkpoint, isa, threads=threads, kv_cache=kv_cache)
            driver = RunnerDriver(runner)
            whole = driver.step(
                [(DrivenSequence(), IDS)], given=(GIVEN, PLACES), seen=seen_of(len(IDS), SPANS)
            )
            sequence, parts = DrivenSequence(), []
            for start, end in [(0, 3), (3, 5), (5, 21), (21, 48), (48, 49), (49, len(IDS))]:
                own = np.flatnonzero((start <= PLACES) & (end > PLACES))
                given = (GIVEN[own], PLACES[own] - start) if len(own) else None
                seen = seen_of(end - start, SPANS, start) if len(own) else None
                parts.append(driver.step([(sequence, IDS[start:end])], given=given, seen=seen))
            assert (np.concatenate(parts) == whole).all()
            beside = driver.step(
                [(DrivenSequence(), [7, 8, 9]), (DrivenSequence(), IDS)],
                given=(GIVEN, PLACES + np.int32(3)),
                seen=np.concatenate([seen_of(3, []), seen_of(len(IDS), SPANS)]),
            )
            assert (beside[3:] == whole).all()
            found.append(whole)
            runner.close()
    assert all((logits == found[0]).all() for logits in found)


def test_what_comes_is_seen_and_nothing_else(checkpoint: Checkpoint) -> None:
    runner = runner_of(checkpoint)
    driver = RunnerDriver(runner)

    def logits(given: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
        return driver.step([(DrivenSequence(), IDS)], given=(given, PLACES), seen=seen)

    whole = logits(GIVEN, seen_of(len(IDS), SPANS))
    ahead = logits(GIVEN, None)
    assert (ahead[:5] == whole[:5]).all()
    assert (ahead[5:] != whole[5:]).any(axis=1).all()
    assert (ahead == logits(GIVEN, seen_of(len(IDS), []))).all()
    other = GIVEN.copy()
    other[ROWS - 1] += 1
    changed = (logits(other, seen_of(len(IDS), SPANS)) != whole).any(axis=1)
    assert changed.tolist() == [False] * 5 + [True] * (len(IDS) - 5)
    other = GIVEN.copy()
    other[-1] += 1
    changed = (logits(other, seen_of(len(IDS), SPANS)) != whole).any(axis=1)
    assert changed.tolist() == [False] * SPANS[1][0] + [True] * (len(IDS) - SPANS[1][0])
    runner.close()


@pytest.mark.parametrize("rows", [2, 9, ROWS])
@pytest.mark.parametrize("before", [250, 505, 700])
def test_far_in_a_context(checkpoint: Checkpoint, before: int, rows: int) -> None:
    """Few rows alone in a step share a long context among the threads; a piece may end within them."""
    rng = np.random.default_rng(before)
    ids = [*rng.integers(5, 300, before).tolist(), *[PLACE] * rows]
    runner = runner_of(checkpoint, context_length=1024)
    at = np.arange(rows, dtype=np.int32)
    found = []
    for alone in (True, False):
        driver, sequence = RunnerDriver(runner), DrivenSequence()
        cut = before if alone else before - 40
        for start in range(0, cut, 256):
            driver.step([(sequence, ids[start : min(start + 256, cut)])])
        seen = seen_of(len(ids) - cut, [(before, before + rows)], cut)
        logits = driver.step(
            [(sequence, ids[cut:])], given=(GIVEN[:rows], at + np.int32(before - cut)), seen=seen
        )
        found.append(logits[-rows:])
    assert (found[0] == found[1]).all()
    runner.close()


@pytest.mark.parametrize("seen", [[0, 2, 3], [1, 2, 4], [3, 2, 3], [1, 3]])
def test_what_nobody_can_see_is_refused(checkpoint: Checkpoint, seen: list[int]) -> None:
    runner = runner_of(checkpoint)
    with pytest.raises(ValueError, match="sees itself|fit together"):
        RunnerDriver(runner).step([(DrivenSequence(), [5, 6, 7])], seen=np.array(seen, np.int32))
    runner.close()


def test_memory_is_told_with_the_eyes(checkpoint: Checkpoint) -> None:
    options = EngineOptions(threads=2)
    need = sight_need(checkpoint, options)
    assert memory_need(checkpoint, options).weights - memory_need(
        checkpoint, replace(options, sees=False)
    ).weights == need.num_bytes - sum(checkpoint.tensor(name).data.nbytes for name in need.tensors)
    sight = load_sight(checkpoint, options)
    assert sight is not None
    matrices = sight.encoder.weight_bytes
    patches = (TILE // 4) ** 2
    assert matrices + 4 * patches * 32 < need.num_bytes < 4 * matrices + 4 * patches * 400
    assert not sight_need(checkpoint, replace(options, sees=False)).num_bytes
    sight.encoder.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mm_tokens_per_image": 15}, "a square"),
        ({"mm_tokens_per_image": 4096}, "up to 1024"),
        ({"mm_tokens_per_image": 9}, "do not become 3 x 3"),
        ({"text_config": {"model_type": "llama"}}, "'llama'"),
        ({"text_config": 5}, "no object"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    model = open_checkpoint(write_tiny_gemma(tmp_path, **config))
    with pytest.raises(CheckpointError, match=message):
        describe_both(model)


def test_a_tile_of_another_size_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="made for 32 pixels"):
        describe_vision(checkpoint, 64)

"""Gemma 3 with eyes against `transformers`: random models, saved and opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
from runner_driver import DrivenSequence, RunnerDriver
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from vision_models import tiles_of

from llm_serving.architectures import describe, describe_vision
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.native.vision import NativeVision

pytestmark = pytest.mark.parity

IMAGE_ID, VOCAB = 300, 384
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "max_position_embeddings": 1024,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "initializer_range": 0.15,
    "pad_token_id": 0,
}
SMALL = {"hidden_size": 64, "intermediate_size": 104, "num_attention_heads": 4, "num_hidden_layers": 3}
# What a picture has: patches of 8 a side whose means are 4 x 4 rows, and the real 64 a side with 16 x 16.
FEW = {**SMALL, "image_size": 64, "patch_size": 8}
MANY = {**SMALL, "num_hidden_layers": 1, "image_size": 448, "patch_size": 7}
# SigLIP So400m as Gemma 3 has it, but for all layers but one.
REAL = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 1,
    "image_size": 896,
    "patch_size": 14,
    "initializer_range": 0.03,
}


def saved(directory: Path, vision: dict[str, Any], rows: int, window: int) -> tuple[Any, Checkpoint]:
    """A model with norms, biases and a projection that matter, and its directory opened."""
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config={**TEXT, "sliding_window": window},
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "initializer_range": 0.15,
            **vision,
        },
        mm_tokens_per_image=rows,
        image_token_index=IMAGE_ID,
        boi_token_index=298,
        eoi_token_index=299,
        attn_implementation="eager",
    )
    model = Gemma3ForConditionalGeneration(config).eval().float()
    for part, values in model.named_parameters():
        if "norm" in part or part.endswith("bias"):
            values.data += 0.2 * torch.randn_like(values)
        if part.endswith("mm_input_projection_weight"):
            values.data = 0.1 * torch.randn_like(values)
    model.save_pretrained(directory)
    return model, open_checkpoint(directory)


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)))


def pixel_values(tiles: np.ndarray) -> torch.Tensor:
    """float32 [count, 3, side, side], as the processor gives them."""
    return torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("window", [5, 16, 40, 600])
def test_tower_rows_and_logits(tmp_path: Path, window: int) -> None:
    """Windows that end within a picture, with it, and behind it; texts before, between and behind."""
    model, checkpoint = saved(tmp_path, FEW, 16, window)
    plan, shaped = describe_vision(checkpoint, 64)
    assert (plan.rows, describe(checkpoint).given_span) == (16, 16)
    tiles = tiles_of(2, 64)
    with torch.no_grad():
        seen = model.model.get_image_features(pixel_values(tiles), return_dict=True)
    vision = NativeVision(plan, shaped, threads=2)
    for i, tile in enumerate(tiles):
        np.testing.assert_allclose(vision.look(tile), seen.last_hidden_state[i].numpy(), atol=5e-5, rtol=1e-4)
    rows = [vision.encode(tile) for tile in tiles]
    np.testing.assert_allclose(np.stack(rows), seen.pooler_output.numpy(), atol=2e-4, rtol=1e-4)
    vision.close()
    compare(model, checkpoint, tiles, np.concatenate(rows), 16)


def test_a_picture_of_256_rows(tmp_path: Path) -> None:
    """As many as the real one has, in a window that is shorter, over several pieces of a context."""
    model, checkpoint = saved(tmp_path, MANY, 256, 100)
    plan, shaped = describe_vision(checkpoint, 448)
    tiles = tiles_of(2, 448)
    vision = NativeVision(plan, shaped, threads=2)
    rows = [vision.encode(tile) for tile in tiles]
    vision.close()
    compare(model, checkpoint, tiles, np.concatenate(rows), 256)


def compare(model: Any, checkpoint: Checkpoint, tiles: np.ndarray, rows: np.ndarray, span: int) -> None:
    """Logits of two pictures in a text, those of the second in a step of its own."""
    ids = [2, 5, 7, 298, *[IMAGE_ID] * span, 299, 11, 12, 298, *[IMAGE_ID] * span, 299, *range(20, 32)]
    is_image = np.array(ids) == IMAGE_ID
    with torch.no_grad():
        logits = model(
            torch.tensor([ids]),
            pixel_values=pixel_values(tiles),
            token_type_ids=torch.from_numpy(is_image[None].astype(np.int64)),
        ).logits[0]
    places = np.flatnonzero(is_image)
    seen = np.arange(1, len(ids) + 1, dtype=np.int32)
    for start in (places[0], places[span]):
        seen[start : start + span] = start + span
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    driver, sequence = RunnerDriver(runner), DrivenSequence()
    cut = int(places[span])
    first = driver.step([(sequence, ids[:cut])], given=(rows[:span], places[:span]), seen=seen[:cut])
    last = driver.step([(sequence, ids[cut:])], given=(rows[span:], places[span:] - cut), seen=seen[cut:])
    assert relative(np.concatenate([first, last]), logits.numpy()) < 2e-3  # our cache holds integers
    blind = driver.step([(DrivenSequence(), ids[:cut])], given=(rows[:span], places[:span]))
    assert relative(blind, logits[:cut].numpy()) > 0.05
    runner.close()


def test_sizes_of_the_real_tower(tmp_path: Path) -> None:
    """One layer of it over 4096 patches, in f32, and with weights in q8 as they are served."""
    model, checkpoint = saved(tmp_path, REAL, 256, 600)
    plan, shaped = describe_vision(checkpoint, 896)
    assert (plan.rows, plan.side, plan.columns) == (256, 4, 608)
    tiles = tiles_of(1, 896)
    with torch.no_grad():
        expected = model.model.get_image_features(pixel_values(tiles), return_dict=True).pooler_output[0]
    for weight_format, bound in (("f32", 1e-5), ("q8", 0.02)):
        vision = NativeVision(plan, shaped, threads=2, weight_format=weight_format)
        assert relative(vision.encode(tiles[0]), expected.numpy()) < bound
        vision.close()

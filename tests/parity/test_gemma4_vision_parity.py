"""Gemma 4 with eyes against `transformers`: random models of each kind, pictures of several shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
import transformers
from PIL import Image
from runner_driver import DrivenSequence, RunnerDriver
from test_gemma4_parity import KINDS, VOCAB, randomized
from test_gemma4_parity import SHAPE as TEXT

from llm_serving.architectures import describe_any_size
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.images.filling import Filling
from llm_serving.native.any_size_vision import AnySizeVision

pytestmark = pytest.mark.parity

IMAGE_ID, ROWS, PATCH, SIDE = 300, 70, 4, 3
VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 84,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "patch_size": PATCH,
    "pooling_kernel_size": SIDE,
    "position_embedding_size": 300,
    "initializer_range": 0.15,
}
PICTURES = [(64, 64), (100, 30), (9, 400)]  # width and height


def saved(directory: Path, kind: str, **vision: Any) -> tuple[Any, Checkpoint]:
    """A model with norms, positions and bounds that matter, and its directory opened."""
    torch.manual_seed(0)
    shape = {**TEXT, **KINDS[kind], "max_position_embeddings": 1024}
    if not shape["hidden_size_per_layer_input"]:
        shape["use_bidirectional_attention"] = "vision"
    config = transformers.Gemma4Config(
        text_config={**shape, "num_hidden_layers": len(shape["layer_types"])},
        vision_config={**VISION, **vision},
        image_token_id=IMAGE_ID,
        attn_implementation="eager",
    )
    model = randomized(transformers.Gemma4ForConditionalGeneration(config))
    tower = model.model.vision_tower
    positions = tower.patch_embedder.position_embedding_table
    positions.data = 0.3 * torch.randn_like(positions)
    if shape["hidden_size_per_layer_input"]:  # what padding has, which begins as zeros
        table = model.model.language_model.embed_tokens_per_layer.weight
        table.data[0] = 0.2 * torch.randn(table.shape[1])
    for name, values in tower.named_buffers():
        if name.endswith(("input_min", "output_min")):
            values.data.fill_(-1.5 if "k_proj" in name else -1.0)
        elif name.endswith(("input_max", "output_max")):
            values.data.fill_(1.2)
        elif name.startswith("std_"):
            values.data = 1 + 0.3 * torch.randn_like(values)
    model.save_pretrained(directory)
    return model, open_checkpoint(directory)


def processors(patch: int = PATCH) -> tuple[Any, Filling]:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    config = {"patch_size": patch, "pooling_kernel_size": SIDE, "max_soft_tokens": ROWS}
    return Gemma4ImageProcessorPil(**config), Filling.read(config, "here", 280)


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)))


@pytest.mark.parametrize("vision", [{}, {"use_clipped_linears": True, "standardize": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_rows_logits_and_what_follows(kind: str, vision: dict[str, Any], tmp_path: Path) -> None:
    model, checkpoint = saved(tmp_path, kind, **vision)
    theirs, ours = processors()
    shown = [picture(size, seed) for seed, size in enumerate(PICTURES)]
    prepared = theirs(shown, return_tensors="pt")
    with torch.no_grad():
        seen = model.model.get_image_features(
            prepared["pixel_values"], prepared["image_position_ids"], return_dict=True
        )
    plan, shaped = describe_any_size(checkpoint, ROWS)
    encoder = AnySizeVision(plan, shaped, threads=2)
    rows = []
    for image, expected in zip(shown, seen.pooler_output, strict=True):
        tiles, grid = ours.cut(image)
        assert len(expected) == np.prod(encoder.shape(grid))
        rows.append(encoder.encode(ours.normalized(tiles[0])))
        np.testing.assert_allclose(rows[-1], expected.numpy(), atol=3e-4, rtol=1e-3)
    encoder.close()

    ids, starts = [2, 5, 7], []
    for each in rows:
        starts.append(len(ids) + 1)
        ids += [301, *[IMAGE_ID] * len(each), 302, 11]
    ids += range(20, 30)
    is_image = (torch.tensor([ids]) == IMAGE_ID).int()
    kinds = {
        "mm_token_type_ids": is_image,
        **{k: prepared[k] for k in ("pixel_values", "image_position_ids")},
    }
    with torch.no_grad():
        asked = {"use_cache": False, "output_hidden_states": True}
        logits = model(torch.tensor([ids]), **kinds, **asked).logits[0].numpy()
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    driver, sequence = RunnerDriver(runner), DrivenSequence()
    places = np.flatnonzero(np.array(ids) == IMAGE_ID)
    padded = [0 if token == IMAGE_ID else token for token in ids]  # which prompts have there
    reach = np.arange(1, len(ids) + 1, dtype=np.int32)
    for start, each in zip(starts, rows, strict=True):
        reach[start : start + len(each)] = start + len(each)
    is_bound = runner.limits.given_span > 0
    assert is_bound == (kind in ("26B", "31B"))
    given, own = (np.concatenate(rows), places), {"seen": reach} if is_bound else {}
    whole = driver.step([(sequence, padded)], given=given, **own)
    assert relative(whole, logits) < 3e-3  # our cache holds integers
    if is_bound:
        straight = driver.step([(DrivenSequence(), padded)], given=given)
        assert relative(straight, logits) > 0.01
    runner.close()
    assert max(ids) < VOCAB


@pytest.mark.parametrize("rows", [70, 140, 280])
def test_sizes_of_pictures(rows: int) -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

    shown = Filling.read({"max_soft_tokens": rows}, "here", 280)
    rng = np.random.default_rng(rows)
    sizes = np.exp(rng.uniform(0, 9, (3000, 2))).astype(int) + 1
    for width, height in sizes.tolist():
        expected = get_aspect_ratio_preserving_size(height, width, 16, rows * 9, 3)
        grid = shown.grid(width, height)
        assert (grid.height, grid.width) == expected, (width, height)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "head_dim": 64},
        {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "head_dim": 72},
    ],
)
def test_sizes_of_real_towers(sizes: dict[str, Any], tmp_path: Path) -> None:
    """Few layers of them, in f32 and with weights in q8 as they are served."""
    own = {**sizes, "num_key_value_heads": sizes["num_attention_heads"], "initializer_range": 0.03}
    model, checkpoint = saved(tmp_path, "31B", patch_size=16, num_hidden_layers=2, **own)
    theirs, ours = processors(16)
    shown = picture((300, 200), 1)
    prepared = theirs([shown], return_tensors="pt")
    with torch.no_grad():
        seen = model.model.get_image_features(
            prepared["pixel_values"], prepared["image_position_ids"], return_dict=True
        )
    plan, shaped = describe_any_size(checkpoint, ROWS)
    for weight_format, bound in (("f32", 1e-4), ("q8", 0.02)):
        vision = AnySizeVision(plan, shaped, threads=2, weight_format=weight_format)
        rows = vision.encode(ours.normalized(ours.cut(shown)[0][0]))
        assert relative(rows, seen.pooler_output[0].numpy()) < bound
        vision.close()

"""Towers, connectors and whole models that see, against `transformers`: random models, saved and opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
from runner_driver import DrivenSequence, RunnerDriver
from vision_models import IMAGE_ID, MODELS, REAL, REAL_TEXT, pixel_values, saved, tiles_of

from llm_serving.architectures import describe_vision
from llm_serving.backends.native_backend import build_runner
from llm_serving.engine.protocol import EngineOptions
from llm_serving.native.vision import NativeVision
from llm_serving.native.vision_plan import position_ids

pytestmark = pytest.mark.parity


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)))


@pytest.mark.parametrize("name", MODELS)
def test_tower_connector_and_logits(name: str, tmp_path: Path) -> None:
    model, checkpoint = saved(tmp_path, name)
    side = MODELS[name][3]
    plan, shaped = describe_vision(checkpoint, side)
    tiles = tiles_of(3, side)
    with torch.no_grad():
        seen = model.model.get_image_features(pixel_values(tiles), return_dict=True)
    expected = seen.last_hidden_state.numpy()
    vision = NativeVision(plan, shaped, threads=2)
    for i, tile in enumerate(tiles):
        np.testing.assert_allclose(vision.look(tile), expected[i], atol=2e-5, rtol=1e-4)
    rows = [vision.encode(tile) for tile in tiles]
    np.testing.assert_allclose(np.concatenate(rows), seen.pooler_output[0].numpy(), atol=2e-4, rtol=1e-4)
    ids: list[int] = [5, 7]
    for i in range(3):
        ids += [IMAGE_ID] * plan.rows + [11 + i]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), pixel_values=pixel_values(tiles)).logits[0].numpy()
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    places = np.flatnonzero(np.array(ids) == IMAGE_ID)
    ours = RunnerDriver(runner).step([(DrivenSequence(), ids)], given=(np.concatenate(rows), places))
    assert relative(ours, logits) < 1e-3  # keys and values are integers in our cache
    blind = RunnerDriver(runner).step([(DrivenSequence(), ids)])
    assert relative(blind, logits) > 0.1
    runner.close()
    vision.close()


@pytest.mark.parametrize("name", REAL)
def test_sizes_of_real_models(name: str, tmp_path: Path) -> None:
    """One tile in f32, and with weights in q8 as they are served."""
    model, checkpoint = saved(tmp_path, name, REAL_TEXT, **REAL[name])
    side = REAL[name]["image_size"]
    plan, shaped = describe_vision(checkpoint, side)
    tiles = tiles_of(1, side)
    with torch.no_grad():
        expected = model.model.get_image_features(pixel_values(tiles), return_dict=True).pooler_output[0]
    for weight_format, bound in (("f32", 1e-5), ("q8", 0.02)):
        vision = NativeVision(plan, shaped, threads=2, weight_format=weight_format)
        assert relative(vision.encode(tiles[0]), expected.numpy()) < bound
        vision.close()


@pytest.mark.parametrize("patches", [2, 7, 14, 16, 24, 26, 27, 32, 64])
def test_positions_in_their_own_grid_and_another(patches: int) -> None:
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionConfig, Idefics3VisionEmbeddings

    for side in (patches, 27, 32):
        config = Idefics3VisionConfig(hidden_size=1, image_size=side, patch_size=1)
        embeddings = Idefics3VisionEmbeddings(config)
        embeddings.position_embedding.weight.data = torch.arange(side * side, dtype=torch.float32)[:, None]
        embeddings.patch_embedding.weight.data.zero_()
        embeddings.patch_embedding.bias.data.zero_()
        mask = torch.ones(1, patches, patches, dtype=torch.bool)
        expected = embeddings(torch.zeros(1, 3, patches, patches), mask)[0, :, 0]
        assert position_ids(patches, side).tolist() == expected.int().tolist()

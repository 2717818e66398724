"""Qwen-VL with eyes against `transformers`: random models, saved and opened; pictures of several shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity suite needs torch; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

import torch
import transformers
from runner_driver import DrivenSequence, RunnerDriver

from llm_serving.architectures import describe_any_size
from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import Checkpoint, open_checkpoint
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GivenRows
from llm_serving.engine.rotary import rotary_positions
from llm_serving.native.any_size_vision import AnySizeVision, window_order

pytestmark = pytest.mark.parity

IMAGE_ID, VOCAB, HIDDEN = 300, 384, 96
PATCH, SIDE, FRAMES = 6, 2, 2
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
# Of rows: several windows with rests, one that is narrow, one window alone.
SHAPES = [(5, 9), (1, 7), (2, 2)]
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}},
        {
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 84,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "window_size": 2 * SIDE * PATCH,
            "fullatt_block_indexes": [1],
        },
    ),
    "qwen2_vl": (
        "Qwen2VL",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}},
        {"depth": 3, "embed_dim": 64, "mlp_ratio": 3, "num_heads": 2, "hidden_size": HIDDEN},
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {
            "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]},
        },
        {
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 84,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 49,
            "deepstack_visual_indexes": [0, 2],
        },
    ),
}
FAMILIES["qwen3_vl_moe"] = (
    "Qwen3VLMoe",
    {**FAMILIES["qwen3_vl"][1], "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    FAMILIES["qwen3_vl"][2],
)
FAMILIES["qwen3_5"] = (
    "Qwen3_5",
    {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "initializer_range": 0.1,  # a state adds up small differences
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [3, 3, 2],
        },
    },
    {key: value for key, value in FAMILIES["qwen3_vl"][2].items() if key != "deepstack_visual_indexes"},
)
FAMILIES["qwen3_5_moe"] = (
    "Qwen3_5Moe",
    {
        **FAMILIES["qwen3_5"][1],
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
    },
    FAMILIES["qwen3_5"][2],
)
# As published, but for most of their layers.
REAL: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
    },
    "qwen2_vl": {"depth": 2, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14},
    "qwen3_vl": {
        "depth": 3,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "patch_size": 16,
        "num_position_embeddings": 2304,
    },
}


def saved(directory: Path, name: str, text: dict[str, Any] = TEXT, **vision: Any) -> tuple[Any, Checkpoint]:
    """A model with norms and biases that matter, and its directory opened."""
    family, own, sees = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        text_config={**text, **own},
        vision_config={
            "initializer_range": 0.15,
            "patch_size": PATCH,
            "spatial_merge_size": SIDE,
            "temporal_patch_size": FRAMES,
            **sees,
            **vision,
        },
        image_token_id=IMAGE_ID,
        vision_start_token_id=301,
        vision_end_token_id=302,
        video_token_id=303,
        attn_implementation="eager",
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval().float()
    for part, values in model.named_parameters():
        if "norm" in part or "ln_q" in part or part.endswith("bias"):
            values.data += 0.2 * torch.randn_like(values)
    model.save_pretrained(directory)
    return model, open_checkpoint(directory)


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours - reference) ** 2) / np.mean(reference**2)))


def picture_of(shape: tuple[int, int], seed: int, patch: int = PATCH) -> np.ndarray:
    """float32 [height, width, 3] in -1 … 1, for so many rows and columns."""
    height, width = (side * SIDE * patch for side in shape)
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


def pixel_values(pictures: list[np.ndarray], patch: int = PATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches as the processor orders them, and how many there are of each."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    theirs = Qwen2VLImageProcessorPil()
    found = [theirs.patchify(picture.transpose(2, 0, 1), patch, SIDE, FRAMES) for picture in pictures]
    grids = torch.tensor([[1, height, width] for _, height, width in found])
    return torch.from_numpy(np.concatenate([patches for patches, _, _ in found])), grids


def rows_of(seen: Any) -> np.ndarray:
    """Rows of all pictures, with those for further layers behind them."""
    parts = [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]
    rows: np.ndarray = torch.cat([torch.cat(tuple(part)) for part in parts], dim=1).numpy()
    return rows


def prompt_of(shapes: list[tuple[int, int]]) -> list[int]:
    ids = [2, 5, 7]
    for number, (rows, columns) in enumerate(shapes):
        ids += [301, *[IMAGE_ID] * (rows * columns), 302, 11 + number]
    return [*ids, *range(20, 30)]


def given_of(ids: list[int], shapes: list[tuple[int, int]], rows: list[np.ndarray]) -> list[GivenRows]:
    starts = [place + 1 for place, token in enumerate(ids) if token == 301]
    return [
        GivenRows(start, each, b"", shape) for start, each, shape in zip(starts, rows, shapes, strict=True)
    ]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shapes", [SHAPES[:1], SHAPES[:2], SHAPES])
def test_tower_rows_positions_logits_and_what_follows(
    name: str, shapes: list[tuple[int, int]], tmp_path: Path
) -> None:
    model, checkpoint = saved(tmp_path, name)
    plan, shaped = describe_any_size(checkpoint, 64)
    pictures = [picture_of(shape, seed) for seed, shape in enumerate(shapes)]
    pixels, grids = pixel_values(pictures)
    with torch.no_grad():
        seen = model.model.get_image_features(pixels, grids, return_dict=True)
    vision = AnySizeVision(plan, shaped, threads=2)
    rows = [vision.encode(picture) for picture in pictures]
    np.testing.assert_allclose(np.concatenate(rows), rows_of(seen), atol=3e-4, rtol=1e-4)
    vision.close()

    ids = prompt_of(shapes)
    given = given_of(ids, shapes, rows)
    is_image = torch.tensor([ids]) == IMAGE_ID
    positions, deltas = model.model.get_rope_index(torch.tensor([ids]), is_image.int(), grids)
    ours = rotary_positions(given, 0, len(ids))
    assert ours.T.tolist() == positions[:, 0].tolist()
    following = rotary_positions(given, len(ids), 2)
    assert following.tolist() == [[len(ids) + int(deltas[0]) + i] * 3 for i in range(2)]

    kinds = {"mm_token_type_ids": is_image.int(), "pixel_values": pixels, "image_grid_thw": grids}
    with torch.no_grad():
        logits = model(torch.tensor([ids]), **kinds).logits[0].numpy()
        answer = model.generate(torch.tensor([ids]), **kinds, max_new_tokens=8, do_sample=False)
    runner = build_runner(checkpoint, EngineOptions(quantization="f32", threads=2))
    driver, sequence = RunnerDriver(runner), DrivenSequence()
    places = np.flatnonzero(np.array(ids) == IMAGE_ID)
    whole = driver.step([(sequence, ids)], given=(np.concatenate(rows), places), rotary=ours)
    assert relative(whole, logits) < 2e-3  # our cache holds integers
    straight = driver.step([(DrivenSequence(), ids)], given=(np.concatenate(rows), places))
    assert relative(straight, logits) > 0.02

    last = whole[-1]
    for number, token in enumerate(answer[0, len(ids) :].tolist()):
        assert last.max() - last[token] < 0.02  # two of their best may be nearer to each other than that
        rotary = rotary_positions(given, len(ids) + number, 1)
        last = driver.step([(sequence, [token])], rotary=rotary)[0]
    runner.close()


@pytest.mark.parametrize("name", REAL)
def test_sizes_of_real_towers(name: str, tmp_path: Path) -> None:
    """Few layers of them, in f32 and with weights in q8 as they are served."""
    patch = REAL[name]["patch_size"]
    model, checkpoint = saved(tmp_path, name, initializer_range=0.03, **REAL[name])
    plan, shaped = describe_any_size(checkpoint, 256)
    shown = picture_of((9, 14), 1, patch)
    pixels, grids = pixel_values([shown], patch)
    with torch.no_grad():
        expected = rows_of(model.model.get_image_features(pixels, grids, return_dict=True))
    for weight_format, bound in (("f32", 1e-5), ("q8", 0.02)):
        vision = AnySizeVision(plan, shaped, threads=2, weight_format=weight_format)
        assert relative(vision.encode(shown), expected) < bound
        vision.close()


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 8), (9, 5), (1, 30)])
@pytest.mark.parametrize("window", [2, 4, 50])
def test_windows(shape: tuple[int, int], window: int) -> None:
    from transformers.vision_utils import get_vision_window_index

    grid = torch.tensor([[1, SIDE * shape[0], SIDE * shape[1]]])
    index, ends = get_vision_window_index(grid, SIDE, window * SIDE * PATCH, PATCH)
    ours, own_ends = window_order(*shape, window)
    assert ours.tolist() == index.tolist()
    assert (own_ends * SIDE * SIDE).tolist() == ends[1:].tolist()

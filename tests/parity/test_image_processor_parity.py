"""Pixels and prompts of pictures against the processors of `transformers`, in their form for Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the parity suite needs Pillow; run it with: make parity")
pytest.importorskip("transformers", reason="the parity suite needs transformers; run it with: make parity")

from pictures import encoded, picture
from tiny_gemma import write_gemma_tokenizer
from tiny_vision import IMAGE_TOKENS, write_vision_tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from llm_serving.checkpoints.directory_files import read_directory_tokenizer
from llm_serving.images.any_size import MOST_ROWS, AnySize
from llm_serving.images.decoding import decode
from llm_serving.images.expansion import IMAGE, SOFT_TOKENS, TILES
from llm_serving.images.tiling import Tiling
from llm_serving.images.whole import Whole

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SIZES = [(1, 7), (40, 30), (33, 64), (64, 64), (300, 200), (200, 301), (500, 20), (97, 1000)]
PROCESSORS = {"idefics3": Idefics3ImageProcessorPil, "smolvlm": SmolVLMImageProcessorPil}


def configured(name: str, **more: Any) -> tuple[Any, Tiling]:
    """Theirs, and ours as it reads what they write."""
    sizes = {"size": {"longest_edge": 192}, "max_image_size": {"longest_edge": 64}}
    theirs = PROCESSORS[name](**{**sizes, **more})
    return theirs, Tiling.read(json.loads(theirs.to_json_string()), "preprocessor_config.json")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"do_image_splitting": False},
        {"resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"size": {"longest_edge": 64}},
        {"size": {"longest_edge": 150}},
    ],
)
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels(name: str, more: dict[str, Any]) -> None:
    theirs, tiling = configured(name, **more)
    for seed, (width, height) in enumerate(SIZES):
        image = picture(width, height, seed, "RGBA" if seed % 2 else "RGB")
        if seed % 2:
            image.putalpha(picture(width, height, seed + 50, "L"))
        out = theirs(images=[[image]], return_tensors="np", return_row_col_info=True)
        tiles, grid = tiling.cut(decode(encoded(image), 1 << 20, "x"))
        assert (grid.rows, grid.columns) == (out["rows"][0][0], out["cols"][0][0])
        expected = out["pixel_values"][0].transpose(0, 2, 3, 1)
        assert tiles.shape == expected.shape
        np.testing.assert_array_equal(tiling.normalized(tiles), expected)
        assert out["pixel_attention_mask"].all()


def test_prompts(tmp_path: Path) -> None:
    write_vision_tokenizer(tmp_path, 400)
    theirs, tiling = configured("idefics3")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    processor = Idefics3Processor(theirs, tokenizer, image_seq_len=5)
    ours = read_directory_tokenizer(tmp_path)
    text = f"User: {IMAGE} and{IMAGE}\nWhat\n\n are these?<end_of_utterance>\nAssistant:"
    for sizes in (SIZES[:2], SIZES[3:5], SIZES[6:8]):
        images = [picture(*size) for size in sizes]
        expected = processor(text=text, images=[images])["input_ids"][0]
        first, between, last = text.split(IMAGE)
        grids = [tiling.cut(image)[1] for image in images]
        whole = first + TILES.expansion(grids[0], 5) + between + TILES.expansion(grids[1], 5) + last
        ids = ours.encode_prompt(whole, add_bos=False)
        assert ids == expected
        assert ids.count(ours.encode_prompt(IMAGE, add_bos=False)[0]) == 5 * sum(grid.tiles for grid in grids)
    assert all(len(ours.encode_prompt(token, add_bos=False)) == 1 for token in IMAGE_TOKENS)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_convert_rgb": True},
    ],
)
def test_pixels_of_gemma(more: dict[str, Any]) -> None:
    theirs = Gemma3ImageProcessorPil(**{"size": {"height": 64, "width": 64}, **more})
    whole = Whole.read(json.loads(theirs.to_json_string()), "preprocessor_config.json")
    for seed, (width, height) in enumerate(SIZES):
        image = picture(width, height, seed)
        expected = theirs(images=[[image]], return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        tiles, grid = whole.cut(decode(encoded(image), 1 << 20, "x"))
        assert (grid.tiles, tiles.shape) == (1, expected.shape)
        np.testing.assert_array_equal(whole.normalized(tiles), expected)


def test_prompts_of_gemma(tmp_path: Path) -> None:
    write_gemma_tokenizer(tmp_path)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        extra_special_tokens={
            "image_token": SOFT_TOKENS.place,
            "boi_token": SOFT_TOKENS.mark,
            "eoi_token": "<end_of_image>",
        },
    )
    theirs = Gemma3ImageProcessorPil(size={"height": 64, "width": 64})
    processor = Gemma3Processor(theirs, tokenizer, image_seq_length=5)
    whole = Whole.read(json.loads(theirs.to_json_string()), "preprocessor_config.json")
    ours = read_directory_tokenizer(tmp_path)
    mark = SOFT_TOKENS.mark
    text = f"<start_of_turn>user\nLook: {mark}{mark} and\n\n{mark}What?<end_of_turn>\n<start_of_turn>model\n"
    images = [picture(*size) for size in SIZES[:3]]
    expected = processor(text=text, images=[images], return_tensors="np")["input_ids"][0].tolist()
    around = text.split(mark)
    shown = [SOFT_TOKENS.expansion(whole.cut(image)[1], 5) for image in images]
    prompt = around[0] + "".join(a + b for a, b in zip(shown, around[1:], strict=True))
    assert ours.encode_prompt(prompt, add_bos=False) == expected


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"min_pixels": 3136, "max_pixels": 784 * MOST_ROWS},
        {"size": {"shortest_edge": 65536, "longest_edge": 1 << 18}, "patch_size": 16},
        {
            "size": {"shortest_edge": 784, "longest_edge": 784 * 200},
            "resample": 2,
            "image_mean": [0.1, 0.2, 0.3],
        },
    ],
)
def test_pixels_of_qwen(more: dict[str, Any]) -> None:
    """As its own patches: the order of ours is the encoder's business."""
    theirs = Qwen2VLImageProcessorPil(**more)
    shown = AnySize.read(json.loads(theirs.to_json_string()), "preprocessor_config.json")
    for seed, (width, height) in enumerate([*SIZES, (1500, 900), (10, 1990), (31, 29)]):
        image = picture(width, height, seed)
        out = theirs(images=[image], return_tensors="np")
        tiles, grid = shown.cut(decode(encoded(image), 1 << 21, "x"))
        patch = shown.patch
        assert out["image_grid_thw"].tolist() == [[1, grid.height // patch, grid.width // patch]]
        pixels = shown.normalized(tiles)[0]
        patches, _, _ = theirs.patchify(pixels.transpose(2, 0, 1), patch, shown.side, shown.frames)
        np.testing.assert_array_equal(patches, out["pixel_values"])

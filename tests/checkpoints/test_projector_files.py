"""Projector files: which one belongs to a model, what it says, and what is wrong with one that is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_pairs import write_pair, write_projector, write_text
from tiny_gemma import write_tiny_gemma
from tiny_models import write_tiny_llama
from tiny_vision import write_tiny_smolvlm

from llm_serving.architectures import describe, projector_kind, with_projector
from llm_serving.backends.sight import check_sight
from llm_serving.checkpoints import Checkpoint, find_projector, open_checkpoint, read_image_processor
from llm_serving.errors import CheckpointError

WRITERS: dict[str, Callable[[Path], Path]] = {"gemma3": write_tiny_gemma, "idefics3": write_tiny_smolvlm}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def texts(directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("texts")
    return {name: open_checkpoint(write_text(folder / f"{name}.gguf", directories[name])) for name in WRITERS}


@pytest.mark.parametrize(
    ("files", "model", "found"),
    [
        ([], "a.gguf", None),
        (["mmproj-b-f16.gguf"], "a.gguf", "mmproj-b-f16.gguf"),
        (["mmproj-b.gguf", "mmproj-a.gguf"], "a-Q4_K_M.gguf", "mmproj-a.gguf"),
        (["a.mmproj-f16.gguf", "ab-mmproj.gguf"], "a-UD-Q4_K_XL.gguf", "a.mmproj-f16.gguf"),
        (["mmproj-A_1-Q8_0.gguf", "mmproj-A_1-f16.gguf"], "a-1-Q8_0.gguf", "mmproj-A_1-Q8_0.gguf"),
        (["mmproj-a-BF16.gguf", "mmproj-b.gguf"], "a-IQ4_XS-00001-of-00002.gguf", "mmproj-a-BF16.gguf"),
        (["mmproj-a.txt", "amm.gguf"], "a.gguf", None),
        (["mmproj-a.gguf", "MMPROJ-b.gguf"], "b.gguf", "MMPROJ-b.gguf"),
        (["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "a-Q4_0.gguf", "mmproj-F16.gguf"),
        (["mmproj-a-BF16.gguf", "mmproj-a-Q8_0.gguf"], "a-Q4_0.gguf", "mmproj-a-BF16.gguf"),
        (["mmproj-F16.gguf"], "Q4_K_M/a-Q4_K_M-00001-of-00002.gguf", "mmproj-F16.gguf"),
        (["mmproj-F16.gguf"], "other/a-Q4_K_M.gguf", None),
    ],
)
def test_which_file_belongs_to_a_model(
    files: list[str], model: str, found: str | None, tmp_path: Path
) -> None:
    for name in [*files, model]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    path = find_projector(tmp_path / model)
    assert (path.name if path else None) == found


@pytest.mark.parametrize(
    "names", [("mmproj-b.gguf", "mmproj-c.gguf"), ("mmproj-a-f16.gguf", "mmproj-a.gguf")]
)
def test_several_files_that_fit_alike(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"holds 2 projector files \(mmproj-"):
        find_projector(tmp_path / "a-Q4_0.gguf")


def test_a_folder_with_a_projector_holds_one_model(directories: dict[str, Path], tmp_path: Path) -> None:
    text, projector = write_pair(tmp_path, directories["gemma3"])
    assert open_checkpoint(tmp_path).path == str(text)
    text.unlink()
    with pytest.raises(CheckpointError, match=r"mmproj-model.gguf' is a projector.*Serve the model"):
        describe(open_checkpoint(tmp_path))
    assert open_checkpoint(projector).architecture == "clip"


def test_whose_family_has_a_projector(texts: dict[str, Checkpoint], tmp_path: Path) -> None:
    assert {name: projector_kind(text) for name, text in texts.items()} == {name: name for name in WRITERS}
    assert projector_kind(open_checkpoint(write_tiny_llama(tmp_path / "llama.gguf"))) is None
    assert projector_kind(replace(texts["gemma3"], format="huggingface")) is None


def test_how_pictures_are_prepared(
    directories: dict[str, Path], texts: dict[str, Checkpoint], tmp_path: Path
) -> None:
    keys = {"vision.image_mean": [0.1, 0.2, 0.25], "vision.image_std": None}
    for name, text in texts.items():
        file = open_checkpoint(write_projector(tmp_path / f"{name}.gguf", directories[name], keys=keys))
        found = read_image_processor(with_projector(text, file).projector or text)
        assert found is not None
        settings, where, _ = found
        assert where == file.path
        np.testing.assert_allclose(settings["image_mean"], [0.1, 0.2, 0.25], rtol=1e-6)
        assert settings["image_std"] == [0.5, 0.5, 0.5]
    assert settings["size"] == {"longest_edge": 64}
    assert settings["max_image_size"] == {"longest_edge": 32}
    keys = {"vision.preproc_image_size": None}
    file = open_checkpoint(write_projector(tmp_path / "older.gguf", directories["idefics3"], keys=keys))
    seeing = with_projector(texts["idefics3"], file).projector
    assert seeing is not None
    assert seeing.extras["image_processor"]["size"] == {"longest_edge": 128}, "four tiles a side"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "gemma3",
        {"keys": {"projector_type": "mlp"}},
        "of the type 'mlp', which is not run; gemma3, gemma4v, idefics3",
    ),
    ("gemma3", {"keys": {"projector_type": None}}, "of the type 'None'"),
    ("gemma3", {"keys": {"projector_type": 7}}, "of the type '7'"),
    ("gemma3", {"keys": {"projector_type": "idefics3"}}, "'idefics3', and 'gemma3.gguf' takes 'gemma3'"),
    ("gemma3", {"keys": {"use_gelu": None}}, "'clip.use_gelu' in .* is None; true is needed"),
    ("gemma3", {"keys": {"vision.projection_dim": 128}}, "rows of 128 numbers, and 'gemma3.gguf' takes 64"),
    ("gemma3", {"keys": {"vision.image_size": 8192}}, "image_size' in .* is 8192; up to 4096"),
    (
        "gemma3",
        {"keys": {"vision.image_size": 64}},
        r"'v.position_embd.weight' .* \(64, 32\), .* \(256, 32\)",
    ),
    ("gemma3", {"keys": {"vision.patch_size": 33}}, "patch_size' in .* is 33; up to 32"),
    ("gemma3", {"keys": {"vision.patch_size": 0}}, "patch_size' in .* is 0; a positive integer"),
    ("gemma3", {"keys": {"vision.block_count": 1 << 30}}, "block_count' in .* is 1073741824; up to"),
    ("gemma3", {"keys": {"vision.block_count": 1}}, "nothing here computes with: v.blk.1."),
    ("gemma3", {"keys": {"vision.block_count": 3}}, "no tensor 'v.blk.2.attn_q.weight'"),
    ("gemma3", {"keys": {"vision.embedding_length": "x"}}, "embedding_length' in .* is 'x'"),
    ("gemma3", {"keys": {"vision.attention.head_count": 5}}, "5 heads over 32 dimensions"),
    ("gemma3", {"keys": {"vision.projector.scale_factor": 3}}, "scale_factor' in .* is 3; 8 patches a side"),
    ("gemma3", {"keys": {"vision.image_mean": [0.5, 0.5]}}, "image_mean' in .* three numbers"),
    ("gemma3", {"keys": {"vision.image_std": [0.5, 0.0, 0.5]}}, "'image_std' must not be 0"),
    ("gemma3", {"tensors": {"v.post_ln.bias": None}}, "no tensor 'v.post_ln.bias'"),
    ("gemma3", {"tensors": {"v.patch_embd.weight": np.zeros((32, 48), np.float32)}}, "v.patch_embd.weight"),
    ("gemma3", {"tensors": {"v.class_embd": np.zeros(32, np.float32)}}, "computes with: v.class_embd"),
    (
        "idefics3",
        {"tensors": {"mm.model.fc.weight": np.zeros((64, 64), np.float32)}},
        r"keys mean \(64, 128\)",
    ),
    ("idefics3", {"keys": {"vision.projector.scale_factor": None}}, "scale_factor' in .* is None"),
    ("idefics3", {"keys": {"vision.preproc_image_size": 5000}}, "preproc_image_size' in .* up to 4096"),
]


@pytest.mark.parametrize(("name", "changes", "message"), WRONG)
def test_what_does_not_fit_is_named(
    name: str,
    changes: dict[str, Any],
    message: str,
    directories: dict[str, Path],
    texts: dict[str, Checkpoint],
    tmp_path: Path,
) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", directories[name], **changes)
    with pytest.raises(CheckpointError, match=message):
        check_sight(with_projector(texts[name], open_checkpoint(path)))


def test_what_is_no_projector(
    directories: dict[str, Path], texts: dict[str, Checkpoint], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="a model of the family 'llama' and no projector"):
        with_projector(texts["gemma3"], texts["idefics3"])
    file = open_checkpoint(write_projector(tmp_path / "mmproj.gguf", directories["gemma3"]))
    with pytest.raises(CheckpointError, match="is a directory, which has its own vision part"):
        with_projector(open_checkpoint(directories["gemma3"]), file)
    with pytest.raises(CheckpointError, match="of the family 'llama' takes none"):
        with_projector(open_checkpoint(write_tiny_llama(tmp_path / "llama.gguf")), file)


def test_a_file_that_was_cut_short(directories: dict[str, Path], tmp_path: Path) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", directories["gemma3"])
    whole = path.read_bytes()
    for size in (3, 20, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"mmproj.gguf: at byte"):
            open_checkpoint(path)

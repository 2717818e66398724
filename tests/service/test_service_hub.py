"""Names on the Hugging Face hub, from its cache on this machine; no test has a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
from tiny_adapters import write_adapter
from tiny_decoder_directories import write_directory
from tiny_models import write_tiny_qwen3

from llm_serving.backends import transformers_backend
from llm_serving.checkpoints import open_checkpoint
from llm_serving.config import Settings
from llm_serving.errors import CheckpointError, DownloadError, ModelNotFound
from llm_serving.service.adapters import find_adapters, named_adapters
from llm_serving.service.loader import fingerprint, load_chat_model

COMMIT = "0" * 40

pytestmark = pytest.mark.slow


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a model's folder in the cache, as the hub's own library lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(transformers_backend, "_missing", lambda: ["torch", "transformers"])

    def make(name: str) -> Path:
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        directory = folder / "snapshots" / COMMIT
        directory.mkdir(parents=True)
        return directory

    return make


def settings(name: str, tmp_path: Path, **more: Any) -> Settings:
    return Settings(model_name=name, threads=1, embedding_model="", cache_dir=tmp_path / "cache", **more)


def test_a_decoder_of_the_hub_runs_without_torch(on_the_hub: Callable[[str], Path], tmp_path: Path) -> None:
    write_directory(on_the_hub("owner/tiny-qwen3"), write_tiny_qwen3(tmp_path / "m.gguf", kind="F32"))
    model = load_chat_model(settings("owner/tiny-qwen3", tmp_path))
    asyncio.run(model.engine.close())
    assert (model.name, model.details["engine"]) == ("owner/tiny-qwen3", "native")
    assert model.template is not None


def test_a_gguf_file_of_the_hub_is_served_by_the_name(
    on_the_hub: Callable[[str], Path], tmp_path: Path
) -> None:
    snapshot = on_the_hub("owner/tiny-GGUF")
    write_tiny_qwen3(snapshot / "tiny-Q8_0.gguf")
    (snapshot / "tiny-Q4_K_M.gguf").write_bytes(b"damaged")
    model = load_chat_model(settings("hf.co/owner/tiny-GGUF:Q8_0", tmp_path))
    asyncio.run(model.engine.close())
    assert (model.name, model.details["engine"]) == ("owner/tiny-GGUF:Q8_0", "native")
    with pytest.raises(CheckpointError, match=r"tiny-Q4_K_M\.gguf"):
        load_chat_model(settings("owner/tiny-GGUF", tmp_path))
    with pytest.raises(DownloadError, match="here are only Q4_K_M, Q8_0"):
        load_chat_model(settings("owner/tiny-GGUF:Q2_K", tmp_path))


def test_an_adapter_of_the_hub_is_one_of_the_model(on_the_hub: Callable[[str], Path], tmp_path: Path) -> None:
    path = write_tiny_qwen3(tmp_path / "m.gguf")
    here = write_adapter(tmp_path / "a", open_checkpoint(str(path)))
    there = on_the_hub("owner/pirate")
    for file in here.iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    lora = ("near=" + str(here), "far=https://huggingface.co/owner/pirate")
    both = settings(str(path), tmp_path, lora=lora)
    model = load_chat_model(both)
    asyncio.run(model.engine.close())
    assert len(model.adapters) == 2
    assert model.engine._core.limits.adapters[0] == model.engine._core.limits.adapters[1], (
        "it is the same one"
    )
    assert [adapter.root for adapter in named_adapters(both)] == ["a", "owner/pirate"]
    for source, error, message in (
        ("owner/none", DownloadError, "'owner/none' is not on this machine"),
        ("owner/pirate:x", ModelNotFound, "An adapter is all of a repository"),
        (str(tmp_path / "nowhere"), ModelNotFound, "There is no such directory"),
    ):
        with pytest.raises(error, match=message):
            load_chat_model(settings(str(path), tmp_path, lora=(f"x={source}",)))
    with pytest.raises(ModelNotFound, match="is a low-rank adapter.*--lora NAME=owner/pirate"):
        load_chat_model(settings("owner/pirate", tmp_path))
    (there / "adapter_model.safetensors").unlink()
    with pytest.raises(DownloadError, match="its files are missing"):
        find_adapters(both)


def test_other_files_in_a_directory_are_another_fingerprint(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "d", write_tiny_qwen3(tmp_path / "m.gguf", kind="F32"))
    before = fingerprint(directory, Settings())
    assert fingerprint(directory, Settings()) == before
    (directory / "model.safetensors").write_bytes(b"other")
    assert fingerprint(directory, Settings()) != before


def test_another_family_is_refused_before_its_weights_are_fetched(
    on_the_hub: Callable[[str], Path], tmp_path: Path
) -> None:
    (on_the_hub("owner/xlnet") / "config.json").write_text(json.dumps({"model_type": "xlnet"}))
    with pytest.raises(
        CheckpointError, match=r"'xlnet' of 'owner/xlnet'.*pip install 'llm-serving\[transformers\]'"
    ):
        load_chat_model(settings("owner/xlnet", tmp_path))


def test_names_that_are_nowhere(on_the_hub: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="llm-serving models pull owner/none"):
        load_chat_model(settings("owner/none", tmp_path))
    for name in ("no-such-model", "owner/none.gguf", "a/b/c"):
        with pytest.raises(ModelNotFound):
            load_chat_model(settings(name, tmp_path))

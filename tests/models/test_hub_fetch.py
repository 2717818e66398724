"""Names on the hub over a socket, with the hub's own library and the command that fetches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_hub import TinyHub, serve_hub
from tiny_models import write_tiny_qwen3

from llm_serving.checkpoints import open_checkpoint

pytestmark = pytest.mark.slow

Models = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[TinyHub]:
    model = write_tiny_qwen3(tmp_path / "m.gguf", kind="F32").read_bytes()
    ggufs = {
        "README.md": b"#",
        "m-Q4_K_M.gguf": model,
        "m-Q8_0.gguf": model + bytes(32),
        "mmproj-F16.gguf": b"p",
    }
    directory = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": b"w", "old.bin": b"pickle"}
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a", "tokenizer.json": b"{}"}
    with serve_hub({"o/m-GGUF": ggufs, "o/m": directory, "o/a": adapter}) as hub:
        yield hub


@pytest.fixture
def models(hub: TinyHub, tmp_path: Path) -> Models:
    """Run `llm-serving models …`, in a process of its own: the library reads addresses when imported."""
    places = {"HF_HOME": str(tmp_path / "hf"), "LLM_SERVING_CACHE": str(tmp_path)}
    environment = os.environ | {"HF_ENDPOINT": hub.url} | places
    environment.pop("HF_HUB_OFFLINE", None)

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llm_serving.cli", "models", *arguments]
        return subprocess.run(
            command, env=environment | more, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_a_gguf_file_is_fetched_listed_and_removed(hub: TinyHub, models: Models) -> None:
    pulled = models("pull", "o/m-GGUF", "--json")
    (facts,) = [json.loads(pulled.stdout)]
    assert facts["name"] == "o/m-GGUF:Q4_K_M"
    assert open_checkpoint(facts["path"]).architecture == "qwen3"
    assert sorted(hub.fetched) == ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]
    assert "Downloading o/m-GGUF" in pulled.stderr
    hub.fetched.clear()
    models("pull", "hf.co/o/m-GGUF:q8_0")
    assert hub.fetched == ["m-Q8_0.gguf"]
    names = [model["name"] for model in json.loads(models("list", "--json").stdout)]
    assert names[-2:] == ["o/m-GGUF:Q4_K_M", "o/m-GGUF:Q8_0"]
    again = models("pull", "o/m-GGUF", HF_ENDPOINT="http://127.0.0.1:1")
    assert (again.returncode, str(facts["path"]) in again.stdout) == (0, True)
    assert "o/m-GGUF:Q8_0 is deleted" in models("rm", "o/m-GGUF:Q8_0", "--yes").stdout
    assert Path(facts["path"]).exists()
    assert "It is not in" in models("rm", "o/m-GGUF@v9", "--yes").stderr
    assert "o/m-GGUF is deleted" in models("rm", "o/m-GGUF", "--yes").stdout
    assert not Path(facts["path"]).exists()
    gone = models("pull", "o/m-GGUF", HF_HUB_OFFLINE="1")
    assert gone.returncode == 2
    assert "is not on this machine" in gone.stderr


def test_a_directory_is_fetched_without_its_pickles(hub: TinyHub, models: Models) -> None:
    assert json.loads(models("pull", "o/m", "--json").stdout)["name"] == "o/m"
    assert sorted(hub.fetched) == ["config.json", "model.safetensors"]
    assert "o/m" in models("show", "o/m").stdout


def test_an_adapter_is_fetched_and_is_no_model(hub: TinyHub, models: Models) -> None:
    facts = json.loads(models("pull", "hf.co/o/a", "--json").stdout)
    assert (facts["name"], facts["size"]) == ("o/a", 3)
    assert sorted(hub.fetched) == ["adapter_config.json", "adapter_model.safetensors"]


def test_what_the_hub_does_not_have(models: Models) -> None:
    for name, message in (
        ("o/none", "does not know it, or it is private"),
        ("o/m-GGUF@v9", "has no revision 'v9'"),
        ("o/m-GGUF:Q2_K", "has Q4_K_M, Q8_0. Name one of them: o/m-GGUF:Q4_K_M"),
    ):
        failed = models("pull", name)
        assert (failed.returncode, message in failed.stderr, failed.stderr.count("\n")) == (2, True, 1), (
            failed
        )
    for command in ("show", "rm"):
        assert "It is not in" in models(command, "o/m").stderr

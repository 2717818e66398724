"""Fetches from the hub that end in the middle, and those that come after them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from patience import PATIENCE_S, wait_until
from tiny_hub import TinyHub, serve_hub

from llm_serving.models import list_hub_models
from llm_serving.models.hub_download import remove_leftovers

pytestmark = pytest.mark.slow

PARTS = {f"m-Q4_K_M-0000{i}-of-00003.gguf": bytes([i]) * (1000 if i == 1 else 4 << 20) for i in (1, 2, 3)}
SECOND, THIRD = list(PARTS)[1:]
PULL = [sys.executable, "-m", "llm_serving.cli", "models", "pull", "o/m-GGUF", "--json"]


@pytest.fixture
def hub() -> Iterator[TinyHub]:
    with serve_hub({"o/m-GGUF": PARTS}) as hub:
        yield hub


@pytest.fixture
def environment(hub: TinyHub, tmp_path: Path) -> dict[str, str]:
    places = {"HF_HOME": str(tmp_path / "hf"), "LLM_SERVING_CACHE": str(tmp_path)}
    known = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return known | {"HF_ENDPOINT": hub.url} | places


def blobs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "hf/hub/models--o--m-GGUF/blobs").iterdir())


def left_behind(tmp_path: Path) -> list[Path]:
    return [file for file in blobs(tmp_path) if file.suffix == ".incomplete"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_next_one_fetches_what_is_missing(
    hub: TinyHub,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: signal.Signals,
) -> None:
    hub.held |= {SECOND, THIRD}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    with subprocess.Popen(PULL, env=environment, stderr=subprocess.PIPE, text=True) as process:
        # The first part is there, and the others have begun.
        wait_until(lambda: len(hub.fetched) == 3)
        wait_until(lambda: len(blobs(tmp_path)) - len(left_behind(tmp_path)) == 1)
        process.send_signal(end)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert not hub.release.is_set(), "it did not wait for its files"
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[end]
    assert "Traceback" not in errors
    assert list_hub_models() == [], "what is not whole is not here"
    hub.fetched.clear()
    hub.held.clear()
    for file in left_behind(tmp_path):
        os.utime(file, (0, 0))  # nobody has written to it for long
    again = subprocess.run(PULL, env=environment, capture_output=True, timeout=PATIENCE_S, check=True)
    path = Path(json.loads(again.stdout)["path"])
    assert sorted(hub.fetched) == [SECOND, THIRD]
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == PARTS
    assert left_behind(tmp_path) == []


def test_what_others_are_fetching_is_left_to_them(tmp_path: Path) -> None:
    for name in ("here", "here.1.incomplete", "here.2.incomplete", "coming.3.incomplete"):
        (tmp_path / name).touch()
    for name in ("here.1.incomplete", "coming.3.incomplete"):
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "coming.3.incomplete",
        "here",
        "here.2.incomplete",
    ]

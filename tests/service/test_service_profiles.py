"""What lists tell of models that are not loaded: by their files, or as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_server import open_client
from patience import until
from several_models import MIB, Zoo, ask, opened, slot_of, states
from tiny_models import write_tiny_llama

from llm_serving.config import Settings
from llm_serving.service.loader import load_chat_model
from llm_serving.service.measuring import read_profile

pytestmark = pytest.mark.anyio


async def test_a_further_model_is_described_before_it_is_loaded(tmp_path: Path) -> None:
    paths = [str(write_tiny_llama(tmp_path / f"{name}.gguf")) for name in ("one", "two")]
    settings: dict[str, Any] = {
        "model_name": paths[0],
        "further_models": (paths[1],),
        "embedding_model": "",
        "engine": "auto",
        "cache_dir": tmp_path,
        "threads": 1,
    }
    async with open_client(load_chat_model, **settings) as client:
        await until(lambda: slot_of(client, "two").profile)
        loaded, known = (await client.get("/models")).json()["data"]
        assert (loaded["state"], known["state"]) == ("loaded", "available")
        for fact in ("context_length", "architecture"):
            assert known[fact] == loaded[fact]
        assert known["context_length"] == 256
        tags = (await client.get("/api/tags")).json()["models"]
        assert [tag["size"] for tag in tags] == [Path(path).stat().st_size for path in paths]
        assert tags[1]["details"] == tags[0]["details"]
        told = (await client.post("/api/show", json={"model": "two"})).json()["model_info"]
        assert told["llama.context_length"] == 256
        assert (await client.get("/api/ps")).json()["models"][0]["name"] == "one:latest"
        assert slot_of(client, "two").model is None


async def test_what_was_known_of_a_model_stays_when_it_leaves() -> None:
    zoo = Zoo({"fake": 100, "one": 100, "fake-embed": 60})
    async with opened(zoo, "one", memory=210 * MIB) as client:
        before = (await client.get("/models/fake-embed")).json()
        assert before["dimensions"]
        assert (await ask(client, "one")).status_code == 200
        assert await states(client, "embedding") == {"fake-embed": "available"}
        after = (await client.get("/models/fake-embed")).json()
        for fact in ("context_length", "dimensions"):
            assert after[fact] == before[fact]


def test_a_context_that_was_asked_for_is_the_one_that_is_told(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    for asked, told in ((0, 256), (100, 100), (9999, 256)):
        profile = read_profile(Settings(model_name=str(path), context_length=asked))
        assert profile is not None
        assert profile.context_length == told


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "owner/model", "absent.gguf", "damaged.gguf"])
def test_nothing_is_told_and_nothing_fetched_of_what_is_not_here(tmp_path: Path, name: str) -> None:
    damaged = write_tiny_llama(tmp_path / "damaged.gguf")
    damaged.write_bytes(damaged.read_bytes()[:200])
    name = str(damaged) if name == damaged.name else name
    cache = tmp_path / "cache"
    assert read_profile(Settings(model_name=name, cache_dir=cache)) is None
    assert not list(cache.glob("models/*"))
